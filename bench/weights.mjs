// Weights that benchmarks quantize: the same each time.

import { castFloat, float32Tensor } from '../packages/core/dist/index.js';

/** Uniform numbers in (0, 1). */
export function uniforms(state = 1) {
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
}

/** Bell-shaped, deviation 0.02, [size, size]. */
export function bellShaped(size, dtype) {
  const uniform = uniforms();
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()) * 0.02;
  return castFloat(float32Tensor([size, size], Float32Array.from({ length: size * size }, normal)), dtype);
}
