// Reading the front of a GGUF file: metadata, and where its tensors lie. Versions 2 and 3, little-endian, after docs/gguf.md of ggml. A pure function over bytes.
// Everything in the file is untrusted: each number is checked before it is used for anything, and nothing is allocated on a file's word alone.

import { LowbitError, quote } from '@lowbit/core';
import { badGguf } from './bad.ts';
import { GGML_TYPES, type GgmlType } from './types.ts';

/** Longest front of a file in bytes. Vocabularies of 256 k tokens take about 15 MB. */
export const MAX_GGUF_HEADER = 128 * 2 ** 20;
const MAX_KEYS = 1 << 16;
const MAX_KEY_BYTES = 65_535;
const MAX_TENSORS = 1 << 18;
const MAX_NAME_BYTES = 255;
/** Texts of all lists together. */
const MAX_TEXTS = 1 << 22;
/** Lists of lists are allowed by the format and used by nobody. */
const MAX_DEPTH = 4;
const MAX_DIMENSIONS = 4;
const MAX_ALIGNMENT = 1 << 20;

/** Numbers of a list keep the width of the file, so that a file cannot make more memory of itself than it has bytes. */
export type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** Whole numbers that a double does not hold exactly are bigints. */
export type GgufValue = number | bigint | boolean | string | readonly string[] | GgufNumbers | readonly GgufValue[];

/** A tensor and where it lies. */
export interface GgufTensor {
  readonly type: GgmlType;
  /** As in Hugging Face's files: the row length last. The file has it the other way round. */
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly start: number;
  readonly end: number;
}

/** What a GGUF file says of itself before its tensors. */
export interface GgufHeader {
  readonly version: 2 | 3;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** By their names in the file, in its order. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  /** Bytes until the data begins. */
  readonly dataStart: number;
}

/** Thrown inside of this file where the bytes at hand end before the header does. */
const MORE = Symbol('more');

/**
 * Parses the front of a file of `fileSize` bytes. Undefined if `bytes` are too few of it: give more.
 * @throws ERR_BAD_CHECKPOINT for what breaks the format, ERR_LIMIT over 128 MiB of metadata, ERR_UNSUPPORTED_FORMAT for version 1, big-endian files and unknown types
 */
export function parseGguf(bytes: Uint8Array, fileSize: number, file: string): GgufHeader | undefined {
  try {
    return parse(new Reader(bytes, fileSize, file), fileSize, file);
  } catch (error) {
    if (error === MORE) return undefined;
    throw error;
  }
}

function parse(reader: Reader, fileSize: number, file: string): GgufHeader {
  const version = readVersion(reader, file);
  const tensorCount = reader.count('tensors', MAX_TENSORS);
  const keyCount = reader.count('keys', MAX_KEYS);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = reader.text(MAX_KEY_BYTES, 'a key');
    if (metadata.has(key)) throw badGguf(file, `the key ${quote(key)} is there twice`);
    metadata.set(key, readValue(reader, reader.u32(), 0));
  }
  const found: (Omit<GgufTensor, 'end'> & { name: string; bytes: number })[] = [];
  for (let i = 0; i < tensorCount; i++) found.push(readTensor(reader));
  const alignment = readAlignment(metadata, file);
  const dataStart = Math.ceil(reader.at / alignment) * alignment;
  const tensors = new Map<string, GgufTensor>();
  for (const { name, type, shape, start: offset, bytes } of found) {
    const problem = (text: string) => badGguf(file, `tensor ${quote(name)}: ${text}`, { tensor: name });
    if (tensors.has(name)) throw problem('it is there twice');
    if (offset % alignment !== 0) throw problem(`it begins at byte ${offset} of the data, which is no multiple of ${alignment}`);
    const start = dataStart + offset;
    if (start + bytes > fileSize) throw problem(`it ends at byte ${start + bytes}, the file has ${fileSize}`);
    tensors.set(name, { type, shape, start, end: start + bytes });
  }
  checkOverlap(tensors, file);
  return { version, metadata, tensors, dataStart };
}

function readVersion(reader: Reader, file: string): 2 | 3 {
  if (reader.u32() !== 0x46554747) throw badGguf(file, 'it does not begin with GGUF; this is no GGUF file');
  const version = reader.u32();
  if (version === 2 || version === 3) return version;
  const swapped = version >= 1 << 24;
  throw new LowbitError(
    'ERR_UNSUPPORTED_FORMAT',
    `${file}: ${swapped ? 'a big-endian GGUF file' : `GGUF version ${version}`} is not read`,
    {
      hint: 'Versions 2 and 3, little-endian, are. Fetch a newer file, or make one with a current llama.cpp.',
      details: { file, version },
    },
  );
}

function readAlignment(metadata: ReadonlyMap<string, GgufValue>, file: string): number {
  const alignment = metadata.get('general.alignment') ?? 32;
  const fits = typeof alignment === 'number' && Number.isInteger(alignment) && alignment >= 1 && alignment <= MAX_ALIGNMENT;
  if (fits && (alignment & (alignment - 1)) === 0) return alignment;
  throw badGguf(file, `general.alignment is ${String(alignment).slice(0, 40)}, not a power of two up to ${MAX_ALIGNMENT}`);
}

function readTensor(reader: Reader) {
  const { file } = reader;
  const name = reader.text(MAX_NAME_BYTES, 'the name of a tensor');
  const problem = (text: string) => badGguf(file, `tensor ${quote(name)}: ${text}`, { tensor: name });
  const dimensions = reader.u32();
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) throw problem(`${dimensions} dimensions`);
  const shape: number[] = [];
  let elements = 1;
  for (let i = 0; i < dimensions; i++) {
    const extent = reader.u64();
    if (typeof extent !== 'number' || extent < 1) throw problem(`a dimension of ${extent}`);
    elements *= extent;
    if (!Number.isSafeInteger(elements)) throw problem('its shape overflows');
    shape.unshift(extent);
  }
  const id = reader.u32();
  const type = GGML_TYPES.get(id);
  if (type === undefined) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${file}: tensor ${quote(name)} has ggml's type ${id}, which is not known here`, {
      hint: 'Use a file with types such as F16, Q8_0, Q6_K or Q4_K.',
      details: { file, tensor: name, type: id },
    });
  }
  const row = shape.at(-1)!;
  if (row % type.block !== 0) throw problem(`rows of ${row} are no whole blocks of ${type.name}, which have ${type.block}`);
  const bytes = (elements / type.block) * type.bytes;
  const start = reader.u64();
  if (typeof start !== 'number' || !Number.isSafeInteger(start + bytes)) throw problem(`it begins at byte ${start}`);
  return { name, type, shape, start, bytes };
}

function checkOverlap(tensors: ReadonlyMap<string, GgufTensor>, file: string): void {
  let end = 0;
  let before = '';
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.start - b.start)) {
    if (tensor.start < end) throw badGguf(file, `tensor ${quote(name)} overlaps ${quote(before)}`, { tensor: name });
    ({ end } = tensor);
    before = name;
  }
}

/** By their numbers in the file. */
const SCALARS: ReadonlyMap<number, { bytes: number; read(reader: Reader): GgufValue; list(bytes: ArrayBuffer): GgufNumbers }> = new Map([
  [0, { bytes: 1, read: (r) => r.view(1).getUint8(0), list: (b) => new Uint8Array(b) }],
  [1, { bytes: 1, read: (r) => r.view(1).getInt8(0), list: (b) => new Int8Array(b) }],
  [2, { bytes: 2, read: (r) => r.view(2).getUint16(0, true), list: (b) => new Uint16Array(b) }],
  [3, { bytes: 2, read: (r) => r.view(2).getInt16(0, true), list: (b) => new Int16Array(b) }],
  [4, { bytes: 4, read: (r) => r.u32(), list: (b) => new Uint32Array(b) }],
  [5, { bytes: 4, read: (r) => r.view(4).getInt32(0, true), list: (b) => new Int32Array(b) }],
  [6, { bytes: 4, read: (r) => r.view(4).getFloat32(0, true), list: (b) => new Float32Array(b) }],
  [7, { bytes: 1, read: (r) => r.view(1).getUint8(0) !== 0, list: (b) => new Uint8Array(b) }],
  [10, { bytes: 8, read: (r) => r.u64(), list: (b) => new BigUint64Array(b) }],
  [11, { bytes: 8, read: (r) => narrow(r.view(8).getBigInt64(0, true)), list: (b) => new BigInt64Array(b) }],
  [12, { bytes: 8, read: (r) => r.view(8).getFloat64(0, true), list: (b) => new Float64Array(b) }],
]);
const TEXT = 8;
const LIST = 9;

function readValue(reader: Reader, type: number, depth: number): GgufValue {
  if (type === TEXT) return reader.text(MAX_GGUF_HEADER, 'a text');
  const scalar = SCALARS.get(type);
  if (scalar !== undefined) return scalar.read(reader);
  if (type !== LIST) throw badGguf(reader.file, `a value of type ${type}, which there is not`);
  if (depth >= MAX_DEPTH) throw badGguf(reader.file, `lists of lists deeper than ${MAX_DEPTH}`);
  const of = reader.u32();
  const count = reader.count('items of a list', MAX_GGUF_HEADER);
  const numbers = SCALARS.get(of);
  if (numbers !== undefined) return numbers.list(new Uint8Array(reader.take(count * numbers.bytes)).buffer);
  if (of === TEXT) return reader.texts(count);
  if (of !== LIST) throw badGguf(reader.file, `a list of type ${of}, which there is not`);
  const lists: GgufValue[] = [];
  for (let i = 0; i < count; i++) {
    reader.countTexts(1);
    lists.push(readValue(reader, LIST, depth + 1));
  }
  return lists;
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** Bytes from the front. What is not there yet asks for more; what the file does not have is an error. */
class Reader {
  at = 0;
  readonly file: string;
  readonly #bytes: Uint8Array;
  readonly #size: number;
  #texts = 0;
  readonly #strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  /** Vocabularies have pieces of characters as tokens. */
  readonly #lenient = new TextDecoder('utf-8', { ignoreBOM: true });

  constructor(bytes: Uint8Array, fileSize: number, file: string) {
    this.#bytes = bytes;
    this.#size = fileSize;
    this.file = file;
  }

  take(length: number): Uint8Array {
    const end = this.at + length;
    if (end > this.#size) throw badGguf(this.file, `it ends at byte ${this.#size}, within its metadata`);
    if (end > MAX_GGUF_HEADER) {
      throw new LowbitError('ERR_LIMIT', `${this.file}: more than ${MAX_GGUF_HEADER} bytes of metadata`, {
        hint: 'Nothing of that size is a language model.',
        details: { file: this.file, limit: MAX_GGUF_HEADER },
      });
    }
    if (end > this.#bytes.byteLength) throw MORE;
    const taken = this.#bytes.subarray(this.at, end);
    this.at = end;
    return taken;
  }

  view(length: number): DataView {
    const { buffer, byteOffset } = this.take(length);
    return new DataView(buffer, byteOffset, length);
  }

  u32(): number {
    return this.view(4).getUint32(0, true);
  }

  u64(): number | bigint {
    return narrow(this.view(8).getBigUint64(0, true));
  }

  count(what: string, most: number): number {
    const count = this.u64();
    if (typeof count !== 'number' || count > most) throw badGguf(this.file, `${count} ${what}, more than ${most}`);
    return count;
  }

  text(most: number, what: string): string {
    const length = this.count(`bytes of ${what}`, most);
    const bytes = this.take(length);
    if (most === MAX_GGUF_HEADER) return this.#lenient.decode(bytes);
    try {
      return this.#strict.decode(bytes);
    } catch {
      throw badGguf(this.file, `${what} is not UTF-8`);
    }
  }

  texts(count: number): readonly string[] {
    this.countTexts(count);
    const texts: string[] = [];
    for (let i = 0; i < count; i++) texts.push(this.#lenient.decode(this.take(this.count('bytes of a text', MAX_GGUF_HEADER))));
    return texts;
  }

  countTexts(count: number): void {
    this.#texts += count;
    if (this.#texts > MAX_TEXTS) throw badGguf(this.file, `more than ${MAX_TEXTS} texts in lists`);
  }
}
