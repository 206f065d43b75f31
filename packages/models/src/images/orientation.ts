// Which way up a photograph is: tag 0x0112 of its EXIF block, as cameras write it. What XMP says is not looked at.

import type { RgbImage } from './image.ts';
import type { Rest } from './rest.ts';

const EXIF = [0x45, 0x78, 0x69, 0x66, 0, 0];

/** The orientation, 1 to 8, that an APP1 segment of a JPEG says; undefined if it says none. */
export function orientationOf(segment: Uint8Array): number | undefined {
  return hasPrefix(segment) ? orientationOfTiff(segment.subarray(EXIF.length)) : undefined;
}

/** The same of a PNG's eXIf chunk, which lacks the first six bytes; some programs write them, and Pillow passes over them. */
export function orientationOfChunk(content: Uint8Array): number | undefined {
  return orientationOfTiff(hasPrefix(content) ? content.subarray(EXIF.length) : content);
}

function hasPrefix(segment: Uint8Array): boolean {
  return EXIF.every((byte, i) => segment[i] === byte);
}

function orientationOfTiff(bytes: Uint8Array): number | undefined {
  const tiff = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (tiff.byteLength < 8) return undefined;
  const little = tiff.getUint16(0) === 0x4949;
  const directory = tiff.getUint32(4, little);
  if (directory + 2 > tiff.byteLength) return undefined;
  const count = tiff.getUint16(directory, little);
  for (let i = 0; i < count; i++) {
    const entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.byteLength) return undefined;
    if (tiff.getUint16(entry, little) !== 0x0112) continue;
    const value = tiff.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? value : undefined;
  }
  return undefined;
}

/** Where a pixel of the upright image is in the stored one: swapped axes, and which of them run backwards. */
const TURNS: Readonly<Record<number, readonly [swap: boolean, backX: boolean, backY: boolean]>> = {
  2: [false, true, false],
  3: [false, true, true],
  4: [false, false, true],
  5: [true, false, false],
  6: [true, false, true],
  7: [true, true, true],
  8: [true, true, false],
};

/** The image upright. */
export async function oriented(image: RgbImage, orientation: number, rest: Rest): Promise<RgbImage> {
  const turn = TURNS[orientation];
  if (!turn) return image;
  const [swap, backX, backY] = turn;
  const { width: columns, height: rows } = image;
  const [width, height] = swap ? [rows, columns] : [columns, rows];
  const data = new Uint8Array(image.data.length);
  let to = 0;
  for (let y = 0; y < height; y++) {
    await rest();
    for (let x = 0; x < width; x++) {
      const [across, down] = swap ? [y, x] : [x, y];
      const from = 3 * ((backY ? rows - 1 - down : down) * columns + (backX ? columns - 1 - across : across));
      data[to++] = image.data[from]!;
      data[to++] = image.data[from + 1]!;
      data[to++] = image.data[from + 2]!;
    }
  }
  return { width, height, data };
}
