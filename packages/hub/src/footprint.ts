// How much memory the parameters of a checkpoint take, as Python users know the figure.

import { byteLength, type Checkpoint } from '@lowbit/core';

/**
 * Bytes of the parameters as transformers' `get_memory_footprint(return_buffers=False)` counts them for a model loaded in the dtypes of its files:
 * packed weights by their bytes, scales, zeros, maps and other side tensors of quantized layers not at all. `LoadedProgram.memory` tells what a
 * backend really holds.
 */
export function memoryFootprint({ source, quantized }: Pick<Checkpoint, 'source' | 'quantized'>): number {
  const counted = new Set<string>();
  for (const { parts, bias } of quantized.values()) {
    if (parts.codes !== undefined) counted.add(parts.codes);
    if (bias !== undefined) counted.add(bias);
  }
  let bytes = 0;
  for (const [name, spec] of source.entries) if (counted.has(name) || !ofQuantized(name, quantized)) bytes += byteLength(spec);
  return bytes;
}

/** Whether a tensor belongs to a quantized layer: `layer.scale`, `layer.weight.absmax`. */
function ofQuantized(name: string, quantized: Checkpoint['quantized']): boolean {
  for (let end = name.lastIndexOf('.'); end > 0; end = name.lastIndexOf('.', end - 1)) if (quantized.has(name.slice(0, end))) return true;
  return false;
}
