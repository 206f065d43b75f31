// Gaussian noise on a weight, of a stated size and the same at every run: what stands in for a quantizer's error when sensitivities are measured.

import { type HostTensor, hostTensor, toFloat32 } from '@lowbit/core';
import { createRandom } from '../sampling/random.ts';

/** A seed from a text: FNV-1a, 32 bits. */
function seedOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/**
 * `weight` + G t ||weight|| / sqrt(d) as f32, G independent N(0, 1): its expected squared error is `error` = t^2 of the weight's square sum. The numbers
 * follow from `key` alone, so neither the order of layers nor the number of threads changes them. Box and Muller's method on xoshiro128**.
 */
export function withNoise(weight: HostTensor, error: number, key: string): HostTensor {
  const values = toFloat32(weight).slice();
  let square = 0;
  for (const value of values) square += value * value;
  const scale = Math.sqrt((error * square) / values.length);
  const random = createRandom(seedOf(key));
  for (let i = 0; i < values.length; i += 2) {
    const radius = scale * Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    values[i] = values[i]! + radius * Math.cos(angle);
    if (i + 1 < values.length) values[i + 1] = values[i + 1]! + radius * Math.sin(angle);
  }
  return hostTensor('f32', weight.shape, values);
}
