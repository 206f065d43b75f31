// The parts of a weight as the addon takes them without a detour: codes in a packing that it knows, numbers in the dtype of its tiles.

import { type Affine, type Codebook, DTYPE_BYTES, grouping, isLanePacking, packing, type QuantizedTensor } from '@lowbit/core';
import type { StoredWeight } from './binding.ts';
import type { LayoutPlan } from './layout.ts';

/** How a codebook or affine weight's codes lie, as a matrix of so many elements in rows of the file. */
function codesOf(name: string, rows: number, columns: number): Omit<StoredWeight, 'data'> | undefined {
  if (name === 'u8') return { order: 'bytes' };
  if (name === 'bnb_nibble') return { order: 'nibbles' };
  const found = packing(name);
  if (!isLanePacking(found) || found.dtype === 'i16') return undefined;
  const { bitsPerLane: bits, lanes, dtype } = found;
  if (lanes === 1 && bits === 8) return { order: 'bytes' };
  return { order: 'lanes', wordBytes: DTYPE_BYTES[dtype] as 1 | 4, bits, lanes, lane: found.wordRows(rows) * columns };
}

/** What `packWeight` takes; undefined for a weight that only its codec can read. The parts are those of the format. */
export function storedWeight({ format, shape, parts }: QuantizedTensor, plan: LayoutPlan): StoredWeight | undefined {
  if (plan.level === 'dequant') return undefined;
  const data = (parts.codes ?? parts.weight)!.data;
  switch (format.kind) {
    case 'dense':
    case 'int8':
      // Signed bytes are bytes.
      return { order: 'bytes', data: bytesOf(data) };
    case 'affine': {
      const { rows, columns } = grouping(format as Affine, shape);
      const codes = codesOf((format as Affine).packing, rows, columns);
      if (!codes) return undefined;
      const { asStored } = plan;
      if (!asStored) return { ...codes, data: bytesOf(data) };
      const { scale, zero, repeat } = asStored;
      return {
        ...codes,
        data: bytesOf(data),
        scale: bytesOf(parts[scale]!.data),
        ...(typeof zero === 'number' ? { zeroValue: zero } : { zero: bytesOf(parts[zero]!.data) }),
        repeat,
      };
    }
    case 'codebook': {
      const { packing: name, dim, rotate } = format as Codebook;
      const codes = dim === 1 && !rotate ? codesOf(name, shape[0], shape[1]) : undefined;
      return codes && { ...codes, data: bytesOf(data), entries: Math.max(2, plan.codes ?? 256) };
    }
    default:
      return undefined;
  }
}

/** Of any view, plain bytes: a Buffer is one, too. */
function bytesOf(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
