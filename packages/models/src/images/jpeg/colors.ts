// From components to red, green and blue, as libjpeg (jdcolor.c) and Pillow turn them.

import type { RgbImage } from '../image.ts';
import type { Rest } from '../rest.ts';
import type { Parsed } from './frame.ts';

/** Brightness and two colours, or red, green and blue as they are. */
function isYcc({ frame: { components }, transform, jfif }: Parsed): boolean {
  if (components.length === 4) return transform === 2;
  if (jfif) return true;
  if (transform !== undefined) return transform !== 0;
  return String.fromCharCode(...components.map(({ id }) => id)) !== 'RGB';
}

const clamp = (value: number): number => (value < 0 ? 0 : Math.min(value, 255));

/** The image of full planes. */
export async function colored(parsed: Parsed, planes: readonly Uint8Array[], rest: Rest): Promise<RgbImage> {
  const { width, height } = parsed.frame;
  const data = new Uint8Array(3 * width * height);
  const [first, second = first!, third = first!, black] = planes as readonly (Uint8Array | undefined)[];
  const ycc = planes.length > 1 && isYcc(parsed);
  for (let y = 0; y < height; y++) {
    await rest();
    const row = data.subarray(3 * y * width, 3 * (y + 1) * width);
    const of = (plane: Uint8Array): Uint8Array => plane.subarray(y * width, (y + 1) * width);
    const [a, b, c] = [of(first!), of(second), of(third)];
    if (ycc) fromYcc(row, a, b, c);
    else for (let i = 0, to = 0; to < row.length; i++) [row[to++], row[to++], row[to++]] = [a[i]!, b[i]!, c[i]!];
    if (black) withoutInk(row, of(black), parsed);
  }
  return { width, height, data };
}

function fromYcc(data: Uint8Array, brightness: Uint8Array, blueness: Uint8Array, redness: Uint8Array): void {
  for (let i = 0, to = 0; to < data.length; i++, to += 3) {
    const y = brightness[i]!;
    const cb = blueness[i]! - 128;
    const cr = redness[i]! - 128;
    data[to] = clamp(y + ((91_881 * cr + 32_768) >> 16));
    data[to + 1] = clamp(y + ((-22_554 * cb - 46_802 * cr + 32_768) >> 16));
    data[to + 2] = clamp(y + ((116_130 * cb + 32_768) >> 16));
  }
}

/** Four inks, which Adobe writes inverted, to what they leave of white. */
function withoutInk(data: Uint8Array, black: Uint8Array, { transform }: Parsed): void {
  const inverted = transform !== undefined;
  for (let i = 0; i < data.length; i++) {
    const value = transform === 2 ? 255 - data[i]! : data[i]!;
    const k = black[Math.floor(i / 3)]!;
    const left = inverted ? k : 255 - k;
    data[i] = clamp(left - over255((inverted ? 255 - value : value) * left));
  }
}

/** x / 255, rounded as Pillow does. */
function over255(product: number): number {
  const half = product + 128;
  return ((half >> 8) + half) >> 8;
}
