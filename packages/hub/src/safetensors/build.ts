// Laying out a safetensors file before any data exists, byte for byte as the Python library does: data sorted by dtype (wide first) and then
// by name, JSON without spaces, `__metadata__` first, and spaces so that the data begins at a multiple of 8.

import { byteLength, LowbitError, quote, type TensorSpec } from '@lowbit/core';
import { compareCodePoints } from '@lowbit/layouts';
import { fileRank, NAME_OF } from './dtypes.ts';
import { isWellFormed, MAX_HEADER_BYTES, type TensorPlace } from './header.ts';

/** A file to be: its first bytes, and where every tensor goes. */
export interface FilePlan {
  /** The 8 bytes of length and the JSON. */
  readonly header: Uint8Array;
  /** In file order. */
  readonly tensors: ReadonlyMap<string, TensorPlace>;
  /** Where the late tensors begin; `size` without any. */
  readonly lateStart: number;
  /** Bytes of the whole file. */
  readonly size: number;
}

/** Of `planFile`. */
export interface PlanFileOptions {
  /** Tensors that lie behind all others, because their length may change. */
  readonly late?: ReadonlySet<string> | undefined;
  /** Least bytes of the header: spaces are added. */
  readonly headerBytes?: number | undefined;
}

/**
 * Lays out one file. Metadata is written in the order given (the Python library's own order is that of a hash table when there are several).
 * Throws ERR_BAD_ARGUMENT for a name that the format cannot hold and ERR_LIMIT for a header over 100 MB.
 */
export function planFile(
  tensors: Iterable<readonly [string, TensorSpec]>,
  metadata: Readonly<Record<string, string>> = {},
  { late = new Set(), headerBytes = 0 }: PlanFileOptions = {},
): FilePlan {
  const lateRank = (name: string): number => (late.has(name) ? 1 : 0);
  const sorted = [...tensors].sort(
    ([a, x], [b, y]) => lateRank(a) - lateRank(b) || fileRank(x.dtype) - fileRank(y.dtype) || compareCodePoints(a, b),
  );
  const rows: string[] = [];
  if (Object.keys(metadata).length > 0) rows.push(`"__metadata__":${JSON.stringify(metadata)}`);
  const ranges: [name: string, spec: TensorSpec, from: number, to: number][] = [];
  let offset = 0;
  let fixed = 0;
  for (const [name, spec] of sorted) {
    if (name === '__metadata__' || !isWellFormed(name)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `a safetensors file cannot hold a tensor named ${quote(name)}`, {
        details: { tensor: name },
      });
    }
    const from = offset;
    offset += byteLength(spec);
    if (!late.has(name)) fixed = offset;
    ranges.push([name, spec, from, offset]);
    rows.push(
      `${JSON.stringify(name)}:{"dtype":"${NAME_OF[spec.dtype]}","shape":[${spec.shape.join(',')}],"data_offsets":[${from},${offset}]}`,
    );
  }
  const text = new TextEncoder().encode(`{${rows.join(',')}}`);
  const length = Math.max(Math.ceil(text.byteLength / 8) * 8, headerBytes - 8);
  const size = 8 + length + offset;
  if (length > MAX_HEADER_BYTES || !Number.isSafeInteger(size)) {
    throw new LowbitError('ERR_LIMIT', `a safetensors header of ${length} bytes is over the format's ${MAX_HEADER_BYTES}`, {
      hint: 'Use smaller shards.',
      details: { bytes: length, limit: MAX_HEADER_BYTES },
    });
  }
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, 8);
  const start = 8 + length;
  const places = new Map<string, TensorPlace>();
  for (const [name, spec, from, to] of ranges) {
    if (places.has(name)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the tensor ${quote(name)} is given twice`, { details: { tensor: name } });
    }
    places.set(name, { dtype: spec.dtype, shape: spec.shape, start: start + from, end: start + to });
  }
  return { header, tensors: places, lateStart: start + fixed, size };
}
