// Taking a stored linear over into another packing: codes are moved tile by tile, everything else byte by byte, so that nothing is computed and little is
// held.

import type { Codebook, Format, PartWriter, StoredLinear, TensorSource, TensorSpec } from '@lowbit/core';
import {
  byteLength,
  codecFor,
  DTYPE_BYTES,
  isTilePacking,
  LowbitError,
  type PackedRun,
  packing,
  quote,
  storedColumns,
  type TilePacking,
} from '@lowbit/core';

export interface RecodeOptions {
  /** For messages. */
  readonly path: string;
  /** Bytes to hold at once. */
  readonly budget: number;
  readonly signal?: AbortSignal | undefined;
  /** Called with bytes of the source that are done since the last call. */
  readonly onBytes?: ((count: number) => void) | undefined;
}

/** Bytes of the source that a linear's parts are in. */
export function recodedBytes({ entries }: TensorSource, { parts }: StoredLinear): number {
  return Object.values(parts).reduce((sum, name) => sum + byteLength(entries.get(name) ?? { dtype: 'u8', shape: [0] }), 0);
}

/** True if `recodeLinear` can make the one of the other: they differ in nothing but a packing that works by tiles, or not at all. */
export function isRecoding(from: Format, to: Format): boolean {
  if (JSON.stringify(from) === JSON.stringify(to)) return true;
  if (from.kind !== 'codebook' || to.kind !== 'codebook') return false;
  const [a, b] = [from as Codebook, to as Codebook];
  if (JSON.stringify({ ...a, packing: '' }) !== JSON.stringify({ ...b, packing: '' })) return false;
  return [a, b].every((format) => isTilePacking(packing(format.packing)));
}

/**
 * Writes the parts of a stored linear in `format`.
 * @throws ERR_UNSUPPORTED_FORMAT (formats that differ in more than their packing), ERR_LIMIT (a tile over the budget), ERR_TENSOR_MISMATCH
 */
export async function recodeLinear(
  source: TensorSource,
  stored: StoredLinear,
  format: Format,
  out: PartWriter,
  options: RecodeOptions,
): Promise<void> {
  const { path } = options;
  if (!isRecoding(stored.format, format)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(path)}: its codes cannot be taken over into another format`, {
      hint: 'Only the packing of codes can be changed. For other settings quantize the original again.',
      details: { path, from: stored.format, to: format },
    });
  }
  const from = codecFor(stored.format).parts(stored.format, stored.shape);
  const repacked = stored.format.kind === 'codebook' && (stored.format as Codebook).packing !== (format as Codebook).packing;
  for (const [part, spec] of Object.entries(from)) {
    const constant = stored.constants?.[part];
    if (constant) await out.write(part, 0, constant.data);
    else if (part === 'codes' && repacked) await repack(source, stored, format as Codebook, out, options);
    else await copyPart(source, stored, part, spec, out, options);
  }
}

/** Bytes copied at a time. */
const CHUNK = 8 << 20;

async function copyPart(
  source: TensorSource,
  { parts }: StoredLinear,
  part: string,
  spec: TensorSpec,
  out: PartWriter,
  options: RecodeOptions,
): Promise<void> {
  const { name, width } = tensorOf(source, parts, part, spec, options.path);
  const total = byteLength(spec);
  const unit = Math.max(width, DTYPE_BYTES[spec.dtype]);
  const step = unit * Math.max(1, Math.floor(Math.min(CHUNK, options.budget / 4) / unit));
  for (let at = 0; at < total; at += step) {
    options.signal?.throwIfAborted();
    const end = Math.min(total, at + step);
    const { data } = await source.read(name, { range: [at / width, Math.ceil(end / width)], signal: options.signal });
    await out.write(part, at / DTYPE_BYTES[spec.dtype], data.subarray(0, end - at));
    options.onBytes?.(end - at);
  }
}

/** The tensor that holds a part, and the bytes of its elements. Throws ERR_TENSOR_MISMATCH if it is too short. */
function tensorOf(
  { entries }: TensorSource,
  parts: StoredLinear['parts'],
  part: string,
  spec: TensorSpec,
  path: string,
): { readonly name: string; readonly width: number } {
  const name = parts[part];
  const entry = name === undefined ? undefined : entries.get(name);
  if (name !== undefined && entry !== undefined && byteLength(entry) >= byteLength(spec)) return { name, width: DTYPE_BYTES[entry.dtype] };
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(path)}: the part '${part}' needs ${spec.dtype} [${spec.shape.join(', ')}]`, {
    details: { path, part, tensor: name, expected: spec, actual: entry },
  });
}

/** Moves codes from one packing into another. A step is as many rows as both have in whole tiles, or several times that. */
async function repack(
  source: TensorSource,
  stored: StoredLinear,
  format: Codebook,
  out: PartWriter,
  { path, budget, signal, onBytes }: RecodeOptions,
): Promise<void> {
  const own = stored.format as Codebook;
  const [from, to] = [packing(own.packing) as TilePacking, packing(format.packing) as TilePacking];
  const tensor = tensorOf(source, stored.parts, 'codes', codecFor(own).parts(own, stored.shape).codes!, path);
  const [rows] = stored.shape;
  const columns = storedColumns(own, stored.shape) / own.dim;
  const least = leastCommonMultiple(from.tileRows, to.tileRows);
  // Codes are held as bytes, and packed before and after, in two copies each at the most.
  const cost = 5 * columns;
  if (least * cost > budget) {
    throw new LowbitError(
      'ERR_LIMIT',
      `${quote(path)}: ${least} rows at a time take ${least * cost} bytes, more than the ${budget} allowed`,
      {
        hint: `Allow at least ${least * cost} bytes (maxMemory, for each linear at a time).`,
        details: { path, bytes: least * cost, budget },
      },
    );
  }
  const step = least * Math.max(1, Math.floor(Math.min(CHUNK, budget) / (least * cost)));
  for (let row = 0; row < rows; row += step) {
    signal?.throwIfAborted();
    const end = Math.min(rows, row + step);
    const tiles = await readTiles(source, tensor, from, { from: row / from.tileRows, to: end / from.tileRows, rows, columns, signal });
    const codes = new Uint8Array((end - row) * columns);
    let read = 0;
    for (const [i, packed] of tiles.entries()) {
      codes.set(from.unpackTile(packed, row / from.tileRows + i, rows, columns), i * from.tileRows * columns);
      read += packed.byteLength;
    }
    const runs: PackedRun[] = [];
    for (let first = row; first < end; first += to.tileRows) {
      const own = codes.subarray((first - row) * columns, (first - row + to.tileRows) * columns);
      runs.push(...to.packTile(own, first / to.tileRows, rows, columns));
    }
    for (const { at, data } of joined(runs, DTYPE_BYTES[to.dtype])) await out.write('codes', at, data);
    onBytes?.(read);
  }
}

interface TileRange {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
  readonly columns: number;
  readonly signal: AbortSignal | undefined;
}

/** The packed bytes of each of some consecutive tiles; what lies side by side is read at once. */
async function readTiles(
  source: TensorSource,
  { name, width }: { readonly name: string; readonly width: number },
  tiles: TilePacking,
  { from, to, rows, columns, signal }: TileRange,
): Promise<readonly Uint8Array[]> {
  const size = DTYPE_BYTES[tiles.dtype];
  const wanted: { readonly at: number; readonly count: number; readonly into: Uint8Array; readonly offset: number }[] = [];
  const packed: Uint8Array[] = [];
  for (let tile = from; tile < to; tile++) {
    const runs = tiles.tileRuns(tile, rows, columns);
    const into = new Uint8Array(size * runs.reduce((sum, { count }) => sum + count, 0));
    packed.push(into);
    let offset = 0;
    for (const run of runs) {
      wanted.push({ ...run, into, offset });
      offset += size * run.count;
    }
  }
  wanted.sort((a, b) => a.at - b.at);
  for (let i = 0; i < wanted.length; ) {
    const start = wanted[i]!.at;
    let last = i;
    let end = start;
    while (last < wanted.length && wanted[last]!.at === end) end += wanted[last++]!.count;
    const { data } = await source.read(name, { range: [(start * size) / width, (end * size) / width], signal });
    for (; i < last; i++) {
      const { at, count, into, offset } = wanted[i]!;
      into.set(data.subarray((at - start) * size, (at - start + count) * size), offset);
    }
  }
  return packed;
}

/** Runs that lie side by side as one. */
function joined(runs: readonly PackedRun[], size: number): readonly PackedRun[] {
  const sorted = [...runs].sort((a, b) => a.at - b.at);
  const result: PackedRun[] = [];
  for (let i = 0; i < sorted.length; ) {
    const { at } = sorted[i]!;
    let end = at;
    const first = i;
    while (i < sorted.length && sorted[i]!.at === end) end += sorted[i++]!.data.byteLength / size;
    const data = new Uint8Array((end - at) * size);
    for (const run of sorted.slice(first, i)) data.set(run.data, (run.at - at) * size);
    result.push({ at, data });
  }
  return result;
}

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y > 0) [x, y] = [y, x % y];
  return (a / x) * b;
}
