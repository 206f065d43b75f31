// The formats of the `higgs` layout, and the names that its tensors have.
//
//   <m>.weight   i16 [N b / 16, K]      codes in tiles of FLUTE                          <m>.codes   u8 [N, K b / 8]   rows of codes as bit streams
//   <m>.scales   f16|bf16 [N, K / gs]                                                    <m>.scales  the same
//   <m>.tables   f16|bf16 [2^b]         the grid; for pairs 0, 1, 2, ..., unused         <m>.grid    f16|bf16 [n, p]   the grid
//   <m>.tables2  f16 [2^b, 2^b, 2]      what the kernel looks up
//   <m>.bias                                                                             <m>.bias
//
// N output features, K inputs filled up to whole Hadamard blocks, b bits a weight, p weights a code, n = 2^(b p). The left is transformers', the right is
// lowbit's own portable form, for any N.

import type { Codebook, Format } from '@lowbit/core';
import { type FluteTile, fluteName, isHadamardSize, LowbitError, quote, rowBitsName } from '@lowbit/core';

/** Of scales and grids. */
export type HiggsDType = 'f16' | 'bf16';
/** How codes are packed: FLUTE's tiles of 32 or 64, or rows of bit streams. */
export type HiggsPacking = FluteTile | 'portable';

/** transformers' default. */
export const DEFAULT_HADAMARD = 512;
/** Largest block that transformers' kernels transform. */
export const MAX_HADAMARD = 1 << 15;
/** Smallest one, so that a row of codes is whole bytes. */
const MIN_HADAMARD = 8;

/** Of one HIGGS linear. */
export interface HiggsSettings {
  readonly bits: number;
  readonly p: 1 | 2;
  readonly group: number;
  readonly hadamard: number;
  readonly dtype: HiggsDType;
  readonly packing: HiggsPacking;
}

/** The format of a linear with these settings. */
export function higgsFormat({ bits, p, group, hadamard, dtype, packing }: HiggsSettings): HiggsFormat {
  return {
    kind: 'codebook',
    bits,
    dim: p,
    group,
    table: `higgs-${bits}-${p}`,
    scale: dtype,
    packing: packing === 'portable' ? rowBitsName(bits * p) : fluteName(bits, p, packing),
    rotate: { kind: 'hadamard', block: hadamard },
  };
}

/** What `higgsFormat` makes. */
export interface HiggsFormat extends Codebook {
  readonly scale: HiggsDType;
  readonly rotate: NonNullable<Codebook['rotate']>;
}

/** True for what the layout holds. */
export function isHiggs(format: Format): format is HiggsFormat {
  if (format.kind !== 'codebook') return false;
  const { bits, dim, group, table, scale, offset, rotate } = format as Codebook;
  if (![2, 3, 4].includes(bits) || (dim !== 1 && dim !== 2) || table !== `higgs-${bits}-${dim}`) return false;
  if ((scale !== 'f16' && scale !== 'bf16') || offset || rotate === undefined) return false;
  return isBlock(rotate.block) && isGroup(group, rotate.block) && higgsPacking(format as Codebook) !== undefined;
}

/** How the codes of a format are packed; undefined for a packing that is not of HIGGS. */
export function higgsPacking({ bits, dim, packing }: Codebook): HiggsPacking | undefined {
  if (packing === `row_bits${bits * dim}`) return 'portable';
  return ([32, 64] as const).find((tile) => packing === fluteName(bits, dim, tile));
}

/** True for a Hadamard block that the layout has. */
export function isBlock(block: number): boolean {
  return isHadamardSize(block) && block >= MIN_HADAMARD && block <= MAX_HADAMARD;
}

/** True for inputs that share a scale, in blocks of that size. */
export function isGroup(group: number, block: number): boolean {
  return Number.isSafeInteger(group) && group >= 1 && block % group === 0;
}

/** Throws ERR_TENSOR_MISMATCH, naming the tensor. */
export function fail(tensor: string, problem: string): never {
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(tensor)} ${problem}`, {
    hint: 'The checkpoint is damaged, incomplete, or not in the layout of HIGGS.',
    details: { tensor },
  });
}
