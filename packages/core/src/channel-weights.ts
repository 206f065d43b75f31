// Importance of input channels as weights of a fit, for methods that count errors by it.

import { elements } from './dtype.ts';
import { LowbitError } from './spec/errors.ts';
import type { Importance } from './spec/quantizer.ts';
import type { Matrix } from './spec/tensor.ts';

/** Least weight of a channel, as a share of the mean: a channel that the samples never used still counts a little, so every group has a fit. */
const LEAST = 1e-4;

function unusable(message: string, importance: Importance): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', message, {
    hint: 'Give what collectImportance made for this linear.',
    details: { kind: importance.kind, shape: importance.moments?.shape },
  });
}

/**
 * Weights of the input channels, mean about 1: the moments of a diagonal, or the diagonal of a matrix. Undefined where all are zero.
 * Throws ERR_BAD_ARGUMENT if they are not of this weight, or not finite and at least zero.
 */
export function channelWeights(importance: Importance, shape: Matrix): Float64Array | undefined {
  const inp = shape[1];
  const { kind, moments } = importance;
  if (!moments) throw unusable('importance must be { kind, moments, rows }', importance);
  const expected = kind === 'matrix' ? [inp, inp] : [inp];
  if (moments.dtype !== 'f32' || moments.shape.length !== expected.length || moments.shape.some((extent, i) => extent !== expected[i])) {
    throw unusable(`importance of ${moments.dtype} [${moments.shape.join(', ')}] is not of a weight with ${inp} inputs`, importance);
  }
  const values = elements({ dtype: 'f32', data: moments.data });
  const stride = kind === 'matrix' ? inp + 1 : 1;
  const weights = Float64Array.from({ length: inp }, (_, i) => values[i * stride]!);
  const wrong = weights.findIndex((value) => !(value >= 0 && value < Number.POSITIVE_INFINITY));
  if (wrong >= 0) throw unusable(`the importance of input ${wrong} is ${weights[wrong]}`, importance);
  const mean = weights.reduce((sum, value) => sum + value, 0) / inp;
  return mean > 0 ? weights.map((value) => Math.max(value / mean, LEAST)) : undefined;
}
