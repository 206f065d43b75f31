// Tensors of a GGUF file under their names at Hugging Face, as numbers: blocks are decoded while they are read, a piece at a time.

import { DTYPE_BYTES, toFloat32 } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import { allocate } from '../reading.ts';
import { badGguf } from './bad.ts';
import { type GgufHeader, MAX_GGUF_HEADER, parseGguf } from './header.ts';
import type { MappedTensor } from './names.ts';
import type { GgmlType } from './types.ts';

/** Elements decoded at once: a bound on memory beside the result. */
const PIECE = 1 << 18;
const FIRST = 1 << 20;

/** Reads and checks the front of an open file. Throws what `parseGguf` throws, ERR_IO. */
export async function readGgufHeader(opened: RandomFile, signal?: AbortSignal): Promise<GgufHeader> {
  const { name, size } = opened;
  let bytes = new Uint8Array(0);
  for (let length = FIRST; ; length *= 2) {
    const more = new Uint8Array(Math.min(length, size, MAX_GGUF_HEADER));
    more.set(bytes);
    const got = await opened.read(more.subarray(bytes.byteLength), bytes.byteLength, signal);
    if (got < more.byteLength - bytes.byteLength) throw badGguf(name, 'the file became shorter while it was read');
    bytes = more;
    const header = parseGguf(bytes, size, name);
    if (header !== undefined) return header;
    if (bytes.byteLength === Math.min(size, MAX_GGUF_HEADER)) throw badGguf(name, 'its metadata does not end');
  }
}

/** Elements [from, to) of a mapped tensor, in its dtype. */
export async function readMapped(
  file: RandomFile,
  tensor: MappedTensor,
  from: number,
  to: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { added, heads } = tensor;
  const { dtype: stored } = tensor.from.type;
  const width = DTYPE_BYTES[stored!];
  const data = allocate(file.name, (to - from) * width);
  if (heads === undefined) await readPlain(file, tensor, from, to, data, signal);
  else await readRotated(file, tensor, heads, from, to, data, signal);
  if (added === undefined) return data;
  const values = Float32Array.from(toFloat32({ dtype: stored!, shape: [to - from], data }), (value) => value - added);
  return new Uint8Array(values.buffer);
}

async function readPlain(
  file: RandomFile,
  { from: tensor, offset }: MappedTensor,
  from: number,
  to: number,
  data: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  const width = DTYPE_BYTES[tensor.type.dtype!];
  for (let at = from; at < to; at += PIECE) {
    const end = Math.min(to, at + PIECE);
    data.set(await readElements(file, tensor, offset + at, offset + end, signal), (at - from) * width);
  }
}

/**
 * The rows of a head lie interleaved, first and second half: llama.cpp rotates neighbours, Hugging Face halves (`LlamaModel.permute` of
 * convert_hf_to_gguf.py). One head is read at a time.
 */
async function readRotated(
  file: RandomFile,
  { from: tensor, shape }: MappedTensor,
  heads: number,
  from: number,
  to: number,
  data: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<void> {
  const rows = shape[0]!;
  const row = shape.length === 1 ? 1 : shape.at(-1)!;
  const dim = rows / heads;
  const width = DTYPE_BYTES[tensor.type.dtype!];
  const stored = (index: number): number => (index < dim / 2 ? 2 * index : 2 * (index - dim / 2) + 1);
  let next = Math.floor(from / row);
  while (next * row < to) {
    const head = Math.floor(next / dim);
    const end = Math.min((head + 1) * dim, Math.ceil(to / row));
    const places = Array.from({ length: end - next }, (_, i) => head * dim + stored(next + i - head * dim));
    const first = places.reduce((a, b) => Math.min(a, b));
    const last = places.reduce((a, b) => Math.max(a, b));
    const block = await readElements(file, tensor, first * row, (last + 1) * row, signal);
    for (const [i, place] of places.entries()) {
      // The first and the last row may be wanted in part.
      const start = Math.max(from, (next + i) * row);
      const stop = Math.min(to, (next + i + 1) * row);
      const inBlock = (place - first) * row + start - (next + i) * row;
      data.set(block.subarray(inBlock * width, (inBlock + stop - start) * width), (start - from) * width);
    }
    next = end;
  }
}

/** Elements of a tensor as it is stored, decoded. */
async function readElements(
  file: RandomFile,
  { type, start, end: until }: { readonly type: GgmlType; readonly start: number; readonly end: number },
  from: number,
  to: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const { block, bytes, decode, dtype } = type;
  const first = Math.floor(from / block);
  const end = Math.ceil(to / block);
  const raw = allocate(file.name, (end - first) * bytes);
  const got = await file.read(raw, start + first * bytes, signal, until);
  if (got < raw.byteLength) throw badGguf(file.name, 'the file became shorter while it was open');
  if (decode === undefined) return raw;
  const values = new Float32Array((end - first) * block);
  decode(raw, values);
  const width = DTYPE_BYTES[dtype!];
  return new Uint8Array(values.buffer).subarray((from - first * block) * width, (to - first * block) * width);
}
