// What a quantized linear takes in files: its codes, scales and tables as a layout stores them, which may be in another dtype than in memory, or twice.

import type { CheckpointLayout, CodecOptions, LayoutOptions, QuantizedSite } from '@lowbit/core';
import { byteLength, codecFor } from '@lowbit/core';
import { type CheckpointPlan, originOf, type PlannedTensor } from './plan-tensors.ts';

/**
 * Bytes of a linear's numbers in a layout: codes, scales, zeros, tables and padding. Settings that files repeat for each linear (constants of the layout)
 * do not count, and numbers in a text count as numbers. Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold.
 */
export function linearBytes(linear: QuantizedSite, layout: CheckpointLayout, options: LayoutOptions & CodecOptions): number {
  const { codecs, ...rest } = options;
  const parts = codecFor(linear.format, codecs).parts(linear.format, linear.site.shape);
  return layout
    .tensors(linear, rest)
    .reduce((sum, tensor) => sum + numberBytes({ spec: tensor.spec, origin: originOf(layout, linear, parts, tensor) }), 0);
}

/** The same for the linears of a plan, by path. */
export function plannedBytes({ tensors }: Pick<CheckpointPlan, 'tensors'>): ReadonlyMap<string, number> {
  const bytes = new Map<string, number>();
  for (const tensor of tensors.values()) {
    const { origin } = tensor;
    if (origin.kind !== 'copy') bytes.set(origin.path, (bytes.get(origin.path) ?? 0) + numberBytes(tensor));
  }
  return bytes;
}

function numberBytes({ spec, origin }: PlannedTensor): number {
  if (origin.kind === 'constant' || origin.kind === 'copy') return 0;
  if (origin.kind === 'part' || origin.exact) return byteLength(spec);
  return Object.values(origin.parts).reduce((sum, part) => sum + byteLength(part), 0);
}
