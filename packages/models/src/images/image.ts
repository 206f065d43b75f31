// What callers may hand in as an image.

import { type HostTensor, LowbitError } from '@lowbit/core';

/** Pixels: 8 bits each of red, green and blue, row by row; a fourth number a pixel (`ImageData` of a canvas has one) is not looked at. */
export interface ImagePixels {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array | Uint8ClampedArray;
}

/**
 * An image: the bytes of a file (JPEG or PNG; with `sharp` installed whatever that reads), pixels, or what a processor made of it, f32
 * [channels, height, width], which is taken as it is.
 */
export type ImageInput = Uint8Array | ImagePixels | HostTensor;

/** Red, green and blue, row by row. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Pixels of an image: 8192 x 8192. */
export const MAX_PIXELS = 2 ** 26;

/** Throws ERR_BAD_IMAGE for sides that are no whole numbers from 1, ERR_LIMIT for more pixels than `MAX_PIXELS`. */
export function checkSize({ width, height }: { readonly width: number; readonly height: number }): void {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw new LowbitError('ERR_BAD_IMAGE', `an image of ${width} x ${height} pixels`, {
      hint: 'It is damaged, or no image at all.',
      details: { width, height },
    });
  }
  if (width * height <= MAX_PIXELS) return;
  throw new LowbitError('ERR_LIMIT', `an image of ${width} x ${height} pixels, at most ${MAX_PIXELS} are taken`, {
    hint: 'Make it smaller first: models look at a few hundred pixels a side.',
    details: { width, height, limit: MAX_PIXELS },
  });
}

/** Whether an input is a tensor that a processor made. */
export function isTensor(input: ImageInput): input is HostTensor {
  return !(input instanceof Uint8Array) && 'dtype' in input;
}

/** Pixels from a caller, checked: ERR_BAD_ARGUMENT for anything else. */
export function rgbOf(pixels: ImagePixels): RgbImage {
  const { width, height, data } = (pixels ?? {}) as Partial<ImagePixels>;
  if (width === undefined || height === undefined || !(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'an image is neither bytes of a file nor pixels', {
      hint: 'Pass a Uint8Array with the bytes of a JPEG or PNG file, or { width, height, data } with 3 or 4 numbers a pixel.',
    });
  }
  checkSize({ width, height });
  const count = width * height;
  if (data.length !== 3 * count && data.length !== 4 * count) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${data.length} numbers for an image of ${width} x ${height} pixels`, {
      hint: `Pass 3 or 4 numbers a pixel: ${3 * count} or ${4 * count}.`,
      details: { width, height, length: data.length },
    });
  }
  if (data.length === 3 * count) return { width, height, data: new Uint8Array(data.buffer, data.byteOffset, data.length) };
  const rgb = new Uint8Array(3 * count);
  for (let i = 0, from = 0, to = 0; i < count; i++, from += 4) {
    rgb[to++] = data[from]!;
    rgb[to++] = data[from + 1]!;
    rgb[to++] = data[from + 2]!;
  }
  return { width, height, data: rgb };
}
