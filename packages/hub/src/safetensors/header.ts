// Reading a safetensors header: 8 bytes of length, that much JSON, then data without holes. Pure functions over bytes, for Node and browsers.
// Everything in the file is untrusted: each number is checked before it is used for anything, and nothing is allocated on a file's word alone.

import { DTYPE_BYTES, LowbitError, quote, type TensorSpec } from '@lowbit/core';
import { isArray, isNumber, isObject, type JsonTree, parseJson } from '@lowbit/layouts';
import { DTYPE_OF, KNOWN_UNSUPPORTED } from './dtypes.ts';

/** Longest header in bytes, as in the Python library. */
export const MAX_HEADER_BYTES = 100_000_000;
/** `{ name: { shape: [ ... ] } }` needs 3; a little slack for keys that later versions may add. */
const MAX_DEPTH = 8;

/** Where a tensor lies in its file, in bytes from the start of the file. */
export interface TensorPlace extends TensorSpec {
  readonly start: number;
  readonly end: number;
}

/** What the header of a safetensors file says. */
export interface SafetensorsHeader {
  /** The `__metadata__` strings, in the file's order. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Tensors by name, in the header's order. */
  readonly tensors: ReadonlyMap<string, TensorPlace>;
  /** First byte after the header. */
  readonly dataStart: number;
}

/** An ERR_BAD_SAFETENSORS that names the file, and the tensor if there is one. */
export function badSafetensors(file: string, problem: string, tensor?: string): LowbitError {
  const where = tensor === undefined ? file : `${file}: tensor ${quote(tensor)}`;
  return new LowbitError('ERR_BAD_SAFETENSORS', `${where}: ${problem}`, {
    hint: 'The file is damaged or incomplete: fetch or write it again.',
    details: { file, ...(tensor === undefined ? {} : { tensor }) },
  });
}

/**
 * Length in bytes of the JSON that follows the first 8 bytes of a file.
 * Throws ERR_BAD_SAFETENSORS if it is over 100 MB or does not fit into `fileSize`.
 */
export function headerLength(prefix: Uint8Array, fileSize: number, file: string): number {
  if (prefix.byteLength < 8 || fileSize < 10) throw badSafetensors(file, `${fileSize} bytes are too few for a safetensors file`);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw badSafetensors(file, `the header claims ${length} bytes, more than ${MAX_HEADER_BYTES}; this is no safetensors file`);
  }
  if (Number(length) > fileSize - 8) throw badSafetensors(file, `the header claims ${length} bytes, the file has ${fileSize}`);
  return Number(length);
}

/**
 * Parses and checks the header JSON (without the 8 bytes before it) of a file of `fileSize` bytes: known dtypes, sound shapes, no holes, no
 * overlap, no duplicate names, and a file of exactly the right size. Throws ERR_BAD_SAFETENSORS, or ERR_UNSUPPORTED_FORMAT for a dtype that
 * the format defines but lowbit cannot hold (8-bit floats and the like).
 */
export function parseHeader(json: Uint8Array, fileSize: number, file: string): SafetensorsHeader {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json);
  } catch {
    throw badSafetensors(file, 'the header is not UTF-8');
  }
  if (text[0] !== '{') throw badSafetensors(file, 'the header is not a JSON object; this is no safetensors file');
  const root = parseJson(text, {
    maxDepth: MAX_DEPTH,
    duplicates: 'reject',
    fail: (problem, at) => badSafetensors(file, `the header has ${problem} (character ${at})`),
  });
  if (!isObject(root)) throw badSafetensors(file, 'the header is not a JSON object');

  const dataStart = 8 + json.byteLength;
  const tensors = new Map<string, TensorPlace>();
  for (const [name, entry] of root) {
    if (!isWellFormed(name)) throw badSafetensors(file, 'the name has half a surrogate pair', name);
    if (name !== '__metadata__') tensors.set(name, parseTensor(name, entry, dataStart, file));
  }
  checkCoverage(tensors, dataStart, fileSize, file);
  return { metadata: parseMetadata(root.get('__metadata__'), file), tensors, dataStart };
}

function parseMetadata(tree: JsonTree | undefined, file: string): ReadonlyMap<string, string> {
  if (tree === undefined) return new Map();
  if (!isObject(tree)) throw badSafetensors(file, '__metadata__ is not an object');
  const metadata = new Map<string, string>();
  for (const [key, value] of tree) {
    if (typeof value !== 'string') throw badSafetensors(file, `__metadata__ ${quote(key)} is not a string`);
    metadata.set(key, value);
  }
  return metadata;
}

function parseTensor(name: string, entry: JsonTree, dataStart: number, file: string): TensorPlace {
  const fail = (problem: string) => badSafetensors(file, problem, name);
  if (!isObject(entry)) throw fail('its entry is not an object');
  const typeName = entry.get('dtype');
  if (typeof typeName !== 'string') throw fail('no dtype');
  const dtype = DTYPE_OF.get(typeName);
  if (dtype === undefined) {
    if (!KNOWN_UNSUPPORTED.has(typeName)) throw fail(`unknown dtype ${quote(typeName)}`);
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${file}: tensor ${quote(name)} has dtype ${typeName}, which lowbit does not read`, {
      hint: 'Convert the checkpoint to F32, F16 or BF16 first.',
      details: { file, tensor: name, dtype: typeName },
    });
  }
  const dimensions = entry.get('shape');
  if (dimensions === undefined || dimensions === null || typeof dimensions !== 'object' || !isArray(dimensions)) throw fail('no shape');
  const shape: number[] = [];
  let count = 1;
  for (const dimension of dimensions) {
    const extent = whole(dimension);
    if (extent === undefined) throw fail('its shape has something else than whole numbers from 0');
    count *= extent;
    if (!Number.isSafeInteger(count)) throw fail('its shape overflows');
    shape.push(extent);
  }
  const offsets = entry.get('data_offsets');
  if (offsets === undefined || offsets === null || typeof offsets !== 'object' || !isArray(offsets) || offsets.length !== 2) {
    throw fail('no pair of data_offsets');
  }
  const from = whole(offsets[0]);
  const to = whole(offsets[1]);
  if (from === undefined || to === undefined || from > to) throw fail('its data_offsets are no range');
  const bytes = count * DTYPE_BYTES[dtype];
  if (to - from !== bytes) throw fail(`${typeName} [${shape.join(', ')}] takes ${bytes} bytes, its data_offsets hold ${to - from}`);
  return { dtype, shape, start: dataStart + from, end: dataStart + to };
}

/** A whole number from 0 that a double holds exactly, written without point or exponent (as the reference reader demands). */
function whole(tree: JsonTree | undefined): number | undefined {
  if (!isNumber(tree) || !/^[0-9]+$/.test(tree.literal)) return undefined;
  const value = Number(tree.literal);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** False for text with half a surrogate pair, which UTF-8 cannot hold. */
export function isWellFormed(text: string): boolean {
  return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}

/** The data ranges must follow each other without gap or overlap and end with the file. */
function checkCoverage(tensors: ReadonlyMap<string, TensorPlace>, dataStart: number, fileSize: number, file: string): void {
  const places = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  let end = dataStart;
  for (const [name, place] of places) {
    if (place.start < end) throw badSafetensors(file, 'its data overlaps that of another tensor', name);
    if (place.start > end) throw badSafetensors(file, `${place.start - end} bytes before its data belong to no tensor`, name);
    if (place.end > fileSize) {
      throw badSafetensors(file, `its data ends at byte ${place.end}, the file has ${fileSize}: it is cut off`, name);
    }
    end = place.end;
  }
  if (end !== fileSize) throw badSafetensors(file, `${fileSize - end} bytes follow the last tensor`);
}
