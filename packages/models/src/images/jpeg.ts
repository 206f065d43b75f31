// JPEG, read here with the arithmetic of libjpeg, so that a photograph has the pixels that Pillow and sharp give it: baseline and progressive, 8 bits.

import type { RgbImage } from './image.ts';
import { bad } from './jpeg/bad.ts';
import { colored } from './jpeg/colors.ts';
import { parse } from './jpeg/frame.ts';
import { fullPlane } from './jpeg/samples.ts';
import { readScan } from './jpeg/scan.ts';
import { oriented } from './orientation.ts';
import type { Rest } from './rest.ts';

export function isJpeg(bytes: Uint8Array): boolean {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

/**
 * Decodes a JPEG file, turned as its EXIF orientation says. Takes up to 18 bytes a pixel meanwhile. Throws ERR_BAD_IMAGE, ERR_LIMIT, and
 * ERR_UNSUPPORTED_FORMAT for kinds that hardly anybody writes (lossless, hierarchical, arithmetic coding, 12 bits).
 */
export async function decodeJpeg(bytes: Uint8Array, rest: Rest): Promise<RgbImage> {
  const parsed = await parse(bytes, (frame, scan) => readScan(bytes, frame, scan, rest));
  const { frame, quantization, orientation } = parsed;
  const planes: Uint8Array[] = [];
  for (const component of frame.components) {
    const table = quantization[component.quantization];
    if (!table) throw bad('lacks a quantization table');
    planes.push(await fullPlane(component, frame, table, rest));
  }
  return oriented(await colored(parsed, planes, rest), orientation, rest);
}
