// Which part of a channel's error later channels make up for, from second moments. With H the moments, e = stored - original of a row costs e^T H e. H is written as
// C D C^T, C upper triangular with ones on its diagonal and D diagonal, so that
//
//   e^T H e = sum_i D_i (e_i + sum_{j<i} C_ji e_j)^2
//
// and channels can be rounded one after another: channel i takes what is nearest to w_i - sum_{j<i} C_ji e_j, and D_i is what being off that costs. It is the order of
// GPTQ (Frantar et al., 2022), in the form of LDLQ (Chee et al., 2023), which needs no inverse.

import { breather, channelWeights, elements, type HostTensor, hostTensor, type Importance, LowbitError, type Matrix } from '@lowbit/core';

/** Added to every channel's own moment, as a share of their mean: what keeps channels that the samples hardly used from taking up everybody's errors. */
const DAMPING = 0.01;

/** What being off costs. */
export interface Trusted {
  /** The matrix that is factored, f32 [in, in], mean of the diagonal about 1. */
  readonly matrix: HostTensor;
  /** Its diagonal in the units in which the others are moments as they were given, f32 [in]. */
  readonly own: HostTensor;
}

/**
 * Second moments between channels by `trust`, own moments in full. Undefined where all are zero.
 * `name` is the weight's, for messages. Throws ERR_BAD_ARGUMENT for importance that is no matrix, or not of this weight.
 */
export function trusted(name: string, importance: Importance | undefined, shape: Matrix, trust: number): Trusted | undefined {
  if (importance?.kind !== 'matrix') {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${name}: feedback needs importance of kind 'matrix', not ${importance?.kind ?? 'none'}`, {
      hint: "Collect it with { kind: 'matrix' }, or keep this layer out with a rule.",
      details: { tensor: name, kind: importance?.kind },
    });
  }
  const own = channelWeights(importance, shape);
  if (own === undefined) return undefined;
  const n = shape[1];
  const moments = elements({ dtype: 'f32', data: importance.moments.data });
  let sum = 0;
  for (let i = 0; i < n; i++) sum += moments[i * (n + 1)]!;
  const factor = (trust * n) / sum;
  const values = new Float32Array(n * n); // `from` with a function boxes every number
  for (let i = 0; i < values.length; i++) values[i] = moments[i]! * factor;
  for (let i = 0; i < n; i++) values[i * (n + 1)] = own[i]! + DAMPING;
  const diagonal = Float32Array.from({ length: n }, (_, i) => (own[i]! + DAMPING) / factor);
  return { matrix: hostTensor('f32', [n, n], values), own: hostTensor('f32', [n], diagonal) };
}

/**
 * C and D of a symmetric f32 [n, n], of which the upper triangle is read: C f32 [n, n] without its diagonal and with zeros below it, D f64 [n]. In float64, every element
 * less its products one after another from the last channel on. A D that is not above 0 says that the matrix is of no samples. Lets the event loop run; an abort throws the
 * signal's reason.
 */
export async function factor(
  matrix: Float32Array,
  n: number,
  signal?: AbortSignal,
): Promise<{ readonly coupling: Float32Array<ArrayBuffer>; readonly cost: Float64Array }> {
  const breathe = breather();
  const left = Float64Array.from(matrix);
  const coupling = new Float32Array(n * n);
  const cost = new Float64Array(n);
  const column = new Float64Array(n);
  for (let i = n - 1; i >= 0; i--) {
    await breathe();
    signal?.throwIfAborted();
    for (let l = 0; l <= i; l++) column[l] = left[l * n + i]!;
    const own = column[i]!;
    cost[i] = own;
    for (let j = 0; j < i; j++) {
      const share = column[j]! / own;
      coupling[j * n + i] = share;
      for (let l = j, at = j * n + j; l < i; l++, at++) left[at]! -= share * column[l]!;
    }
  }
  return { coupling, cost };
}
