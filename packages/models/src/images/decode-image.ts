// The decoders as a chunk of their own, loaded with the first image: pages that show none are a tenth smaller.

import type { DecodeImageOptions } from './decode.ts';
import type { RgbImage } from './image.ts';

/**
 * Decodes a file: JPEG and PNG, with sharp also WebP, AVIF, GIF (its first image), TIFF and others. Alpha is left out, EXIF orientation applied, colour
 * profiles are not, all as Pillow and transformers do it. The event loop runs in between.
 * Throws ERR_BAD_IMAGE for bytes that are no image or a damaged one, ERR_LIMIT for more than 2^26 pixels, ERR_UNSUPPORTED_FORMAT for formats that take
 * sharp, ERR_NOT_FOUND where sharp is asked for and not installed.
 *
 * @example
 * const { width, height, data } = await decodeImage(await readFile('cat.jpg')); // RGB, 3 bytes a pixel
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeImageOptions = {}): Promise<RgbImage> {
  const decoders = await import('./decode.ts');
  return decoders.decodeImage(bytes, options);
}
