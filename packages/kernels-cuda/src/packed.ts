// How a kernel finds the codes of a checkpoint's `codes` tensor: what `repack_codes` of native/kernels/repack.cuh is told of a packing.

import {
  type Affine,
  type Codebook,
  type Format,
  grouping,
  isLanePacking,
  type Matrix,
  type Packing,
  packing,
  storedColumns,
} from '@lowbit/core';
import type { Argument } from './binding.ts';
import { int } from './launches.ts';

/** In the order of `Packing` there. */
const KIND = { bytes: 0, nibbles: 1, lanes8: 2, lanes32: 3, rowBits: 4, flute: 5 } as const;

export interface PackedCodes {
  /** Of the weight's rows as they are stored. */
  readonly rowCodes: number;
  /** Widest code that the packing can hold. */
  readonly bits: number;
  /** The kernel's arguments between the packed bytes and `row_codes`. */
  readonly list: readonly Argument[];
}

/** Of a weight with codes. Throws ERR_UNSUPPORTED_FORMAT where the format cannot hold the shape. */
export function packedCodes(format: Format, shape: Matrix): PackedCodes {
  if (format.kind === 'int8') return described({ kind: KIND.bytes, bits: 8 }, shape, shape[1]);
  if (format.kind === 'affine') {
    const { rows, columns } = grouping(format as Affine, shape);
    return ofPacking(packing((format as Affine).packing), [rows, columns], shape[1]);
  }
  const { packing: name, dim } = format as Codebook;
  const columns = storedColumns(format as Codebook, shape) / dim;
  return ofPacking(packing(name), [shape[0], columns], columns);
}

interface Order {
  readonly kind: number;
  readonly bits: number;
  readonly laneRows?: number;
  readonly lanes?: number;
  readonly tile?: number;
  readonly dim?: number;
}

function described(order: Order, [rows, columns]: Matrix, rowCodes: number): PackedCodes {
  const { kind, bits, laneRows = 0, lanes = 1, tile = 0, dim = 1 } = order;
  return { rowCodes, bits, list: [kind, bits, rows, columns, laneRows, lanes, 4 * tile + dim].map(int) };
}

function ofPacking(one: Packing, matrix: Matrix, rowCodes: number): PackedCodes {
  return described(orderOf(one, matrix), matrix, rowCodes);
}

function orderOf(one: Packing, [rows]: Matrix): Order {
  const { name, bits } = one;
  if (isLanePacking(one)) {
    if (one.lanes === 1) return { kind: KIND.bytes, bits };
    const kind = one.dtype === 'u8' ? KIND.lanes8 : KIND.lanes32;
    return { kind, bits, laneRows: one.wordRows(rows), lanes: one.lanes };
  }
  if (name === 'u8') return { kind: KIND.bytes, bits };
  if (name === 'bnb_nibble') return { kind: KIND.nibbles, bits };
  if (name.startsWith('row_bits')) return { kind: KIND.rowBits, bits };
  const [, dim, tile] = /^flute\d_p(\d)_t(\d+)$/.exec(name)!.map(Number) as [number, number, number];
  return { kind: KIND.flute, bits, tile, dim };
}
