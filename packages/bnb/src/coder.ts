// Blocks into codes: here, or by a backend that has the routines. The bytes and the reported errors are the same.
//
// Routines: `bnb.absmax`, weights [n] in f32, f16 or bf16 -> the largest magnitude of each block of `size`, f32 [blocks]; NaN if one is.
// `bnb.four-bit`, weights, the bounds of the 16 cells f32 [15], their codes u8 [16] and values f32 [16] -> codes packed as nibbles u8 [ceil(n / 2)], magnitudes
// f32 [blocks], and of each block the squared errors, squared weights and largest error, f64 [3, blocks], all 0 where the scale is not finite. With `nested`,
// what `NestedScales` are beside their arrays (a mean that is not finite is null), also the magnitudes of the magnitudes f32 [blocks / 256], the map f32 [256] and its bounds f32
// [255] -> also codes of the magnitudes u8 [blocks] and the scales that a reader makes of them f32 [blocks]. What each computes is said at `blockAbsmax`,
// `packBlocks` and `NestedScales`.
// `bnb.scale-search`, weights, bounds and values, the importance of the channels f64 [channels] if there are any -> scales by search f32 [blocks], NaN or infinite where a
// weight is. `bnb.searched`: as `bnb.four-bit` with such scales for magnitudes; importance comes before what nested scales are made of. `from` is the flat index of
// the first weight.

import { assertFinite, elements, type HostTensor, hostTensor, type JsonObject, type QuantizeContext, toFloat32 } from '@lowbit/core';
import { blockAbsmax, packBlocks, type ShortBlock } from './blocks.ts';
import { cellFinder } from './cells.ts';
import type { Piece } from './chunks.ts';
import type { NestedScales } from './double-quant.ts';
import { type Passes, passes } from './passes.ts';
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
  /** What pieces go to, if it is a backend. */
  readonly backend: Passes | undefined;
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
  const backend = passes(routine, ['bnb.absmax', 'bnb.four-bit']);
  return backend ? backedCoder(cells, settings, backend) : coderHere(cells, settings);
}

function coderHere(cells: Cells, { size, shortBlock }: CoderSettings): BlockCoder {
  const finder = cellFinder(cells);
  const absmaxOf = ({ weights, count }: Piece): Float32Array => {
    const absmax = new Float32Array(Math.ceil(count / size));
    blockAbsmax(toFloat32(weights), size, shortBlock, absmax);
    return absmax;
  };
  return {
    backend: undefined,
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

/** The coder of a table's cells whose scales are searched, each weight counted by the importance of its channel, if that is known. */
export function searchingCoder(
  cells: Cells,
  settings: Pick<CoderSettings, 'name' | 'size'>,
  channels: Float64Array | undefined,
  { routine }: Pick<QuantizeContext, 'routine'>,
): BlockCoder {
  const backend = passes(routine, ['bnb.scale-search', 'bnb.searched']);
  return backend ? backedSearch(cells, settings, channels, backend) : searchHere(cells, settings, channels);
}

function searchHere(cells: Cells, { size }: Pick<CoderSettings, 'size'>, channels: Float64Array | undefined): BlockCoder {
  const finder = cellFinder(cells);
  const scalesOf = ({ weights, from }: Piece): Float32Array => searchScales({ values: toFloat32(weights), size, from, channels }, finder);
  return {
    backend: undefined,
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

function backedCoder(cells: Cells, { nonFinite, ...settings }: CoderSettings, backend: Passes): BlockCoder {
  const { size, shortBlock } = settings;
  const tables = [...tensorsOf(cells)];
  const check = nonFinite === 'refuse' ? checked(settings) : (absmax: Float32Array): Float32Array => absmax;
  return {
    backend,
    async absmax(piece) {
      const [absmax] = await backend.call(0, piece, [], { size, shortBlock });
      return check(toFloat32(absmax!), piece);
    },
    async code(piece, nested) {
      const params = { size, shortBlock, ...nestedParams(nested, piece.from / size) };
      return coded(await backend.call(1, piece, [...tables, ...nestedTensors(nested)], params), (absmax) => check(absmax, piece));
    },
  };
}

function backedSearch(
  cells: Cells,
  settings: Pick<CoderSettings, 'name' | 'size'>,
  channels: Float64Array | undefined,
  backend: Passes,
): BlockCoder {
  const { size } = settings;
  const [cuts, codes, values] = tensorsOf(cells);
  const importance = channels ? [hostTensor('f64', [channels.length], channels)] : [];
  const check = checked(settings);
  const params = { size, channels: channels?.length ?? 0 };
  return {
    backend,
    async absmax(piece) {
      const [scales] = await backend.call(0, piece, [cuts, values, ...importance], { ...params, from: piece.from });
      return check(toFloat32(scales!), piece);
    },
    async code(piece, nested) {
      const tables = [cuts, codes, values, ...importance, ...nestedTensors(nested)];
      const given = { ...params, from: piece.from, ...nestedParams(nested, piece.from / size) };
      return coded(await backend.call(1, piece, tables, given), (scales) => check(scales, piece));
    },
  };
}

/** What was read as it is stored has not been looked at: a magnitude, or the scale made of it, tells. Throws ERR_NON_FINITE. */
function checked({ name }: Pick<CoderSettings, 'name'>): (absmax: Float32Array, piece: Piece) => Float32Array {
  return (absmax, { weights, from, count }) => {
    if (!absmax.every(Number.isFinite)) assertFinite(name, toFloat32(weights), 0, count, from);
    return absmax;
  };
}

function coded(
  [packed, magnitudes, errors, nestedCodes, scale]: readonly HostTensor[],
  check: (absmax: Float32Array) => Float32Array,
): CodedBlocks {
  const absmax = check(toFloat32(magnitudes!));
  const scales = nestedCodes && scale ? { scale: toFloat32(scale), nestedCodes: nestedCodes.data } : { scale: absmax };
  return { packed: packed!.data, absmax, errors: elements({ dtype: 'f64', data: errors!.data }), ...scales };
}

function tensorsOf({ cuts, codes, values }: Cells): readonly [cuts: HostTensor, codes: HostTensor, values: HostTensor] {
  return [hostTensor('f32', [15], Float32Array.from(cuts)), hostTensor('u8', [16], codes), floats(values)];
}

function nestedTensors(nested: NestedScales | undefined): readonly HostTensor[] {
  return nested ? [nested.absmax, nested.map, nested.bounds].map(floats) : [];
}

function nestedParams(nested: NestedScales | undefined, first: number): JsonObject {
  if (!nested) return {};
  const { blocks, offset } = nested;
  return { nested: { first, blocks, offset: Number.isFinite(offset) ? offset : null } };
}

function floats(values: Float32Array): HostTensor {
  return hostTensor('f32', [values.length], values);
}
