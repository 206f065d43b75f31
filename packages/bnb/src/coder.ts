// Blocks into codes: here, or by a backend that has the routines. The bytes and the reported errors are the same.
//
// Routines: `bnb.absmax`, weights [n] in f32, f16 or bf16 -> the largest magnitude of each block of `size`, f32 [blocks]; NaN if one is.
// `bnb.four-bit`, weights, the bounds of the 16 cells f32 [15], their codes u8 [16] and values f32 [16] -> codes packed as nibbles u8 [ceil(n / 2)], magnitudes
// f32 [blocks], and of each block the squared errors, squared weights and largest error, f64 [3, blocks], all 0 where the scale is not finite. With `nested`,
// what `NestedScales` are beside their arrays (a mean that is not finite is null), also the magnitudes of the magnitudes f32 [blocks / 256], the map f32 [256] and its bounds f32
// [255] -> also codes of the magnitudes u8 [blocks] and the scales that a reader makes of them f32 [blocks]. What each computes is said at `blockAbsmax`,
// `packBlocks` and `NestedScales`.

import { assertFinite, elements, type HostTensor, hostTensor, type QuantizeContext, type Routine, toFloat32 } from '@lowbit/core';
import { blockAbsmax, packBlocks, type ShortBlock } from './blocks.ts';
import { cellFinder } from './cells.ts';
import type { Piece } from './chunks.ts';
import type { NestedScales } from './double-quant.ts';
import { packClipped, searchScales } from './scale-search.ts';
import type { Cells } from './tables.ts';

/** Results of a piece; the arrays are new. */
export interface CodedBlocks {
  /** [ceil(count / 2)]. */
  readonly packed: Uint8Array;
  readonly absmax: Float32Array;
  /** What a reader multiplies by. */
  readonly scale: Float32Array;
  /** [3, blocks], see `packBlocks`. */
  readonly errors: Float64Array;
  /** Of doubly quantized magnitudes. */
  readonly nestedCodes?: Uint8Array | undefined;
}

export interface BlockCoder {
  /** Pieces go to a backend. */
  readonly backed: boolean;
  /** Largest magnitudes of a piece's blocks: exact, but that a short last block which is divided has at least 1e-38. */
  absmax(piece: Piece): Promise<Float32Array>;
  /** `nested`: how magnitudes are stored, where it is not as they are. */
  code(piece: Piece, nested?: NestedScales): Promise<CodedBlocks>;
}

export interface CoderSettings {
  /** Of the weight, for messages. */
  readonly name: string;
  /** Weights of a block. */
  readonly size: number;
  readonly shortBlock: ShortBlock;
  readonly nonFinite: 'refuse' | 'keep';
}

/** The coder of a table's cells. */
export function blockCoder(cells: Cells, settings: CoderSettings, { routine }: Pick<QuantizeContext, 'routine'>): BlockCoder {
  const [absmax, code] = [routine?.('bnb.absmax'), routine?.('bnb.four-bit')];
  return absmax && code ? backedCoder(cells, settings, { absmax, code }) : coderHere(cells, settings);
}

function coderHere(cells: Cells, { size, shortBlock }: CoderSettings): BlockCoder {
  const finder = cellFinder(cells);
  const absmaxOf = ({ weights, count }: Piece): Float32Array => {
    const absmax = new Float32Array(Math.ceil(count / size));
    blockAbsmax(toFloat32(weights), size, shortBlock, absmax);
    return absmax;
  };
  return {
    backed: false,
    absmax: async (piece) => absmaxOf(piece),
    async code(piece, nested) {
      const absmax = absmaxOf(piece);
      const nestedCodes = nested && new Uint8Array(absmax.length);
      const scale = nested ? new Float32Array(absmax.length) : absmax;
      if (nestedCodes) nested.code(piece.from / size, absmax, nestedCodes, scale);
      const packed = new Uint8Array(Math.ceil(piece.count / 2));
      const errors = new Float64Array(3 * absmax.length);
      packBlocks({ values: toFloat32(piece.weights), size, shortBlock, absmax, scale }, finder, packed, errors);
      return { packed, absmax, scale, errors, nestedCodes };
    },
  };
}

/** Scales by search: always here, no backend has it. */
export function searchingCoder(cells: Cells, { size }: Pick<CoderSettings, 'size'>, channels: Float64Array | undefined): BlockCoder {
  const finder = cellFinder(cells);
  const scalesOf = ({ weights, from }: Piece): Float32Array => searchScales({ values: toFloat32(weights), size, from, channels }, finder);
  return {
    backed: false,
    absmax: async (piece) => scalesOf(piece),
    async code(piece, nested) {
      const absmax = scalesOf(piece);
      const nestedCodes = nested && new Uint8Array(absmax.length);
      const scale = nested ? new Float32Array(absmax.length) : absmax;
      if (nestedCodes) nested.code(piece.from / size, absmax, nestedCodes, scale);
      const packed = new Uint8Array(Math.ceil(piece.count / 2));
      const errors = new Float64Array(3 * absmax.length);
      // What a reader multiplies by decides the code, too.
      packClipped({ values: toFloat32(piece.weights), size, absmax: scale, scale }, finder, packed, errors);
      return { packed, absmax, scale, errors, nestedCodes };
    },
  };
}

function backedCoder(
  { cuts, codes, values }: Cells,
  { name, size, shortBlock, nonFinite }: CoderSettings,
  routines: { readonly absmax: Routine; readonly code: Routine },
): BlockCoder {
  const tables = [hostTensor('f32', [15], Float32Array.from(cuts)), hostTensor('u8', [16], codes), floats(values)];
  const settings = { size, shortBlock };
  /** What was read as it is stored has not been looked at: a magnitude tells. */
  const check = (absmax: Float32Array, { weights, from, count }: Piece): Float32Array => {
    if (nonFinite === 'refuse' && !absmax.every(Number.isFinite)) assertFinite(name, toFloat32(weights), 0, count, from);
    return absmax;
  };
  return {
    backed: true,
    async absmax(piece) {
      const [absmax] = await routines.absmax([piece.weights], settings);
      return check(toFloat32(absmax!), piece);
    },
    async code(piece, nested) {
      const params = nested ? { ...settings, nested: nestedParams(nested, piece.from / size) } : settings;
      const nestedTables = nested ? [nested.absmax, nested.map, nested.bounds].map(floats) : [];
      const [packed, magnitudes, errors, codes, scale] = await routines.code([piece.weights, ...tables, ...nestedTables], params);
      const absmax = check(toFloat32(magnitudes!), piece);
      const scales = nested ? { scale: toFloat32(scale!), nestedCodes: codes!.data } : { scale: absmax };
      return { packed: packed!.data, absmax, errors: elements({ dtype: 'f64', data: errors!.data }), ...scales };
    },
  };
}

function nestedParams({ blocks, offset }: NestedScales, first: number) {
  return { first, blocks, offset: Number.isFinite(offset) ? offset : null };
}

function floats(values: Float32Array): HostTensor {
  return hostTensor('f32', [values.length], values);
}
