// LLM.int8: rows of 8-bit codes in units of the row's largest magnitude over 127.

import { assertFinite, type DType, type Int8, LowbitError, type Quantizer, roundTo, toFloat32, writeFloat32 } from '@lowbit/core';
import { noError, weightError } from './blocks.ts';
import { CHUNK_WEIGHTS, Chunks } from './chunks.ts';
import { float32Of, INFINITY_BITS, largestBits, RowCoder } from './int8-row.ts';
import { type Int8Options, int8Config, int8Settings } from './options.ts';

/**
 * LLM.int8 (Dettmers et al., 2022): w = q * absmax / 127 with the largest magnitude of each row. Weights pass through float16, as in Python, whatever
 * their dtype. The threshold is for activations: it changes nothing in the weights.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options. The quantizer itself throws ERR_NON_FINITE, ERR_DTYPE_OVERFLOW for a weight beyond float16 (which
 * Python, and `allowNonFinite`, store as a row that decodes to NaN), and ERR_LIMIT for a row that does not fit the memory allowed.
 *
 * @example
 * const q = await quantize(weight, int8({ threshold: 6 }));
 */
export function int8(options: Int8Options = {}): Quantizer {
  const { threshold, nonFinite } = int8Settings(options);
  return {
    spec: 1,
    method: 'bitsandbytes',
    config: int8Config(threshold),
    identity: JSON.stringify(['bitsandbytes', ALGORITHM_VERSION, 'int8', threshold]),
    format: (): Int8 => ({ kind: 'int8', threshold }),
    async quantize(weight, _format, out, context) {
      const [, inp] = weight.shape;
      if (inp > CHUNK_WEIGHTS && BYTES_PER_WEIGHT * inp > context.budget) throw rowTooLong(weight.name, inp, context.budget);
      const chunks = new Chunks(weight, { unit: inp, bytesPerWeight: BYTES_PER_WEIGHT, nonFinite: 'keep', backed: false }, context);
      const codes = new Int8Array(chunks.size);
      const scale = new Float32Array(chunks.size / inp);
      const coder = new RowCoder(weight.dtype, weight.shape[0] * inp);
      const total = noError();
      await chunks.each(
        async ({ weights, from }) => {
          const values = toFloat32(weights);
          const rows = values.length / inp;
          const run = { values, words: new Int32Array(values.buffer, values.byteOffset, values.length), codes };
          for (let row = 0; row < rows; row++) {
            const bits = largestBits(run.words, row * inp, (row + 1) * inp);
            if (bits >= INFINITY_BITS && nonFinite === 'refuse') assertFinite(weight.name, values, 0, values.length, from);
            const largest = roundTo('f16', float32Of(bits));
            scale[row] = largest;
            if (largest <= LARGEST_HALF) coder.code(run, row * inp, (row + 1) * inp, largest, total);
            else if (bits < INFINITY_BITS && nonFinite === 'refuse') throw overflow(weight.name, from / inp + row, weight.dtype);
            else {
              codes.fill(0, row * inp, (row + 1) * inp); // PyTorch's conversion of NaN and of 0
              total.nonFinite += inp;
            }
          }
          await out.write('codes', from, new Uint8Array(codes.buffer, 0, values.length));
          await out.write('scale', from / inp, writeFloat32('f32', scale.subarray(0, rows)));
          context.onWeights?.(values.length);
        },
        () => {},
      );
      return weightError(total);
    },
  };
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;
/** What a weight takes while it is worked on: float32, its code, and a share of the scales. */
const BYTES_PER_WEIGHT = 6;
const LARGEST_HALF = 65504;

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
