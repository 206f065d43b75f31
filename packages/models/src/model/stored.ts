// A checkpoint as a model sees it: linears by their logical shape, however they are stored.

import {
  type Checkpoint,
  castFloat,
  type DType,
  type Entries,
  elementCount,
  type Format,
  fitInputs,
  type HostTensor,
  type LinearSite,
  type LinearUse,
  LowbitError,
  type ModelAdapter,
  type QuantizedTensor,
  siteTensor,
  type TensorSpec,
} from '@lowbit/core';
import { readSite } from './read-site.ts';

export interface LogicalModel {
  readonly sites: readonly LinearSite[];
  /**
   * By published name; a quantized linear appears as `${path}.weight` with the shape that it would have unquantized, so an adapter needs to know no layout.
   */
  readonly entries: Entries;
}

/** The linears and tensors of a checkpoint. Layers whose files only know rows that were filled up have the in_features of the model. */
export function logicalModel(checkpoint: Checkpoint, adapter: ModelAdapter): LogicalModel {
  const entries = new Map<string, TensorSpec>(checkpoint.source.entries);
  for (const [path, { shape, bias }] of checkpoint.quantized) {
    entries.set(`${path}.weight`, { dtype: 'f32', shape });
    const stored = bias === undefined ? undefined : checkpoint.source.entries.get(bias);
    if (stored) entries.set(`${path}.bias`, stored);
  }
  const sites = adapter.linears(checkpoint.config, entries);
  for (const site of sites) {
    const stored = checkpoint.quantized.get(site.path);
    if (!stored) continue;
    const { shape } = fitInputs(stored, site.shape);
    entries.set(`${site.path}.weight`, { dtype: 'f32', shape: site.transposed ? shape.toReversed() : shape });
  }
  return { sites, entries };
}

/** Weights of a model's program by the path of their linear: as [out, in] with the in_features of the model, however they are stored. */
export type ReadWeight = (use: Pick<LinearUse, 'path' | 'shape'>, signal?: AbortSignal) => Promise<QuantizedTensor>;

export function weightReader(checkpoint: Checkpoint, { sites, entries }: LogicalModel): ReadWeight {
  const byPath = new Map(sites.map((site) => [site.path, site]));
  return async (use, signal) => {
    const site = byPath.get(use.path);
    if (site || (entries.get(`${use.path}.weight`)?.shape.length ?? 2) === 2) return readSite(checkpoint, site ?? use, { signal });
    // A convolution whose stride is its size is a linear layer of what it covers: its axes but the first are those of a row.
    const { dtype, shape, data } = await checkpoint.tensor(`${use.path}.weight`, { signal });
    if (shape[0] !== use.shape[0] || elementCount(shape) !== elementCount(use.shape)) {
      throw new LowbitError(
        'ERR_TENSOR_MISMATCH',
        `${use.path}.weight is [${shape.join(', ')}], expected ${elementCount(use.shape)} numbers`,
      );
    }
    return { format: { kind: 'dense', dtype }, shape: use.shape, parts: { weight: { dtype, shape: use.shape, data } } };
  };
}

/** Reads a small tensor by its published name, wherever the layout keeps it. */
export function readLogical(checkpoint: Checkpoint, name: string, signal?: AbortSignal): Promise<HostTensor> {
  const path = name.endsWith('.bias') ? name.slice(0, -'.bias'.length) : '';
  return checkpoint.tensor(checkpoint.quantized.get(path)?.bias ?? name, { signal });
}

/** The formats that the linears of a program have after `castDense`, known without reading them. */
export function storedFormats(
  checkpoint: Checkpoint,
  { sites }: LogicalModel,
  linears: readonly LinearUse[],
  dtype: DType | undefined,
): readonly Format[] {
  const byPath = new Map(sites.map((site) => [site.path, site]));
  return linears.map((use): Format => {
    const quantized = checkpoint.quantized.get(use.path);
    if (quantized && quantized.format.kind !== 'dense') return quantized.format;
    const { name } = siteTensor(byPath.get(use.path) ?? use);
    return { kind: 'dense', dtype: dtype ?? checkpoint.source.entries.get(name)?.dtype ?? 'f32' };
  });
}

/** A dense weight in another float dtype; quantized ones stay as they are. */
export function castDense(weight: QuantizedTensor, dtype: DType | undefined): QuantizedTensor {
  const values = weight.parts.weight;
  if (dtype === undefined || weight.format.kind !== 'dense' || !values || values.dtype === dtype) return weight;
  return { ...weight, format: { kind: 'dense', dtype }, parts: { weight: castFloat(values, dtype) } };
}
