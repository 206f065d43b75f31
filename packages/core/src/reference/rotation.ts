// Weights that were rotated before they were quantized (HIGGS) are held in the rotated basis, and activations follow them there:
//
//   y = W' x = (R H) x = R (H x)      with R [out, K] the numbers of the codes, H the normalised Hadamard matrix in blocks
//
// The rotation of x is a float64 sum that is not rounded in between, and is computed once for all linears that read the same x in the same blocks: q, k
// and v, or gate and up.

import { productDtype, rotatedBasis, storedColumns } from '../codecs/codebook.ts';
import { hadamardBlocks } from '../codecs/hadamard.ts';
import type { Codebook, QuantizedTensor } from '../spec/format.ts';
import type { Matrix } from '../spec/tensor.ts';
import type { HeldWeight, HoldingPlan, ProductDtype } from './weights.ts';

/** What becomes of rows of x: filled up with zeros to `columns`, then rotated in runs of `block`. */
export interface Rotation {
  readonly block: number;
  readonly columns: number;
}

/** Rows of x [rows, inp] rotated: f64 [rows, columns]. */
export function rotateRows(x: Float32Array, inp: number, { block, columns }: Rotation): Float64Array {
  const rows = x.length / inp;
  const rotated = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) rotated.set(x.subarray(row * inp, (row + 1) * inp), row * columns);
  hadamardBlocks(rotated, block);
  return rotated;
}

/** The rotations of one step, each computed once. Arrays of x must not change while they are remembered, and are forgotten with their last user. */
export class Rotations {
  readonly #known = new WeakMap<Float32Array, Map<number, Float64Array>>();

  of(x: Float32Array, inp: number, rotation: Rotation): Float64Array {
    let known = this.#known.get(x);
    if (!known) {
      known = new Map();
      this.#known.set(x, known);
    }
    let rotated = known.get(rotation.block);
    if (!rotated) {
      rotated = rotateRows(x, inp, rotation);
      known.set(rotation.block, rotated);
    }
    return rotated;
  }
}

/** The plan for a rotated weight, made of the plan for the weight that it is in the rotated basis. */
export function planRotated(
  format: Codebook,
  shape: Matrix,
  plan: (format: Codebook, shape: Matrix, product: ProductDtype) => HoldingPlan,
): HoldingPlan {
  const { rotate, ...inner } = format;
  const { block } = rotate!;
  const [, inp] = shape;
  const columns = storedColumns(format, shape);
  const rotation = { block, columns };
  const { level, bytes, metaBytes, hold } = plan(inner, [shape[0], columns], productDtype(format));
  return {
    level,
    bytes,
    metaBytes,
    hold(weight, counted): HeldWeight {
      const held = hold(rotatedBasis(weight as QuantizedTensor<Codebook>), counted);
      return {
        bytes: held.bytes,
        rotated: { rotation, weight: held },
        // As the codec does: rounded products, rotated back with one rounding.
        fill(from, to, into) {
          const wide = new Float64Array((to - from) * columns);
          held.fill(from, to, wide);
          const rows = new Float32Array(wide);
          hadamardBlocks(rows, block);
          for (let row = 0; row < to - from; row++) into.set(rows.subarray(row * columns, row * columns + inp), row * inp);
        },
      };
    },
  };
}
