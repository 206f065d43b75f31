// A checkpoint as a model sees it: linears by their logical shape, however they are stored.

import {
  type Checkpoint,
  castFloat,
  type DType,
  type Entries,
  type Format,
  fitInputs,
  type HostTensor,
  type LinearSite,
  type ModelAdapter,
  type QuantizedTensor,
  type TensorSpec,
} from '@lowbit/core';

export interface LogicalModel {
  readonly sites: readonly LinearSite[];
  /** By published name; a quantized linear appears as `${path}.weight` of its logical shape, so an adapter needs to know no layout. */
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
    if (stored) entries.set(`${site.path}.weight`, { dtype: 'f32', shape: fitInputs(stored, site.shape).shape });
  }
  return { sites, entries };
}

/** The weight of a linear with the in_features of the model. */
export async function readLinear(
  checkpoint: Checkpoint,
  { path, shape }: Pick<LinearSite, 'path' | 'shape'>,
  signal?: AbortSignal,
): Promise<QuantizedTensor> {
  return fitInputs(await checkpoint.linear(path, { signal }), shape);
}

/** Reads a small tensor by its published name, wherever the layout keeps it. */
export function readLogical(checkpoint: Checkpoint, name: string, signal?: AbortSignal): Promise<HostTensor> {
  const path = name.endsWith('.bias') ? name.slice(0, -'.bias'.length) : '';
  return checkpoint.tensor(checkpoint.quantized.get(path)?.bias ?? name, { signal });
}

/** The format that a linear has after `castDense`, known without reading it. */
export function storedFormat(checkpoint: Checkpoint, path: string, dtype: DType | undefined): Format {
  const quantized = checkpoint.quantized.get(path);
  if (quantized && quantized.format.kind !== 'dense') return quantized.format;
  return { kind: 'dense', dtype: dtype ?? checkpoint.source.entries.get(`${path}.weight`)?.dtype ?? 'f32' };
}

/** A dense weight in another float dtype; quantized ones stay as they are. */
export function castDense(weight: QuantizedTensor, dtype: DType | undefined): QuantizedTensor {
  const values = weight.parts.weight;
  if (dtype === undefined || weight.format.kind !== 'dense' || !values || values.dtype === dtype) return weight;
  return { ...weight, format: { kind: 'dense', dtype }, parts: { weight: castFloat(values, dtype) } };
}
