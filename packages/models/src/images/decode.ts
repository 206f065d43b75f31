// From the bytes of a file to pixels: by sharp where it is installed, else by what is here.

import { checkOptionNames, isLowbitError, LowbitError } from '@lowbit/core';
import { checkSize, MAX_PIXELS, type RgbImage } from './image.ts';
import { decodeJpeg, isJpeg } from './jpeg.ts';
import { decodePng, isPng } from './png.ts';
import { restingWith } from './rest.ts';

/** Of `decodeImage`. */
export interface DecodeImageOptions {
  /** `sharp`, which must be installed; `own`: JPEG and PNG alone, the same pixels everywhere. Default: sharp if it is installed, in browsers `own`. */
  readonly decoder?: 'sharp' | 'own' | undefined;
  /** Aborts between rows; sharp finishes the image and its result is dropped. */
  readonly signal?: AbortSignal | undefined;
}

/** Bytes of a file. */
const MAX_BYTES = 2 ** 28;

/** See `decode-image.ts`. */
export async function decodeImage(bytes: Uint8Array, options: DecodeImageOptions = {}): Promise<RgbImage> {
  checkOptionNames('decodeImage', options, ['decoder', 'signal']);
  const { decoder, signal } = options;
  if (!(bytes instanceof Uint8Array)) throw new LowbitError('ERR_BAD_ARGUMENT', 'decodeImage takes the bytes of a file, a Uint8Array');
  if (decoder !== undefined && decoder !== 'sharp' && decoder !== 'own') {
    throw new LowbitError('ERR_BAD_ARGUMENT', `decoder is ${JSON.stringify(decoder)}, expected sharp or own`);
  }
  if (bytes.length === 0) throw new LowbitError('ERR_BAD_IMAGE', 'the image has no bytes');
  if (bytes.length > MAX_BYTES) {
    throw new LowbitError('ERR_LIMIT', `an image file of ${bytes.length} bytes, at most ${MAX_BYTES}`, {
      details: { bytes: bytes.length },
    });
  }
  signal?.throwIfAborted();
  const sharp = decoder === 'own' ? undefined : await findSharp();
  if (sharp) {
    const image = await bySharp(sharp, bytes);
    signal?.throwIfAborted();
    return image;
  }
  if (decoder === 'sharp') {
    throw new LowbitError('ERR_NOT_FOUND', 'sharp is not installed', { hint: 'npm install sharp, or leave `decoder` out.' });
  }
  if (isPng(bytes)) return decodePng(bytes, restingWith(signal));
  if (isJpeg(bytes)) return decodeJpeg(bytes, restingWith(signal));
  const other = kindOf(bytes);
  if (other === undefined) {
    throw new LowbitError('ERR_BAD_IMAGE', 'these bytes are no image', { hint: 'Pass a JPEG or PNG file.' });
  }
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${other} images take sharp, which is not installed`, {
    hint: 'npm install sharp, or save the image as JPEG or PNG.',
    details: { format: other },
  });
}

/** Kinds of images that are known by their first bytes. */
function kindOf(bytes: Uint8Array): string | undefined {
  const text = String.fromCharCode(...bytes.subarray(0, 16));
  if (text.startsWith('GIF8')) return 'GIF';
  if (text.startsWith('RIFF') && text.slice(8, 12) === 'WEBP') return 'WebP';
  if (/^.{4}ftyp(?:avif|avis)/s.test(text)) return 'AVIF';
  if (/^.{4}ftyp(?:heic|heix|mif1)/s.test(text)) return 'HEIC';
  if (text.startsWith('BM')) return 'BMP';
  return /^(?:II\*\0|MM\0\*)/.test(text) ? 'TIFF' : undefined;
}

/** The part of sharp that is used here. */
interface SharpImage {
  autoOrient?(): SharpImage;
  rotate(): SharpImage;
  toColourspace(name: 'srgb'): SharpImage;
  removeAlpha(): SharpImage;
  raw(options: { readonly depth: 'uchar' }): SharpImage;
  metadata(): Promise<{ readonly width?: number; readonly height?: number }>;
  toBuffer(options: { readonly resolveWithObject: true }): Promise<{
    readonly data: Uint8Array;
    readonly info: { readonly width: number; readonly height: number; readonly channels: number };
  }>;
}
type Sharp = (input: Uint8Array, options: Readonly<Record<string, unknown>>) => SharpImage;

/** Whether this runs where packages are installed: Node, Bun or Deno. Polyfills of `process` in browsers have no such versions. */
function hasPackages(): boolean {
  const { versions } = (globalThis as { readonly process?: { readonly versions?: Readonly<Record<string, unknown>> } }).process ?? {};
  return typeof versions?.node === 'string' || typeof versions?.bun === 'string' || typeof versions?.deno === 'string';
}

/** sharp, if it is installed. One that is there and does not load is an error: its message says what to do. In browsers nothing is looked for. */
async function findSharp(): Promise<Sharp | undefined> {
  if (!hasPackages()) return undefined;
  const name = 'sharp'; // a bundler must not look for it
  try {
    const { default: sharp } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as { readonly default: Sharp };
    return sharp;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const absent = code === 'ERR_MODULE_NOT_FOUND' || /Cannot find (?:package|module) 'sharp'|Failed to load url sharp/.test(message);
    if (absent) return undefined;
    throw new LowbitError('ERR_IO', `sharp is installed but cannot be loaded: ${message}`, {
      hint: 'Install it again, or remove it.',
      cause,
    });
  }
}

async function bySharp(sharp: Sharp, bytes: Uint8Array): Promise<RgbImage> {
  const options = { ignoreIcc: true, failOn: 'error' };
  try {
    // Of the header alone, so without sharp's limit: what is too large is then ours to say.
    const { width = 0, height = 0 } = await sharp(bytes, { ...options, limitInputPixels: false }).metadata();
    checkSize({ width, height });
    const image = sharp(bytes, { ...options, limitInputPixels: MAX_PIXELS });
    const upright = image.autoOrient ? image.autoOrient() : image.rotate();
    const { data, info } = await upright.toColourspace('srgb').removeAlpha().raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
    if (info.channels === 3) return { width: info.width, height: info.height, data };
    throw new LowbitError('ERR_BAD_IMAGE', `sharp made ${info.channels} channels of the image`);
  } catch (cause) {
    if (isLowbitError(cause)) throw cause;
    throw new LowbitError('ERR_BAD_IMAGE', `the image cannot be decoded: ${(cause as Error).message}`, {
      hint: 'It is no image, or damaged.',
      cause,
    });
  }
}
