// PNG, read here: the libraries that run everywhere inflate what a file holds without a bound, and a file of a megabyte may hold a gigabyte. Rows are
// unpacked as they come out of the decompressor, which stops at the last one.

import { LowbitError } from '@lowbit/core';
import { checkSize, type RgbImage } from './image.ts';
import { orientationOfChunk, oriented } from './orientation.ts';
import type { Rest } from './rest.ts';

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
/** Samples of a pixel by colour type: grey, RGB, palette, grey and alpha, RGB and alpha. */
const CHANNELS: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS: Readonly<Record<number, readonly number[]>> = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
/** Of interlaced images: first row and column of each pass, and how far they are apart. */
const PASSES = [
  { x: 0, y: 0, dx: 8, dy: 8 },
  { x: 4, y: 0, dx: 8, dy: 8 },
  { x: 0, y: 4, dx: 4, dy: 8 },
  { x: 2, y: 0, dx: 4, dy: 4 },
  { x: 0, y: 2, dx: 2, dy: 4 },
  { x: 1, y: 0, dx: 2, dy: 2 },
  { x: 0, y: 1, dx: 1, dy: 2 },
];
const WHOLE = [{ x: 0, y: 0, dx: 1, dy: 1 }];

/** What a byte of deflate is at most inflated to: 258 bytes take two codes of a bit. */
const MOST_INFLATED = 1032;

interface Header {
  readonly width: number;
  readonly height: number;
  readonly depth: number;
  readonly color: number;
  readonly interlaced: boolean;
}

export function isPng(bytes: Uint8Array): boolean {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

function bad(what: string, cause?: unknown): LowbitError {
  return new LowbitError('ERR_BAD_IMAGE', `the PNG file ${what}`, { hint: 'It is damaged, or was not copied completely.', cause });
}

/**
 * Decodes a PNG file, turned as its eXIf chunk says. As in Pillow alpha is left out, and of 16 bits stay the upper 8, but of grey without alpha, where whatever
 * is above 255 is white. Throws ERR_BAD_IMAGE, ERR_LIMIT.
 */
export async function decodePng(bytes: Uint8Array, rest: Rest): Promise<RgbImage> {
  const { header, palette, data, orientation } = chunks(bytes);
  const image = { width: header.width, height: header.height, data: new Uint8Array(3 * header.width * header.height) };
  const rows = rowsOf(header, (row, pass, y) => paint(image, header, palette, { row, pass, y }));
  const reader = new Blob([...data] as ConstructorParameters<typeof Blob>[0])
    .stream()
    .pipeThrough(new DecompressionStream('deflate'))
    .getReader();
  const read = () =>
    reader.read().catch((cause: unknown) => {
      throw bad('is not compressed as it should be', cause);
    });
  try {
    for (;;) {
      await rest();
      const { done, value } = await read();
      if (done) break;
      if (rows.take(value)) return await oriented(image, orientation, rest);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
  throw bad('ends before its last row');
}

/** Header, palette, the pieces of the compressed rows, and which way up they are. */
function chunks(bytes: Uint8Array): {
  readonly header: Header;
  readonly palette: Uint8Array | undefined;
  readonly data: readonly Uint8Array[];
  readonly orientation: number;
} {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const data: Uint8Array[] = [];
  let header: Header | undefined;
  let palette: Uint8Array | undefined;
  let orientation = 1;
  for (let at = SIGNATURE.length; ; ) {
    if (at + 12 > bytes.length) throw bad('ends without an end mark');
    const length = view.getUint32(at);
    if (length > bytes.length - at - 12) throw bad('ends within a chunk');
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (type === 'IHDR' && header === undefined) header = headerOf(content);
    else if (header === undefined) throw bad('does not begin with a header');
    else if (type === 'PLTE') palette = content;
    else if (type === 'IDAT') data.push(content);
    else if (type === 'eXIf') orientation = orientationOfChunk(content) ?? 1;
    else if (type === 'IEND') break;
    at += 12 + length;
  }
  if (data.length === 0) throw bad('has no pixels');
  const compressed = data.reduce((sum, { length }) => sum + length, 0);
  const { width, height, color, depth } = header;
  // Nothing is allocated for what cannot be there.
  if (Math.ceil((width * CHANNELS[color]! * depth) / 8) * height > MOST_INFLATED * compressed) throw bad('ends before its last row');
  if (header.color === 3 && palette === undefined) throw bad('has no palette');
  return { header, palette, data, orientation };
}

function headerOf(content: Uint8Array): Header {
  if (content.length !== 13) throw bad('has a header of another length');
  const view = new DataView(content.buffer, content.byteOffset, 13);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, color, compression, filter, interlace] = content.subarray(8) as unknown as [number, number, number, number, number];
  checkSize({ width, height });
  if (!DEPTHS[color]?.includes(depth) || compression !== 0 || filter !== 0 || interlace > 1) {
    throw bad(`has colour type ${color} of ${depth} bits, compression ${compression}, filter ${filter}, interlacing ${interlace}`);
  }
  return { width, height, depth, color, interlaced: interlace === 1 };
}

type Pass = (typeof PASSES)[number];

/** Collects bytes into rows and undoes their filters; `take` is true once the last row is there. */
function rowsOf({ width, height, depth, color, interlaced }: Header, done: (row: Uint8Array, pass: Pass, y: number) => void) {
  const bits = CHANNELS[color]! * depth;
  const step = Math.max(1, bits >> 3);
  const sizes = (interlaced ? PASSES : WHOLE)
    .map((pass) => ({ pass, columns: Math.ceil((width - pass.x) / pass.dx), rows: Math.ceil((height - pass.y) / pass.dy) }))
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
  let which = 0;
  let y = 0;
  let filled = -1; // the byte that names the filter comes first
  let filter = 0;
  let row = new Uint8Array(0);
  let above = new Uint8Array(0);
  const begin = (): void => {
    row = new Uint8Array(Math.ceil((sizes[which]!.columns * bits) / 8));
    above = new Uint8Array(row.length);
    y = 0;
  };
  begin();
  return {
    take(bytes: Uint8Array): boolean {
      for (let at = 0; at < bytes.length; ) {
        if (filled < 0) {
          filter = bytes[at++]!;
          if (filter > 4) throw bad(`has a row with filter ${filter}`);
          filled = 0;
          continue;
        }
        const part = bytes.subarray(at, at + row.length - filled);
        row.set(part, filled);
        filled += part.length;
        at += part.length;
        if (filled < row.length) return false;
        unfilter(row, above, filter, step);
        done(row, sizes[which]!.pass, y);
        [row, above] = [above, row];
        filled = -1;
        if (++y < sizes[which]!.rows) continue;
        if (++which === sizes.length) return true;
        begin();
      }
      return false;
    },
  };
}

/** https://www.w3.org/TR/png/#9Filters */
function unfilter(row: Uint8Array, above: Uint8Array, filter: number, step: number): void {
  if (filter === 0) return;
  for (let i = 0; i < row.length; i++) {
    const left = i < step ? 0 : row[i - step]!;
    const up = above[i]!;
    if (filter === 1) row[i]! += left;
    else if (filter === 2) row[i]! += up;
    else if (filter === 3) row[i]! += (left + up) >> 1;
    else row[i]! += paeth(left, up, i < step ? 0 : above[i - step]!);
  }
}

function paeth(left: number, up: number, corner: number): number {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** Puts the pixels of a row where they belong. */
function paint(
  { width, data }: RgbImage,
  { depth, color }: Header,
  palette: Uint8Array | undefined,
  { row, pass, y }: { readonly row: Uint8Array; readonly pass: Pass; readonly y: number },
): void {
  const channels = CHANNELS[color]!;
  const largest = 2 ** depth - 1;
  const sample = (index: number): number => {
    if (depth === 8) return row[index]!;
    if (depth === 16) return color === 0 && row[2 * index]! > 0 ? 255 : row[2 * index + (color === 0 ? 1 : 0)]!;
    return (row[(index * depth) >> 3]! >> (8 - depth - ((index * depth) & 7))) & largest;
  };
  let to = 3 * ((pass.y + y * pass.dy) * width + pass.x);
  for (let x = pass.x, i = 0; x < width; x += pass.dx, i += channels, to += 3 * pass.dx) {
    if (color === 3) {
      const entry = 3 * sample(i);
      if (entry + 2 >= palette!.length) throw bad('has a pixel that is not in its palette');
      for (let c = 0; c < 3; c++) data[to + c] = palette![entry + c]!;
    } else if (channels <= 2) {
      const grey = depth < 8 ? (255 / largest) * sample(i) : sample(i);
      data[to] = data[to + 1] = data[to + 2] = grey;
    } else for (let c = 0; c < 3; c++) data[to + c] = sample(i + c);
  }
}
