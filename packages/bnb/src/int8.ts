// LLM.int8: rows of 8-bit codes in units of the row's largest magnitude over 127.

import { type DType, type Int8, LowbitError, type Quantizer, writeFloat32 } from '@lowbit/core';
import type { ErrorSums } from './blocks.ts';
import { CHUNK_WEIGHTS, Chunks } from './chunks.ts';
import { roundToHalf } from './half.ts';
import { type Int8Options, int8Config, int8Threshold } from './options.ts';

const fround = Math.fround;

/**
 * LLM.int8 (Dettmers et al., 2022): w = q * absmax / 127 with the largest magnitude of each row. Weights pass through float16, as in Python, whatever
 * their dtype. The threshold is for activations: it changes nothing in the weights.
 *
 * @throws ERR_BAD_ARGUMENT for an unusable threshold. The quantizer itself throws ERR_NON_FINITE, ERR_DTYPE_OVERFLOW for a weight beyond float16 (which
 * Python stores as a row of NaN), and ERR_LIMIT for a row that does not fit the memory allowed.
 *
 * @example
 * const q = await quantize(weight, int8({ threshold: 6 }));
 */
export function int8(options: Int8Options = {}): Quantizer {
  const threshold = int8Threshold(options);
  return {
    spec: 1,
    method: 'bitsandbytes',
    config: int8Config(threshold),
    identity: JSON.stringify(['bitsandbytes', ALGORITHM_VERSION, 'int8', threshold]),
    format: (): Int8 => ({ kind: 'int8', threshold }),
    async quantize(weight, _format, out, context) {
      const [, inp] = weight.shape;
      if (inp > CHUNK_WEIGHTS && BYTES_PER_WEIGHT * inp > context.budget) throw rowTooLong(weight.name, inp, context.budget);
      const chunks = new Chunks(weight, inp, BYTES_PER_WEIGHT, context);
      const half = new Float32Array(weight.dtype === 'f16' ? 0 : inp);
      const total: ErrorSums = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      await chunks.each(async (values, from) => {
        const scale = new Float32Array(values.length / inp);
        const codes = new Int8Array(values.length);
        for (let row = 0; row < scale.length; row++) {
          const original = values.subarray(row * inp, (row + 1) * inp);
          if (half.length > 0) roundToHalf(original, half);
          const largest = quantizeRow(original, half.length > 0 ? half : original, codes.subarray(row * inp, (row + 1) * inp), total);
          if (largest > LARGEST_HALF) throw overflow(weight.name, from / inp + row, weight.dtype);
          scale[row] = largest;
        }
        await out.write('codes', from, new Uint8Array(codes.buffer));
        await out.write('scale', from / inp, writeFloat32('f32', scale));
        context.onWeights?.(values.length);
      });
      return total;
    },
  };
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;
/** What a weight takes while it is worked on: float32, its code, and a share of the scales. */
const BYTES_PER_WEIGHT = 6;
const LARGEST_HALF = 65504;
/** 1 / 127 as a reader has it. */
const STEP = fround(1 / 127);
/** Added to and taken from a number in float64, it leaves the nearest integer, ties to even. */
const TO_INTEGER = 1.5 * 2 ** 52;

/**
 * Codes of one row from its float16 values; returns the largest magnitude of these, and adds the error against the row itself to `total`. The factor is
 * `(1 / absmax) * 127` with two roundings, which is what PyTorch makes of `127 / absmax`.
 */
function quantizeRow(original: Float32Array, half: Float32Array, codes: Int8Array, total: ErrorSums): number {
  let largest = 0;
  for (let i = 0; i < half.length; i++) largest = Math.max(largest, Math.abs(half[i]!));
  const factor = largest === 0 ? 0 : fround(fround(1 / largest) * 127);
  let [squaredError, squaredWeight, maxAbs] = [total.squaredError, total.squaredWeight, total.maxAbs];
  for (let i = 0; i < half.length; i++) {
    const code = fround(half[i]! * factor) + TO_INTEGER - TO_INTEGER;
    codes[i] = code;
    const w = original[i]!;
    const error = Math.abs(w - fround(fround(code * largest) * STEP));
    squaredError += error * error;
    squaredWeight += w * w;
    maxAbs = Math.max(maxAbs, error);
  }
  total.squaredError = squaredError;
  total.squaredWeight = squaredWeight;
  total.maxAbs = maxAbs;
  return largest;
}

function overflow(name: string, row: number, dtype: DType): LowbitError {
  return new LowbitError('ERR_DTYPE_OVERFLOW', `${name}: row ${row} has a ${dtype} weight beyond float16, which LLM.int8 passes through`, {
    hint: 'Keep this layer with a rule, or quantize it with nf4.',
    details: { tensor: name, row, dtype },
  });
}

function rowTooLong(name: string, inp: number, budget: number): LowbitError {
  return new LowbitError(
    'ERR_LIMIT',
    `${name}: a row of ${inp} weights takes ${BYTES_PER_WEIGHT * inp} bytes, more than the ${budget} allowed`,
    {
      hint: 'Allow more memory, or keep this layer with a rule.',
      details: { tensor: name, row: inp, budget },
    },
  );
}
