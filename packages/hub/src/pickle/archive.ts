// A file of torch.save (1.6 and later): a zip archive with one pickle, `data.pkl`, and the bytes of each storage in an entry of its own.

import { LowbitError } from '@lowbit/core';
import { inflate } from './inflate.ts';
import { unpickle } from './unpickle.ts';
import { badPickle, CONVERT_HINT, type PickleValue } from './values.ts';
import { locate, looksLikeZip, type ReadAt, readDirectory, type ZipEntry } from './zip.ts';

/** Largest `data.pkl`: a hundred thousand tensors take about 20 MB. */
const MAX_PICKLE = 64 * 1024 * 1024;
/** Largest compressed storage. PyTorch does not compress; of what others do, each read inflates the whole. */
const MAX_INFLATED = 16 * 1024 * 1024;
/** How torch.save of versions before 1.6 begins: a pickled number, 0x1950a86a20f9469cfc6c. */
const LEGACY_MAGIC = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

export interface TorchArchive {
  /** What was saved, without the bytes of its tensors. */
  readonly content: PickleValue;
  /** Bytes of a storage; undefined if the archive has none of that key. */
  storageBytes(key: string): number | undefined;
  /** Bytes [at, at + length) of a storage, and nothing else where it is stored uncompressed. */
  readStorage(key: string, at: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
}

/**
 * Reads directory and pickle. Throws ERR_BAD_PICKLE, and ERR_UNSUPPORTED_FORMAT for the older format without an archive, TorchScript programs and
 * big-endian files.
 */
export async function openArchive(read: ReadAt, fileSize: number, file: string, signal?: AbortSignal): Promise<TorchArchive> {
  const prefix = await read(0, Math.min(fileSize, 2 + LEGACY_MAGIC.length), signal);
  if (prefix[0] === 0x80 && LEGACY_MAGIC.every((byte, i) => prefix[2 + i] === byte)) {
    throw unsupported(
      file,
      'is in the format that PyTorch wrote before 1.6',
      'Save it again in Python: torch.save(torch.load(path, weights_only=True), path), or save its tensors as safetensors.',
    );
  }
  if (!looksLikeZip(prefix)) throw badPickle(file, 'is no PyTorch file: it does not begin as a zip archive');
  const entries = await readDirectory(read, fileSize, file, signal);
  const root = rootOf(entries, file);
  if (entries.has(`${root}constants.pkl`)) {
    throw unsupported(file, 'is a TorchScript program, not a state dict', 'Save model.state_dict() in Python, best as safetensors.');
  }

  async function whole(entry: ZipEntry, maxBytes: number, signal?: AbortSignal): Promise<Uint8Array> {
    if (entry.size > maxBytes || entry.packed > maxBytes) {
      throw new LowbitError(
        'ERR_LIMIT',
        `${file}: the entry ${JSON.stringify(entry.name)} claims ${entry.size} bytes, more than ${maxBytes}`,
        {
          hint: entry.method === 'deflated' ? 'Unpack and store it without compression, as PyTorch does.' : 'Do not trust this file.',
          details: { file, entry: entry.name, bytes: entry.size, limit: maxBytes },
        },
      );
    }
    const packed = await read(await locate(read, entry, file, signal), entry.packed, signal);
    return entry.method === 'stored' ? packed : inflate(packed, entry.size, file);
  }

  const order = entries.get(`${root}byteorder`);
  if (order !== undefined && new TextDecoder().decode(await whole(order, 16, signal)) !== 'little') {
    throw unsupported(file, 'has big-endian tensors', 'Save it again on a little-endian machine.');
  }
  const content = unpickle(await whole(entries.get(`${root}data.pkl`)!, MAX_PICKLE, signal), file);

  const storage = (key: string) => entries.get(`${root}data/${key}`);
  /** Where the data of storages begins, known after their first read. */
  const starts = new Map<string, number>();
  return {
    content,
    storageBytes: (key) => storage(key)?.size,
    async readStorage(key, at, length, signal) {
      const entry = storage(key);
      if (entry === undefined || at < 0 || at + length > entry.size)
        throw badPickle(file, `no bytes ${at} to ${at + length} in storage ${key}`);
      if (entry.method === 'deflated') return (await whole(entry, MAX_INFLATED, signal)).subarray(at, at + length);
      let start = starts.get(key);
      if (start === undefined) {
        start = await locate(read, entry, file, signal);
        starts.set(key, start);
      }
      return read(start + at, length, signal);
    },
  };
}

/** The folder of the archive that everything is in, such as `archive/`. */
function rootOf(entries: ReadonlyMap<string, ZipEntry>, file: string): string {
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length === 1) return pickles[0]!.slice(0, -'data.pkl'.length);
  const problem = pickles.length === 0 ? 'is a zip archive without a data.pkl' : 'is a zip archive with several data.pkl';
  throw badPickle(file, `${problem}: no file of torch.save`, { hint: CONVERT_HINT });
}

function unsupported(file: string, problem: string, hint: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `${file} ${problem}`, { hint, details: { file } });
}
