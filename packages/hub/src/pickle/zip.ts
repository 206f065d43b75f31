// The directory of a zip archive, by positional reads. PyTorch stores its entries uncompressed, so an entry is a range of the file; sizes, offsets
// and counts are claims of a stranger until they agree with each other and with the size of the file.

import { badPickle } from './values.ts';

/** Reads exactly these bytes of the file; rejects if it ends before. */
export type ReadAt = (at: number, length: number, signal?: AbortSignal) => Promise<Uint8Array>;

export interface ZipEntry {
  readonly name: string;
  /** Stored as it is, or deflated. */
  readonly method: 'stored' | 'deflated';
  /** Bytes in the file. */
  readonly packed: number;
  /** Bytes after inflating; equal to `packed` where it is stored. */
  readonly size: number;
  /** Offset of its local header. */
  readonly header: number;
  /** Offset of what follows it: the next header, or the directory. */
  readonly limit: number;
}

/** Most entries: a file of a hundred thousand tensors has as many. */
const MAX_ENTRIES = 250_000;
const MAX_DIRECTORY = 64 * 1024 * 1024;
const MAX_NAME = 512;

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const LOCAL_BYTES = 30;
const CENTRAL_BYTES = 46;
const END_BYTES = 22;
const END64_BYTES = 56;
const LOCATOR64_BYTES = 20;
const ENCRYPTED = 0x0001;
const UNSET16 = 0xffff;
const UNSET32 = 0xffff_ffff;

/** True for the first bytes of a zip archive. */
export function looksLikeZip(prefix: Uint8Array): boolean {
  return prefix.byteLength >= 4 && view(prefix).getUint32(0, true) === LOCAL;
}

/**
 * Entries by name, in the order of the directory. Throws ERR_BAD_PICKLE for directories that lie: entries that overlap, repeat a name, leave the
 * file, are encrypted, split over disks or compressed in other ways than deflate.
 */
export async function readDirectory(
  read: ReadAt,
  fileSize: number,
  file: string,
  signal?: AbortSignal,
): Promise<ReadonlyMap<string, ZipEntry>> {
  const { at, bytes, count } = await findDirectory(read, fileSize, file, signal);
  if (count > MAX_ENTRIES) throw badPickle(file, `the archive claims ${count} entries, more than ${MAX_ENTRIES}`);
  if (bytes > MAX_DIRECTORY) throw badPickle(file, `the archive's directory claims ${bytes} bytes, more than ${MAX_DIRECTORY}`);
  if (count * CENTRAL_BYTES > bytes) throw badPickle(file, `the archive claims ${count} entries in a directory of ${bytes} bytes`);
  const found = parseDirectory(await read(at, bytes, signal), count, file);

  // Each entry ends before the next begins. The local header may be longer than is known yet; `locate` compares again.
  const entries = new Map<string, ZipEntry>();
  const limits = new Map<Found, number>();
  const byPlace = [...found].sort((a, b) => a.header - b.header);
  for (const [i, entry] of byPlace.entries()) {
    const limit = byPlace[i + 1]?.header ?? at;
    if (entry.header + LOCAL_BYTES + entry.nameBytes + entry.packed > limit) {
      throw badPickle(file, `the archive's entry ${JSON.stringify(entry.name)} of ${entry.packed} bytes overlaps what follows it`);
    }
    limits.set(entry, limit);
  }
  for (const entry of found) {
    const { nameBytes: _, ...rest } = entry;
    if (entries.has(entry.name)) throw badPickle(file, `the archive has two entries ${JSON.stringify(entry.name)}`);
    entries.set(entry.name, { ...rest, limit: limits.get(entry)! });
  }
  return entries;
}

/** First byte of an entry's data. Throws ERR_BAD_PICKLE if its local header disagrees with the directory. */
export async function locate(read: ReadAt, entry: ZipEntry, file: string, signal?: AbortSignal): Promise<number> {
  const fail = () => badPickle(file, `the archive's entry ${JSON.stringify(entry.name)} does not agree with its directory`);
  const header = view(await read(entry.header, LOCAL_BYTES, signal));
  const method = header.getUint16(8, true);
  const nameBytes = header.getUint16(26, true);
  const start = entry.header + LOCAL_BYTES + nameBytes + header.getUint16(28, true);
  if (header.getUint32(0, true) !== LOCAL || method !== (entry.method === 'stored' ? 0 : 8)) throw fail();
  if (nameBytes > MAX_NAME || start + entry.packed > entry.limit) throw fail();
  if (nameOf(await read(entry.header + LOCAL_BYTES, nameBytes, signal)) !== entry.name) throw fail();
  return start;
}

interface Found extends Omit<ZipEntry, 'limit'> {
  readonly nameBytes: number;
}

interface Directory {
  readonly at: number;
  readonly bytes: number;
  readonly count: number;
}

async function findDirectory(read: ReadAt, fileSize: number, file: string, signal?: AbortSignal): Promise<Directory> {
  const cut = () => badPickle(file, 'the archive has no directory at its end: the file is cut off or no PyTorch file');
  if (fileSize < END_BYTES) throw cut();
  // A comment may follow, so the end record is searched for, from the back.
  const tailBytes = Math.min(fileSize, END_BYTES + UNSET16 + LOCATOR64_BYTES);
  const tailAt = fileSize - tailBytes;
  const tail = view(await read(tailAt, tailBytes, signal));
  let end = tailBytes - END_BYTES;
  while (end >= 0 && !(tail.getUint32(end, true) === END && tail.getUint16(end + 20, true) === tailBytes - end - END_BYTES)) end--;
  if (end < 0) throw cut();
  if (tail.getUint16(end + 4, true) !== 0 && tail.getUint16(end + 4, true) !== UNSET16)
    throw badPickle(file, 'the archive is split over disks');
  let directory: Directory = {
    count: tail.getUint16(end + 10, true),
    bytes: tail.getUint32(end + 12, true),
    at: tail.getUint32(end + 16, true),
  };
  let after = tailAt + end;
  const locator = end - LOCATOR64_BYTES;
  if (locator >= 0 && tail.getUint32(locator, true) === LOCATOR64) {
    const at64 = safe(tail.getBigUint64(locator + 8, true));
    if (at64 === undefined || at64 + END64_BYTES > tailAt + locator) throw cut();
    const end64 = view(await read(at64, END64_BYTES, signal));
    if (end64.getUint32(0, true) !== END64) throw cut();
    const [count, bytes, at] = [32, 40, 48].map((offset) => safe(end64.getBigUint64(offset, true)));
    if (count === undefined || bytes === undefined || at === undefined) throw cut();
    directory = { count, bytes, at };
    after = at64;
  }
  // Where both are there, PyTorch and zip tools write the same numbers or "see the other one"; the 64-bit record is the one that counts.
  if (directory.at + directory.bytes > after) {
    throw badPickle(
      file,
      `the archive's directory claims bytes ${directory.at} to ${directory.at + directory.bytes} of a file of ${fileSize}`,
    );
  }
  return directory;
}

function parseDirectory(bytes: Uint8Array, count: number, file: string): Found[] {
  const central = view(bytes);
  const found: Found[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    const fail = (problem: string) => badPickle(file, `entry ${i} of the archive's directory ${problem}`);
    if (at + CENTRAL_BYTES > bytes.byteLength || central.getUint32(at, true) !== CENTRAL) throw fail('is cut off or damaged');
    const nameBytes = central.getUint16(at + 28, true);
    const extraBytes = central.getUint16(at + 30, true);
    const next = at + CENTRAL_BYTES + nameBytes + extraBytes + central.getUint16(at + 32, true);
    if (nameBytes === 0 || nameBytes > MAX_NAME) throw fail(`has a name of ${nameBytes} bytes, expected 1 to ${MAX_NAME}`);
    if (next > bytes.byteLength) throw fail('is cut off');
    const nameAt = at + CENTRAL_BYTES;
    const name = nameOf(bytes.subarray(nameAt, nameAt + nameBytes));
    if (name === undefined) throw fail('has a name that is not UTF-8');
    if ((central.getUint16(at + 8, true) & ENCRYPTED) !== 0) throw fail(`(${JSON.stringify(name)}) is encrypted`);
    const code = central.getUint16(at + 10, true);
    if (code !== 0 && code !== 8) throw fail(`(${JSON.stringify(name)}) is compressed by method ${code}, expected none or deflate`);
    const extra = new DataView(bytes.buffer, bytes.byteOffset + nameAt + nameBytes, extraBytes);
    const sizes = wideSizes(central, at, extra);
    if (sizes === undefined) throw fail(`(${JSON.stringify(name)}) has no sound sizes`);
    const [size, packed, header] = sizes;
    if (code === 0 && size !== packed) throw fail(`(${JSON.stringify(name)}) is stored, but in ${packed} bytes instead of ${size}`);
    found.push({ name, method: code === 0 ? 'stored' : 'deflated', packed, size, header, nameBytes });
    at = next;
  }
  return found;
}

/** Size, packed size and header offset, from the zip64 extra field where the 32-bit fields say so. */
function wideSizes(central: DataView, at: number, extra: DataView): readonly [size: number, packed: number, header: number] | undefined {
  const narrow = [central.getUint32(at + 24, true), central.getUint32(at + 20, true), central.getUint32(at + 42, true)];
  if (!narrow.includes(UNSET32)) return narrow as [number, number, number];
  for (let field = 0; field + 4 <= extra.byteLength; ) {
    const length = extra.getUint16(field + 2, true);
    const end = field + 4 + length;
    if (end > extra.byteLength) return undefined;
    if (extra.getUint16(field, true) === 1) {
      let next = field + 4;
      const wide = narrow.map((value) => {
        if (value !== UNSET32) return value;
        next += 8;
        return next <= end ? safe(extra.getBigUint64(next - 8, true)) : undefined;
      });
      return wide.includes(undefined) ? undefined : (wide as [number, number, number]);
    }
    field = end;
  }
  return undefined;
}

function safe(value: bigint): number | undefined {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}

function nameOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
