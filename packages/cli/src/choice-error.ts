// How large the error of one choice is for one weight, in the unit that sensitivities are measured in.

import {
  DTYPE_BYTES,
  dequantize,
  elements,
  type HostTensor,
  type Importance,
  isQuantizer,
  type QuantizeOptions,
  type Quantizer,
  quantize,
  readFloat32,
  toFloat32,
} from '@lowbit/core';
import type { FeedbackQuantizer } from '@lowbit/models';

/** Weights compared at a time. */
const BLOCK = 1 << 18;

/** The quantizer that a choice is tested with: of feedback the one that it is over. Undefined where there is none that does without a matrix. */
export function testedQuantizer(use: Quantizer): Quantizer | undefined {
  if (use.usesImportance !== 'matrix') return use;
  const { plain } = use as Partial<FeedbackQuantizer>;
  return isQuantizer(plain) && plain.usesImportance !== 'matrix' ? plain : undefined;
}

/** Of the moments those per channel, scaled to a mean of 1. Undefined without importance. */
function channelWeights(importance: Importance | undefined, inp: number): Float64Array | undefined {
  if (importance === undefined) return undefined;
  const moments = elements({ dtype: 'f32', data: importance.moments.data });
  const step = importance.kind === 'matrix' ? inp + 1 : 1;
  const weights = Float64Array.from({ length: inp }, (_, i) => moments[i * step]!);
  const mean = weights.reduce((sum, value) => sum + value, 0) / inp;
  return mean > 0 ? weights.map((value) => value / mean) : undefined;
}

/**
 * The relative squared error, sum (w - w')^2 / sum w^2, of quantizing a weight [out, in]. With importance each input channel counts by its second moment
 * over their mean: the size of the even noise that costs as much at the layer's output, which is what sensitivities are per unit of. 0 for a weight of zeros.
 * @throws what core's `quantize` throws
 */
export async function choiceError(weight: HostTensor, use: Quantizer, options: QuantizeOptions = {}): Promise<number> {
  const quantized = await quantize(weight, use, options);
  const [out, inp] = quantized.shape;
  const channels = channelWeights(options.importance, inp);
  const rowBytes = inp * DTYPE_BYTES[weight.dtype];
  const step = Math.max(1, Math.floor(BLOCK / inp));
  const original = new Float32Array(Math.min(step, out) * inp);
  const { codecs } = options;
  let squaredError = 0;
  let squaredWeight = 0;
  for (let from = 0; from < out; from += step) {
    const to = Math.min(out, from + step);
    readFloat32(weight.dtype, weight.data.subarray(from * rowBytes, to * rowBytes), original);
    const values = toFloat32(dequantize(quantized, { from, to, ...(codecs ? { codecs } : {}) }));
    for (let i = 0; i < values.length; i++) {
      const error = original[i]! - values[i]!;
      squaredError += (channels?.[i % inp] ?? 1) * error * error;
      squaredWeight += original[i]! * original[i]!;
    }
  }
  return squaredWeight > 0 ? squaredError / squaredWeight : 0;
}
