// Rows of LLM.int8 into codes: here, or by a backend that has the routine. The bytes and the reported errors are the same.
//
// Routine: `bnb.int8`, weights [rows, inp] in f32, f16 or bf16, with `few` (the whole weight has so few elements that all are coded by the rule) and
// `narrow` (they came from numbers of 16 bits) -> the largest magnitude of each row f32 [rows], NaN if one is; codes i8 in u8 [rows, inp]; and of each row
// the squared errors, squared weights and largest error, f64 [3, rows]. Codes and errors are 0 in a row whose magnitude float16 does not have. What is
// computed is said at `RowCoder`.

import { type DType, elements, type Matrix, type QuantizeContext, type Routine, roundTo, toFloat32 } from '@lowbit/core';
import { noError } from './blocks.ts';
import type { Piece } from './chunks.ts';
import { FEW_WEIGHTS, float32Of, largestBits, RowCoder } from './int8-row.ts';

/** Results of a piece. */
export interface CodedRows {
  /** As they are stored: valid until the next piece is coded, if they are coded here. */
  readonly codes: Uint8Array;
  /** Largest magnitude of each row. */
  readonly magnitudes: Float32Array;
  /** [3, rows]. */
  readonly errors: Float64Array;
}

export interface Int8Coder {
  /** Pieces go to a backend. */
  readonly backed: boolean;
  code(piece: Piece): Promise<CodedRows>;
}

/** Whether float16 has a row's magnitude. */
export function halfHas(magnitude: number): boolean {
  return roundTo('f16', magnitude) <= LARGEST_HALF;
}

const LARGEST_HALF = 65504;

export function int8Coder(dtype: DType, shape: Matrix, { routine }: Pick<QuantizeContext, 'routine'>): Int8Coder {
  const found = routine?.('bnb.int8');
  return found ? backedCoder(found, dtype, shape) : coderHere(dtype, shape);
}

function coderHere(dtype: DType, [out, inp]: Matrix): Int8Coder {
  const coder = new RowCoder(dtype, out * inp);
  let room = new Int8Array(0);
  return {
    backed: false,
    async code({ weights, count }) {
      if (room.length < count) room = new Int8Array(count);
      const codes = room.subarray(0, count);
      const values = toFloat32(weights);
      const run = { values, words: new Int32Array(values.buffer, values.byteOffset, count), codes };
      const rows = count / inp;
      const magnitudes = new Float32Array(rows);
      const errors = new Float64Array(3 * rows);
      for (let row = 0, from = 0; row < rows; row++, from += inp) {
        const magnitude = float32Of(largestBits(run.words, from, from + inp));
        magnitudes[row] = Number.isNaN(magnitude) ? Number.NaN : magnitude; // the constant, whose sign in memory is known
        if (!halfHas(magnitude)) {
          codes.fill(0, from, from + inp);
          continue;
        }
        const sums = noError();
        coder.code(run, from, from + inp, roundTo('f16', magnitude), sums);
        errors[row] = sums.squaredError;
        errors[rows + row] = sums.squaredWeight;
        errors[2 * rows + row] = sums.maxAbs;
      }
      return { codes: new Uint8Array(codes.buffer, 0, count), magnitudes, errors };
    },
  };
}

function backedCoder(routine: Routine, dtype: DType, [out, inp]: Matrix): Int8Coder {
  const params = { few: out * inp < FEW_WEIGHTS, narrow: dtype === 'f16' || dtype === 'bf16' };
  return {
    backed: true,
    async code({ weights, count }) {
      const [magnitudes, codes, errors] = await routine([{ ...weights, shape: [count / inp, inp] }], params);
      return { codes: codes!.data, magnitudes: toFloat32(magnitudes!), errors: elements({ dtype: 'f64', data: errors!.data }) };
    },
  };
}
