// What a JPEG file says of itself: the size, the components, and the tables and scans that follow. ITU-T T.81, annex B.

import { LowbitError } from '@lowbit/core';
import { checkSize } from '../image.ts';
import { orientationOf } from '../orientation.ts';
import { bad } from './bad.ts';
import { type HuffmanTable, huffmanTable } from './huffman.ts';

/** One of brightness and two colours, or of four inks. */
export interface Component {
  readonly id: number;
  /** Samples across and down, of those of an MCU. */
  readonly h: number;
  readonly v: number;
  readonly quantization: number;
  /** Samples of the image, without what fills up blocks. */
  readonly width: number;
  readonly height: number;
  /** Blocks of a row, and rows of blocks, filled up to whole MCUs. */
  readonly blocksAcross: number;
  readonly blocksDown: number;
  /** 64 a block, in natural order. */
  readonly coefficients: Int16Array;
  /** Of the last block of a scan: what the next one is counted from. */
  predicted: number;
}

export interface Frame {
  readonly width: number;
  readonly height: number;
  readonly progressive: boolean;
  readonly components: readonly Component[];
  readonly hMax: number;
  readonly vMax: number;
}

/** What is in force when a scan begins; a scan reads `bytes` from `at`. */
export interface Scan {
  readonly components: readonly {
    readonly component: Component;
    readonly dc: HuffmanTable | undefined;
    readonly ac: HuffmanTable | undefined;
  }[];
  readonly from: number;
  readonly to: number;
  /** Bits of coefficients that came before, and that come now. */
  readonly high: number;
  readonly low: number;
  readonly restart: number;
  readonly at: number;
}

export interface Parsed {
  readonly frame: Frame;
  readonly quantization: readonly (Uint16Array | undefined)[];
  /** Of an Adobe segment: how colours are turned. */
  readonly transform: number | undefined;
  readonly jfif: boolean;
  readonly orientation: number;
}

/** Place in a block, row by row, of the coefficients as they are stored. */
// biome-ignore format: rows of a block
export const ZIGZAG: Uint8Array = Uint8Array.of(
  0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
);

/** Pixels of all scans together: a progressive file has about ten scans, and one made to keep a decoder busy thousands. */
const MAX_SCANNED = 2 ** 30;

/** Goes over the segments of a file and hands its scans to `decode`, which returns where a scan ends. */
export async function parse(bytes: Uint8Array, decode: (frame: Frame, scan: Scan) => Promise<number>): Promise<Parsed> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const quantization: (Uint16Array | undefined)[] = [undefined, undefined, undefined, undefined];
  const dc: (HuffmanTable | undefined)[] = [];
  const ac: (HuffmanTable | undefined)[] = [];
  let frame: Frame | undefined;
  let [restart, scans, orientation, jfif]: [number, number, number, boolean] = [0, 0, 1, false];
  let transform: number | undefined;
  for (let at = 2; ; ) {
    while (at < bytes.length && bytes[at] !== 0xff) at++;
    while (bytes[at + 1] === 0xff) at++;
    if (at + 1 >= bytes.length) throw bad('ends without an end mark');
    const marker = bytes[at + 1]!;
    at += 2;
    if (marker === 0xd9) break;
    if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    const length = at + 2 <= bytes.length ? view.getUint16(at) : 0;
    if (length < 2 || at + length > bytes.length) throw bad('ends within a segment');
    const content = bytes.subarray(at + 2, at + length);
    at += length;
    if (marker === 0xdb) readQuantization(content, quantization);
    else if (marker === 0xc4) readHuffman(content, dc, ac);
    else if (marker === 0xdd) restart = content.length >= 2 ? (content[0]! << 8) | content[1]! : 0;
    else if (marker === 0xe0) jfif ||= String.fromCharCode(...content.subarray(0, 4)) === 'JFIF';
    else if (marker === 0xe1) orientation = orientationOf(content) ?? orientation;
    else if (marker === 0xee) transform = String.fromCharCode(...content.subarray(0, 5)) === 'Adobe' ? content[11] : transform;
    else if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc8 && marker !== 0xcc) {
      if (frame) throw bad('has two headers');
      frame = readFrame(marker, content, bytes.length - at);
    } else if (marker === 0xda) {
      if (!frame) throw bad('has pixels before its header');
      if (++scans * frame.width * frame.height > MAX_SCANNED) throw tooManyScans(frame, scans);
      at = await decode(frame, readScan(content, frame, { dc, ac, restart, at }));
    }
  }
  if (!frame || scans === 0) throw bad('has no pixels');
  return { frame, quantization, transform, jfif, orientation };
}

function tooManyScans({ width, height }: Frame, scans: number): LowbitError {
  return new LowbitError('ERR_LIMIT', `the JPEG file goes over its ${width} x ${height} pixels ${scans} times`, {
    hint: 'Save it again, not progressive.',
    details: { width, height, scans },
  });
}

function readQuantization(content: Uint8Array, tables: (Uint16Array | undefined)[]): void {
  for (let at = 0; at < content.length; ) {
    const [wide, which] = [content[at]! >> 4, content[at]! & 15];
    const bytes = wide === 0 ? 1 : 2;
    at++;
    if (wide > 1 || which > 3 || at + 64 * bytes > content.length) throw bad('has a damaged quantization table');
    const table = new Uint16Array(64);
    for (let i = 0; i < 64; i++, at += bytes) table[ZIGZAG[i]!] = bytes === 1 ? content[at]! : (content[at]! << 8) | content[at + 1]!;
    tables[which] = table;
  }
}

function readHuffman(content: Uint8Array, dc: (HuffmanTable | undefined)[], ac: (HuffmanTable | undefined)[]): void {
  for (let at = 0; at < content.length; ) {
    const [kind, which] = [content[at]! >> 4, content[at]! & 15];
    const counts = content.subarray(at + 1, at + 17);
    const total = counts.reduce((sum, count) => sum + count, 0);
    at += 17 + total;
    if (kind > 1 || which > 3 || at > content.length) throw bad('has a damaged Huffman table');
    const table = huffmanTable(counts, content.subarray(at - total, at));
    if (!table) throw bad('has a damaged Huffman table');
    (kind === 0 ? dc : ac)[which] = table;
  }
}

/** `left`: bytes of the file that follow. */
function readFrame(marker: number, content: Uint8Array, left: number): Frame {
  if (marker > 0xc2) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `the JPEG file is of a rare kind (0x${marker.toString(16)}): lossless, hierarchical or arithmetic`,
      {
        hint: 'Save it as an ordinary JPEG or as PNG, or install sharp.',
      },
    );
  }
  const count = content[5] ?? 0;
  if (content.length < 6 + 3 * count) throw bad('has a header that is too short');
  const [height, width] = [(content[1]! << 8) | content[2]!, (content[3]! << 8) | content[4]!];
  if (content[0] !== 8 || ![1, 3, 4].includes(count)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `the JPEG file has ${count} components of ${content[0]} bits`, {
      hint: 'Save it with 8 bits a colour.',
    });
  }
  checkSize({ width, height });
  const given = Array.from({ length: count }, (_, i) => {
    const [id, sampling, quantization] = content.subarray(6 + 3 * i) as unknown as [number, number, number];
    return { id, h: sampling >> 4, v: sampling & 15, quantization };
  });
  if (given.some(({ h, v, quantization }) => h < 1 || h > 4 || v < 1 || v > 4 || quantization > 3)) throw bad('has a damaged header');
  const hMax = Math.max(...given.map(({ h }) => h));
  const vMax = Math.max(...given.map(({ v }) => v));
  const across = Math.ceil(width / (8 * hMax));
  const down = Math.ceil(height / (8 * vMax));
  const progressive = marker === 0xc2;
  const sized = given.map((component) => {
    const { h, v } = component;
    return { ...component, width: Math.ceil((width * h) / hMax), height: Math.ceil((height * v) / vMax) };
  });
  // Each block takes a code for its first coefficient, and if it comes at once one for the others: nothing is allocated for what cannot be there.
  const blocks = sized.reduce((sum, one) => sum + Math.ceil(one.width / 8) * Math.ceil(one.height / 8), 0);
  if (blocks * (progressive ? 1 : 2) > 8 * left) throw bad(`has ${left} bytes for ${blocks} blocks of pixels`);
  const components = sized.map((component): Component => {
    const [blocksAcross, blocksDown] = [across * component.h, down * component.v];
    return { ...component, blocksAcross, blocksDown, coefficients: new Int16Array(64 * blocksAcross * blocksDown), predicted: 0 };
  });
  return { width, height, progressive, components, hMax, vMax };
}

function readScan(
  content: Uint8Array,
  { components, progressive }: Frame,
  {
    dc,
    ac,
    restart,
    at,
  }: { dc: readonly (HuffmanTable | undefined)[]; ac: readonly (HuffmanTable | undefined)[]; restart: number; at: number },
): Scan {
  const count = content[0] ?? 0;
  if (count < 1 || count > components.length || content.length < 4 + 2 * count) throw bad('has a damaged scan');
  const chosen = Array.from({ length: count }, (_, i) => {
    const component = components.find(({ id }) => id === content[1 + 2 * i]);
    const tables = content[2 + 2 * i]!;
    if (!component) throw bad('has a scan of a component that is not there');
    return { component, dc: dc[tables >> 4], ac: ac[tables & 15] };
  });
  if (new Set(chosen.map(({ component }) => component)).size < count) throw bad('has a damaged scan');
  const [from, to, bits] = content.subarray(1 + 2 * count) as unknown as [number, number, number];
  const scan = { components: chosen, restart, at };
  if (!progressive) return { ...scan, from: 0, to: 63, high: 0, low: 0 };
  const [high, low] = [bits >> 4, bits & 15];
  const fits = from <= to && to <= 63 && (from > 0 ? count === 1 : to === 0) && low <= 13 && (high === 0 || high === low + 1);
  if (!fits) throw bad('has a damaged scan');
  return { ...scan, from, to, high, low };
}
