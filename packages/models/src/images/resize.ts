// Resizing as Pillow does it (libImaging/Resample.c): a filter that widens where the image shrinks, horizontally first (Pillow 13 goes vertically first where
// the height shrinks more than twice as much as the width), in fixed point of 22 bits, rounded
// to 8 bits after each direction. Numbers are the same as those of Pillow 11.

import { LowbitError } from '@lowbit/core';
import { MAX_PIXELS, type RgbImage } from './image.ts';

/** Pillow's filters. */
export type ResizeFilter = 'bicubic' | 'bilinear' | 'lanczos' | 'box' | 'hamming' | 'nearest';

/** The part of a resized image that is wanted, in its pixels. */
export interface ResizeWindow {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

const FILTERS: Readonly<Record<Exclude<ResizeFilter, 'nearest'>, { readonly support: number; readonly at: (x: number) => number }>> = {
  box: { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: {
    support: 1,
    at(x) {
      const d = Math.abs(x);
      if (d === 0) return 1;
      return d >= 1 ? 0 : (Math.sin(d * Math.PI) / (d * Math.PI)) * (0.54 + 0.46 * Math.cos(d * Math.PI));
    },
  },
  // Keys' cubic with a = -1/2.
  bicubic: {
    support: 2,
    at(x) {
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
    },
  },
  lanczos: { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

const PRECISION_BITS = 22;
/** Weights along one side: enough for any filter and sides of some million pixels. */
const MAX_WEIGHTS = 2 ** 24;

/** Of each wanted pixel along one side: the first source pixel, how many there are, and their weights in fixed point. */
interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Int32Array;
  readonly most: number;
}

function taps(
  from: number,
  to: number,
  wanted: { readonly begin: number; readonly length: number },
  filter: Exclude<ResizeFilter, 'nearest'>,
): Taps {
  const { support: radius, at } = FILTERS[filter];
  const scale = from / to;
  const widened = Math.max(scale, 1);
  const support = radius * widened;
  const most = Math.min(Math.ceil(support) * 2 + 1, from);
  if (wanted.length * most > MAX_WEIGHTS) throw tooLong(`a side of ${from} pixels cannot be resized to ${to}`, { from, to });
  const first = new Int32Array(wanted.length);
  const count = new Int32Array(wanted.length);
  const weights = new Int32Array(wanted.length * most);
  const raw = new Float64Array(most);
  for (let i = 0; i < wanted.length; i++) {
    const center = (wanted.begin + i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(center - support + 0.5));
    const length = Math.min(from, Math.trunc(center + support + 0.5)) - begin;
    let sum = 0;
    for (let k = 0; k < length; k++) {
      raw[k] = at((k + begin - center + 0.5) * (1 / widened));
      sum += raw[k]!;
    }
    for (let k = 0; k < length; k++) {
      const weight = (sum === 0 ? raw[k]! : raw[k]! / sum) * 2 ** PRECISION_BITS;
      weights[i * most + k] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    first[i] = begin;
    count[i] = length;
  }
  return { first, count, weights, most };
}

function tooLong(message: string, details: Readonly<Record<string, number>>): LowbitError {
  return new LowbitError('ERR_LIMIT', message, { hint: 'The image is much longer than it is wide: cut it into parts.', details });
}

const HALF = 1 << (PRECISION_BITS - 1);
const clip = (sum: number): number => Math.max(0, Math.min(sum >> PRECISION_BITS, 255));

/**
 * The window (default all) of an image that is resized to `width` x `height`: what `Image.resize((width, height), filter)` of Pillow followed by `crop` gives,
 * to the last bit. Only what the window needs is computed, whatever the size of the whole. Throws ERR_LIMIT for sides of millions of pixels, and for rows
 * between the two directions that are more than `MAX_PIXELS`.
 */
export function resize(
  image: RgbImage,
  size: { readonly width: number; readonly height: number },
  { filter = 'bicubic', window = { left: 0, top: 0, ...size } }: { readonly filter?: ResizeFilter; readonly window?: ResizeWindow } = {},
): RgbImage {
  if (filter === 'nearest') return nearest(image, size, window);
  const across =
    image.width === size.width ? undefined : taps(image.width, size.width, { begin: window.left, length: window.width }, filter);
  const down =
    image.height === size.height ? undefined : taps(image.height, size.height, { begin: window.top, length: window.height }, filter);
  // Rows of the source that the window needs.
  const from = down ? down.first[0]! : window.top;
  const to = down ? down.first.at(-1)! + down.count.at(-1)! : window.top + window.height;
  if (window.width * (to - from) > MAX_PIXELS) {
    throw tooLong(`an image of ${image.width} x ${image.height} pixels cannot be resized to a width of ${size.width}`, {
      width: image.width,
      height: image.height,
    });
  }
  const narrow = across ? alongRows(image, across, from, to) : columns(image, window, from, to);
  if (!down) return { width: window.width, height: window.height, data: narrow };
  return { width: window.width, height: window.height, data: alongColumns(narrow, window.width, down, from) };
}

function columns({ width, data }: RgbImage, window: ResizeWindow, from: number, to: number): Uint8Array {
  const out = new Uint8Array(3 * window.width * (to - from));
  for (let y = from; y < to; y++) {
    const begin = 3 * (y * width + window.left);
    out.set(data.subarray(begin, begin + 3 * window.width), 3 * (y - from) * window.width);
  }
  return out;
}

function alongRows({ width, data }: RgbImage, { first, count, weights, most }: Taps, from: number, to: number): Uint8Array {
  const out = new Uint8Array(3 * first.length * (to - from));
  let at = 0;
  for (let y = from; y < to; y++) {
    for (let x = 0; x < first.length; x++) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let pixel = 3 * (y * width + first[x]!);
      for (let k = x * most, end = k + count[x]!; k < end; k++) {
        const weight = weights[k]!;
        red += data[pixel++]! * weight;
        green += data[pixel++]! * weight;
        blue += data[pixel++]! * weight;
      }
      out[at++] = clip(red);
      out[at++] = clip(green);
      out[at++] = clip(blue);
    }
  }
  return out;
}

function alongColumns(data: Uint8Array, width: number, { first, count, weights, most }: Taps, from: number): Uint8Array {
  const row = 3 * width;
  const out = new Uint8Array(row * first.length);
  const sums = new Int32Array(row);
  for (let y = 0; y < first.length; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]!; k++) {
      const weight = weights[y * most + k]!;
      const begin = row * (first[y]! + k - from);
      for (let i = 0; i < row; i++) sums[i]! += data[begin + i]! * weight;
    }
    for (let i = 0; i < row; i++) out[y * row + i] = clip(sums[i]!);
  }
  return out;
}

function nearest(image: RgbImage, size: { readonly width: number; readonly height: number }, window: ResizeWindow): RgbImage {
  const data = new Uint8Array(3 * window.width * window.height);
  let at = 0;
  for (let y = 0; y < window.height; y++) {
    const row = Math.min(image.height - 1, Math.floor(((window.top + y + 0.5) * image.height) / size.height));
    for (let x = 0; x < window.width; x++) {
      const column = Math.min(image.width - 1, Math.floor(((window.left + x + 0.5) * image.width) / size.width));
      const from = 3 * (row * image.width + column);
      for (let c = 0; c < 3; c++) data[at++] = image.data[from + c]!;
    }
  }
  return { width: window.width, height: window.height, data };
}
