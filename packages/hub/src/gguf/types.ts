// How tensors of a GGUF file are stored: ggml's types by number (enum ggml_type of ggml/include/ggml.h), which never change.

import type { DType } from '@lowbit/core';
import { type DecodeBlocks, iq4_nl, iq4_xs, mxfp4, q4_0, q4_1, q5_0, q5_1, q8_0 } from './blocks.ts';
import { q2_K, q3_K, q4_K, q5_K, q6_K } from './k-blocks.ts';

/** How ggml stores the numbers of a tensor. */
export interface GgmlType {
  readonly name: string;
  /** Weights that are stored together. */
  readonly block: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** What its numbers are read as; undefined for types whose numbers nothing here makes. */
  readonly dtype?: DType;
  /** Makes f32 of blocks. Without it the bytes are the numbers. */
  readonly decode?: DecodeBlocks;
}

const plain = (name: string, dtype: DType, bytes: number): GgmlType => ({ name, block: 1, bytes, dtype });
const packed = (name: string, block: number, bytes: number, decode: DecodeBlocks): GgmlType => ({
  name,
  block,
  bytes,
  dtype: 'f32',
  decode,
});
/** Sizes are known, so that files with such tensors are laid out and told of by name. */
const unread = (name: string, block: number, bytes: number): GgmlType => ({ name, block, bytes });

export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map([
  [0, plain('F32', 'f32', 4)],
  [1, plain('F16', 'f16', 2)],
  [2, packed('Q4_0', 32, 18, q4_0)],
  [3, packed('Q4_1', 32, 20, q4_1)],
  [6, packed('Q5_0', 32, 22, q5_0)],
  [7, packed('Q5_1', 32, 24, q5_1)],
  [8, packed('Q8_0', 32, 34, q8_0)],
  [9, unread('Q8_1', 32, 40)],
  [10, packed('Q2_K', 256, 84, q2_K)],
  [11, packed('Q3_K', 256, 110, q3_K)],
  [12, packed('Q4_K', 256, 144, q4_K)],
  [13, packed('Q5_K', 256, 176, q5_K)],
  [14, packed('Q6_K', 256, 210, q6_K)],
  [15, unread('Q8_K', 256, 292)],
  [16, unread('IQ2_XXS', 256, 66)],
  [17, unread('IQ2_XS', 256, 74)],
  [18, unread('IQ3_XXS', 256, 98)],
  [19, unread('IQ1_S', 256, 50)],
  [20, packed('IQ4_NL', 32, 18, iq4_nl)],
  [21, unread('IQ3_S', 256, 110)],
  [22, unread('IQ2_S', 256, 82)],
  [23, packed('IQ4_XS', 256, 136, iq4_xs)],
  [24, plain('I8', 'i8', 1)],
  [25, plain('I16', 'i16', 2)],
  [26, plain('I32', 'i32', 4)],
  [27, plain('I64', 'i64', 8)],
  [28, plain('F64', 'f64', 8)],
  [29, unread('IQ1_M', 256, 56)],
  [30, plain('BF16', 'bf16', 2)],
  [34, unread('TQ1_0', 256, 54)],
  [35, unread('TQ2_0', 256, 66)],
  [39, packed('MXFP4', 32, 17, mxfp4)],
]);
