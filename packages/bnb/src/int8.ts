// LLM.int8: rows of 8-bit codes in units of the row's largest magnitude over 127.

import {
  assertFinite,
  type DType,
  type Int8,
  LowbitError,
  type Quantizer,
  roundTo,
  toFloat32,
  type WeightReader,
  writeFloat32,
} from '@lowbit/core';
import { addErrors, noError, weightError } from './blocks.ts';
import { CHUNK_WEIGHTS, Chunks, type Piece } from './chunks.ts';
import { halfHas, int8Coder } from './int8-coder.ts';
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
    usesImportance: false,
    format: (): Int8 => ({ kind: 'int8', threshold }),
    async quantize(weight, _format, out, context) {
      const [, inp] = weight.shape;
      if (inp > CHUNK_WEIGHTS && BYTES_PER_WEIGHT * inp > context.budget) throw rowTooLong(weight.name, inp, context.budget);
      const coder = int8Coder(weight.dtype, weight.shape, context);
      const options = { unit: inp, bytesPerWeight: BYTES_PER_WEIGHT, nonFinite: 'keep', backed: coder.backed } as const;
      const total = noError();
      await new Chunks(weight, options, context).each(
        async (piece) => {
          const coded = await coder.code(piece);
          if (nonFinite === 'refuse') refuseRows(weight, piece, coded.magnitudes);
          await out.write('codes', piece.from, coded.codes);
          const scale = coded.magnitudes.map((value) => roundTo('f16', value));
          await out.write('scale', piece.from / inp, writeFloat32('f32', scale));
          return { scale, errors: coded.errors };
        },
        (coded, { count }) => {
          addErrors(total, { ...coded, size: inp, count });
          context.onWeights?.(count);
        },
      );
      return weightError(total);
    },
  };
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;
/** What a weight takes while it is worked on: float32, its code, and a share of the scales. */
const BYTES_PER_WEIGHT = 6;

/** Throws for the first row that float16 does not have. */
function refuseRows({ name, dtype, shape: [, inp] }: WeightReader, { weights, from, count }: Piece, magnitudes: Float32Array): void {
  const row = magnitudes.findIndex((value) => !halfHas(value));
  if (row < 0) return;
  if (!Number.isFinite(magnitudes[row])) assertFinite(name, toFloat32(weights), 0, count, from);
  throw overflow(name, from / inp + row, dtype);
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
