// JPEG by jpeg-js. What a file says of itself is looked at first: its size, how often its pixels are gone over, whether it is whole, and which way up it is.

import { LowbitError } from '@lowbit/core';
import { checkSize, type RgbImage } from './image.ts';
import { orientationOf, oriented } from './orientation.ts';

/** Pixels of all scans together: a progressive file has about ten, and one made to keep a decoder busy thousands. */
const MAX_SCANNED = 2 ** 30;
const MAX_SCANS = 256;
/** Of the decoder, beside the image. */
const MAX_MEGABYTES = 1536;

export function isJpeg(bytes: Uint8Array): boolean {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

function bad(what: string, cause?: unknown): LowbitError {
  return new LowbitError('ERR_BAD_IMAGE', `the JPEG file ${what}`, { hint: 'It is damaged, or was not copied completely.', cause });
}

/** Decodes a JPEG file, turned as its EXIF orientation says. Throws ERR_BAD_IMAGE, ERR_LIMIT, and ERR_UNSUPPORTED_FORMAT for kinds that nobody writes. */
export async function decodeJpeg(bytes: Uint8Array): Promise<RgbImage> {
  const { orientation } = look(bytes);
  const { decode } = await decoder();
  try {
    const { width, height, data } = decode(bytes, {
      useTArray: true,
      formatAsRGBA: false,
      tolerantDecoding: false,
      maxMemoryUsageInMB: MAX_MEGABYTES,
    });
    return oriented({ width, height, data }, orientation);
  } catch (cause) {
    const { message } = cause as Error;
    if (/limit exceeded/i.test(message)) {
      throw new LowbitError('ERR_LIMIT', `the JPEG file takes too much memory to decode: ${message}`, {
        hint: 'Install sharp, which takes less, or make the image smaller.',
        cause,
      });
    }
    throw bad(`cannot be decoded: ${message}`, cause);
  }
}

async function decoder(): Promise<typeof import('jpeg-js')> {
  const module = await import('jpeg-js');
  return module.default ?? module; // CommonJS
}

/** Goes over the markers. Throws ERR_BAD_IMAGE for a file that is cut off, ERR_LIMIT for one that is too large. */
function look(bytes: Uint8Array): { readonly orientation: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let pixels = 0;
  let scans = 0;
  let orientation = 1;
  for (let at = 2; ; ) {
    while (at < bytes.length && bytes[at] !== 0xff) at++; // coded pixels of a scan, or bytes between segments
    while (bytes[at] === 0xff && bytes[at + 1] === 0xff) at++;
    if (at + 1 >= bytes.length) throw bad('ends without an end mark');
    const marker = bytes[at + 1]!;
    at += 2;
    if (marker === 0xd9) break;
    if (marker === 0 || marker === 1 || (marker >= 0xd0 && marker <= 0xd8)) continue; // within a scan, or without content
    if (at + 2 > bytes.length) throw bad('ends within a segment');
    const length = view.getUint16(at);
    if (length < 2 || at + length > bytes.length) throw bad('ends within a segment');
    const content = bytes.subarray(at + 2, at + length);
    if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      if (marker > 0xc2) throw unsupported(marker);
      if (pixels > 0) throw bad('has two headers');
      if (content.length < 6) throw bad('has a header that is too short');
      const size = { height: (content[1]! << 8) | content[2]!, width: (content[3]! << 8) | content[4]! };
      checkSize(size);
      pixels = size.width * size.height;
    } else if (marker === 0xda) {
      scans++;
      if (pixels === 0) throw bad('has pixels before its header');
      if (scans > MAX_SCANS || scans * pixels > MAX_SCANNED) {
        throw new LowbitError('ERR_LIMIT', `the JPEG file goes over its ${pixels} pixels more than ${scans - 1} times`, {
          hint: 'Save it again, not progressive.',
          details: { pixels, scans },
        });
      }
    } else if (marker === 0xe1) orientation = orientationOf(content) ?? orientation;
    at += length;
  }
  if (scans === 0) throw bad('has no pixels');
  return { orientation };
}

function unsupported(marker: number): LowbitError {
  return new LowbitError(
    'ERR_UNSUPPORTED_FORMAT',
    `the JPEG file is of a rare kind (0x${marker.toString(16)}): lossless, hierarchical or arithmetic`,
    {
      hint: 'Save it as an ordinary JPEG or as PNG, or install sharp.',
    },
  );
}
