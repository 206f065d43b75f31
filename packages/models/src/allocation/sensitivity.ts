// A layer's sensitivity from measurements: the slope of the linearity theorem.

import { LowbitError } from '@lowbit/core';

/** One measurement: the loss when a layer alone has an error. */
export interface SensitivityPoint {
  /** Relative squared error t^2 of the layer. */
  readonly error: number;
  /** Increase of the model's metric, such as KL divergence or perplexity. */
  readonly loss: number;
}

/**
 * Least-squares line through the origin: sum(loss * t^2) / sum(t^4). Below 0 where the measurement was noise; `allocateBits` counts that as 0.
 * Throws ERR_BAD_ARGUMENT without a point of an error above 0, and for numbers that are not finite.
 */
export function fitSensitivity(points: readonly SensitivityPoint[]): number {
  let product = 0;
  let square = 0;
  for (const { error, loss } of points) {
    if (!Number.isFinite(error) || error < 0 || !Number.isFinite(loss)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `a point of error ${error} and loss ${loss} fits no line`, { details: { error, loss } });
    }
    product += loss * error;
    square += error * error;
  }
  if (square === 0)
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a slope needs a point with an error above 0', { details: { points: points.length } });
  return product / square;
}
