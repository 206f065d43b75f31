// A checkpoint as a model sees it: linears by their logical shape, however they are stored.

import {
  type Checkpoint,
  castFloat,
  type DType,
  type Entries,
  type Format,
  type HostTensor,
  type QuantizedTensor,
  type TensorSpec,
} from '@lowbit/core';

/** Entries by published name; a quantized linear appears as `${path}.weight` of its logical shape, so an adapter needs to know no layout. */
export function logicalEntries(checkpoint: Checkpoint): Entries {
  const entries = new Map<string, TensorSpec>(checkpoint.source.entries);
  for (const [path, { shape, bias }] of checkpoint.quantized) {
    entries.set(`${path}.weight`, { dtype: 'f32', shape });
    const stored = bias === undefined ? undefined : checkpoint.source.entries.get(bias);
    if (stored) entries.set(`${path}.bias`, stored);
  }
  return entries;
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
