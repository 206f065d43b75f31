// LLM.int8: rows of 8-bit codes in units of the row's largest magnitude over 127.

import { type DType, type Int8, LowbitError, type Quantizer, roundTo, writeFloat32 } from '@lowbit/core';
import type { ErrorSums } from './blocks.ts';
import { largestMagnitude } from './blocks.ts';
import { CHUNK_WEIGHTS, Chunks } from './chunks.ts';
import { HALF_ROUNDERS, TO_INTEGER } from './half.ts';
import { type Int8Options, int8Config, int8Threshold } from './options.ts';

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
      const codes = new Int8Array(chunks.size);
      const scale = new Float32Array(chunks.size / inp);
      const total: ErrorSums = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      await chunks.each(async (values, from) => {
        const rows = values.length / inp;
        for (let row = 0; row < rows; row++) {
          const weights = values.subarray(row * inp, (row + 1) * inp);
          const largest = roundTo('f16', largestMagnitude(weights, 0, inp));
          if (largest > LARGEST_HALF) throw overflow(weight.name, from / inp + row, weight.dtype);
          quantizeRow(weights, largest, codes.subarray(row * inp, (row + 1) * inp), total);
          scale[row] = largest;
        }
        await out.write('codes', from, new Uint8Array(codes.buffer, 0, values.length));
        await out.write('scale', from / inp, writeFloat32('f32', scale.subarray(0, rows)));
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
const STEP = Math.fround(1 / 127);

/** Codes of one row, whose largest float16 magnitude is given; adds the error to `total`. */
function quantizeRow(weights: Float32Array, largest: number, codes: Int8Array, total: ErrorSums): void {
  const exponents = new Uint32Array(weights.buffer, weights.byteOffset, weights.length);
  // Two roundings: what PyTorch makes of `127 / absmax`.
  const factor = largest === 0 ? 0 : Math.fround(Math.fround(1 / largest) * 127);
  const step = largest * STEP; // exact in float64, as is a code times it
  const rounders = HALF_ROUNDERS; // a module's variable would be loaded and checked for every weight
  const toInteger = TO_INTEGER;
  let [squaredError, squaredWeight, maxAbs] = [total.squaredError, total.squaredWeight, total.maxAbs];
  for (let i = 0; i < weights.length; i++) {
    const w = weights[i]!;
    const toHalf = rounders[exponents[i]! >>> 23]!;
    const code = Math.fround((w + toHalf - toHalf) * factor) + toInteger - toInteger;
    codes[i] = code;
    const error = Math.abs(w - Math.fround(code * step));
    squaredError += error * error;
    squaredWeight += w * w;
    maxAbs = Math.max(maxAbs, error);
  }
  total.squaredError = squaredError;
  total.squaredWeight = squaredWeight;
  total.maxAbs = maxAbs;
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
