// Comparing a backend's numbers with the reference's.

import { elements, type HostTensor, toFloat32 } from '@lowbit/core';
import { check } from './kit.ts';

/** Largest allowed |got - expected|, in units of max(1, largest |expected|). */
export interface Tolerances {
  /** Operations on single elements, norms, rotations, look-ups. */
  readonly element: number;
  /** Products with a weight. */
  readonly linear: number;
  /** Products with an int8 weight, against those of its numbers: activations are rounded to 8 bits. */
  readonly int8: number;
  readonly attend: number;
  readonly route: number;
  /** Whole small models. */
  readonly model: number;
  /** `QuantizedLinear.dequantize` against the codec. */
  readonly dequantize: number;
  /** The same rows in another batch, chunking or order of sequences; 0 asks for the same bytes. */
  readonly batch: number;
}

/** What float32 sums in another order need. */
export const DEFAULT_TOLERANCES: Tolerances = {
  element: 1e-5,
  linear: 2e-5,
  int8: 3e-2,
  attend: 2e-5,
  route: 1e-5,
  model: 2e-4,
  dequantize: 1e-6,
  batch: 2e-5,
};

/** Throws ERR_CONFORMANCE, naming the worst element, unless all differences are within `tolerance`. NaN equals NaN only. */
export function checkClose(what: string, got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  check(got.length === expected.length, `${what}: ${got.length} numbers, ${expected.length} expected`);
  let largest = 1;
  for (let i = 0; i < expected.length; i++) if (Math.abs(expected[i]!) > largest) largest = Math.abs(expected[i]!);
  let worst = -1;
  let difference = tolerance * largest;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(got[i], expected[i])) continue;
    const error = Math.abs(got[i]! - expected[i]!);
    if (error <= difference) continue;
    worst = i;
    difference = error;
    if (Number.isNaN(error)) break;
  }
  check(worst < 0, `${what}: element ${worst} is ${got[worst]}, ${expected[worst]} expected (tolerance ${tolerance} of ${largest})`);
}

/** Numbers of an f32 or i32 tensor. */
export function numbers(tensor: HostTensor): ArrayLike<number> {
  return tensor.dtype === 'i32' ? elements({ dtype: 'i32', data: tensor.data }) : toFloat32(tensor);
}
