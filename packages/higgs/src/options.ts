// Options of the quantizer, their defaults and checks, the format they make, and what they are called in config.json.

import {
  type Codebook,
  type DType,
  type FluteTile,
  fluteName,
  fluteRows,
  type JsonObject,
  LowbitError,
  type Matrix,
  rowBitsName,
} from '@lowbit/core';
import type { HiggsBits, HiggsDim } from './grid.ts';
import { checkNames, refusal, shown } from './refuse.ts';

/** Of `higgs`. */
export interface HiggsOptions {
  /** Bits per weight. Default 4. */
  readonly bits?: HiggsBits;
  /** Weights that share a code, in rotated order: pairs have the smaller error at the same size. Default 2. */
  readonly p?: HiggsDim;
  /**
   * Weights that have a scale entry of their own. All entries of one Hadamard block are equal, so this changes size alone. Default 256; transformers has
   * kernels for 64, 128 and 256, and other powers of two up to `hadamardSize` are for lowbit.
   */
  readonly groupSize?: number;
  /** Weights of a row that are rotated together and share a scale: a power of two from 8 to 32768. Rows are filled up to a multiple. Default 512. */
  readonly hadamardSize?: number;
  /**
   * `norm` (default): a block's scale is its root mean square, as in Python. `unbiased`: the one with which what is stored, projected onto the weights of the
   * block, is as long as they are, in the same files. The nearest points of a grid are shorter than what they stand for, by its mean squared error (11 % at 2 bits), in all layers alike;
   * undoing that makes the squared error larger and the model better at 2 bits. Backends have no routine for it.
   */
  readonly scale?: 'norm' | 'unbiased';
  /**
   * How codes are stored. `flute`: as transformers reads them, if out_features is a multiple of 128, 256 or 512 at 4, 2 or 3 bits (with `tile: 64` twice
   * that). `portable`: each row a stream of bits, any shape, for lowbit alone. `auto` (default): flute where it fits.
   */
  readonly packing?: 'auto' | 'flute' | 'portable';
  /** FLUTE's `tile_P`. Default 32, which every published file has; at 3 bits 64 is read by its kernel, but written by no packer of its own. */
  readonly tile?: FluteTile;
}

export interface HiggsSettings {
  readonly bits: HiggsBits;
  readonly p: HiggsDim;
  readonly groupSize: number;
  readonly hadamardSize: number;
  readonly scale: 'norm' | 'unbiased';
  readonly packing: 'auto' | 'flute' | 'portable';
  readonly tile: FluteTile;
}

export const HIGGS_OPTIONS: readonly (keyof HiggsOptions)[] = ['bits', 'p', 'groupSize', 'hadamardSize', 'scale', 'packing', 'tile'];

/** Hadamard sizes that there are: rows of codes are whole bytes, and transformers' kernels go up to the largest. */
const SMALLEST_HADAMARD = 8;
const LARGEST_HADAMARD = 32768;

/** Defaults filled in and checked. Throws ERR_BAD_ARGUMENT. */
export function higgsSettings(options: HiggsOptions): HiggsSettings {
  checkNames('higgs', options, HIGGS_OPTIONS);
  const { bits = 4, p = 2, groupSize = 256, hadamardSize = 512, scale = 'norm', packing = 'auto', tile = 32 } = options;
  if (bits !== 2 && bits !== 3 && bits !== 4) throw badOption('bits', bits, 'Use 2, 3 or 4: there are grids for these alone.');
  if (p !== 1 && p !== 2) throw badOption('p', p, 'Use 2 (a code for every pair of weights) or 1.');
  checkHadamardSize('higgs', hadamardSize);
  if (!isPowerOfTwo(groupSize) || groupSize > hadamardSize || groupSize < 2) {
    const hint = `Use 64, 128 or 256, or for lowbit alone another power of two, from 2 up to the Hadamard size of ${hadamardSize}.`;
    throw badOption('groupSize', groupSize, hint);
  }
  if (scale !== 'norm' && scale !== 'unbiased') throw badOption('scale', scale, "Use 'norm' or 'unbiased'.");
  if (packing !== 'auto' && packing !== 'flute' && packing !== 'portable') {
    throw badOption('packing', packing, "Use 'auto', 'flute' or 'portable'.");
  }
  if (tile !== 32 && tile !== 64) throw badOption('tile', tile, 'Use 32 or 64.');
  return { bits, p, groupSize, hadamardSize, scale, packing, tile };
}

/** Throws ERR_BAD_ARGUMENT, in the words of `call`. */
export function checkHadamardSize(call: string, size: unknown): asserts size is number {
  if (isPowerOfTwo(size) && size >= SMALLEST_HADAMARD && size <= LARGEST_HADAMARD) return;
  const hint = `Use a power of two from ${SMALLEST_HADAMARD} to ${LARGEST_HADAMARD}, such as 512.`;
  throw refusal(call, `hadamardSize cannot be ${shown(size)}`, hint, { option: 'hadamardSize', value: size });
}

function isPowerOfTwo(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && Number.isInteger(Math.log2(value));
}

function badOption(name: string, value: unknown, hint: string): LowbitError {
  return refusal('higgs', `${name} cannot be ${shown(value)}`, hint, { option: name, value });
}

/** Dtypes that scales and grids are stored in. */
export type ScaleDtype = 'f32' | 'f16' | 'bf16';

/** The format of a weight of that shape. Throws ERR_UNSUPPORTED_FORMAT where `packing` is `flute` and the shape does not allow it. */
export function higgsFormat(s: HiggsSettings, shape: Matrix, metaDtype: DType): Codebook {
  const { bits, p, groupSize, hadamardSize } = s;
  if (metaDtype !== 'f32' && metaDtype !== 'f16' && metaDtype !== 'bf16') {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `higgs: scales cannot be ${metaDtype}`, {
      hint: 'Use f16, bf16 or f32.',
      details: { metaDtype },
    });
  }
  return {
    kind: 'codebook',
    bits,
    dim: p,
    group: groupSize,
    table: `higgs-${bits}-${p}`,
    scale: metaDtype,
    packing: packingName(s, shape),
    rotate: { kind: 'hadamard', block: hadamardSize },
  };
}

/** FLUTE's rule: out_features is a multiple of its tile (spec of the packing: core/src/pack/flute.ts). */
function packingName({ bits, p, packing, tile }: HiggsSettings, [out, inp]: Matrix): string {
  const rows = fluteRows(bits, tile);
  const fits = out % rows === 0;
  if (fits && packing !== 'portable') return fluteName(bits, p, tile);
  if (packing !== 'flute') return rowBitsName(bits * p);
  throw new LowbitError(
    'ERR_UNSUPPORTED_FORMAT',
    `higgs: FLUTE packs ${bits}-bit weights in tiles of ${rows} output features; ${out} of a [${out}, ${inp}] weight is no multiple of it`,
    {
      hint: `Use packing: 'portable' (or 'auto'), which stores any shape as ${rowBitsName(bits * p)} for lowbit alone, or keep this layer with a rule.`,
      details: { shape: [out, inp], bits, tile, multiple: rows },
    },
  );
}

/** Fields of `quantization_config` as transformers writes them. */
export const CONFIG_DEFAULTS = {
  quant_method: 'higgs',
  bits: 4,
  p: 2,
  modules_to_not_convert: null,
  hadamard_size: 512,
  group_size: 256,
  tune_metadata: {},
} as const satisfies JsonObject;

/** The config record of a quantizer, under the names of config.json. */
export function higgsRecord({ bits, p, groupSize, hadamardSize }: HiggsSettings, skipped: readonly string[] | null): JsonObject {
  return { bits, p, group_size: groupSize, hadamard_size: hadamardSize, modules_to_not_convert: skipped };
}
