// From an image to the numbers a tower takes. Loaded when there is an image: `sight.ts` imports it then.

import { elementCount, float32Tensor, type HostTensor, type ImageDescription, LowbitError } from '@lowbit/core';
import { decodeImage } from './decode.ts';
import { type ImageInput, isTensor, type RgbImage, rgbOf } from './image.ts';
import type { ImagePreparation } from './preparation.ts';
import { resize } from './resize.ts';

/** What a tower takes: f32 [channels, height, width]. */
export type TowerInput = Pick<ImageDescription, 'channels' | 'height' | 'width'>;

/**
 * An image as its tower takes it, by the checkpoint's preparation; `preparation` is asked for only where it is needed, and may throw.
 * Throws what `decodeImage` throws, ERR_BAD_ARGUMENT for what is no image, ERR_BAD_CHECKPOINT if what is prepared is not what the tower takes.
 */
export async function prepareImage(
  input: ImageInput,
  tower: TowerInput,
  preparation: () => ImagePreparation,
  signal?: AbortSignal,
): Promise<HostTensor> {
  const wanted = [tower.channels, tower.height, tower.width];
  if (typeof input === 'object' && input !== null && isTensor(input)) return processed(input, wanted);
  const steps = preparation();
  const pixels = normalized(shaped(input instanceof Uint8Array ? await decodeImage(input, { signal }) : rgbOf(input), steps), steps);
  if (wanted.every((extent, i) => pixels.shape[i] === extent)) return pixels;
  throw new LowbitError('ERR_BAD_CHECKPOINT', `prepared images are [${pixels.shape.join(', ')}], the tower takes [${wanted.join(', ')}]`, {
    hint: 'preprocessor_config.json and config.json do not belong together, or the image is not square and nothing crops it.',
    details: { prepared: pixels.shape, wanted },
  });
}

function processed(input: HostTensor, wanted: readonly number[]): HostTensor {
  const { dtype, data } = input;
  const shape = input.shape.length === 4 && input.shape[0] === 1 ? input.shape.slice(1) : input.shape;
  const fits = shape.length === 3 && wanted.every((extent, i) => shape[i] === extent);
  if (dtype === 'f32' && fits && data.byteLength === 4 * elementCount(wanted)) return { dtype, shape: wanted, data };
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `a processed image is ${dtype} [${input.shape.join(', ')}], expected f32 [${wanted.join(', ')}]`,
    {
      details: { dtype, shape: input.shape, wanted },
    },
  );
}

/** Resized and cropped. Of the resized image only what the crop leaves is computed. */
export function shaped(image: RgbImage, { resize: sizing, crop }: ImagePreparation): RgbImage {
  const size = sizing ? resized(image, sizing.to) : { width: image.width, height: image.height };
  const filter = sizing?.filter ?? 'nearest';
  if (!crop) {
    if (size.width * size.height > 2 ** 26) {
      throw new LowbitError('ERR_LIMIT', `resized the image would be ${size.width} x ${size.height} pixels`, { hint: 'Crop it first.' });
    }
    return resize(image, size, { filter });
  }
  const left = margin(size.width - crop.width, crop.rounding);
  const top = margin(size.height - crop.height, crop.rounding);
  const window = {
    left: Math.max(0, left),
    top: Math.max(0, top),
    width: Math.min(crop.width, size.width),
    height: Math.min(crop.height, size.height),
  };
  return padded(resize(image, size, { filter, window }), crop, { left: Math.max(0, -left), top: Math.max(0, -top) });
}

/** transformers gives the shorter side its length and cuts the fraction of the longer one off, as torchvision does. */
function resized({ width, height }: RgbImage, to: NonNullable<ImagePreparation['resize']>['to']): { width: number; height: number } {
  if ('width' in to) return to;
  const { shortest } = to;
  const longest = Math.max(1, Math.trunc((shortest * Math.max(width, height)) / Math.min(width, height)));
  return width <= height ? { width: shortest, height: longest } : { width: longest, height: shortest };
}

/** Half of what is cut off; negative where something is added. */
function margin(difference: number, rounding: 'down' | 'even'): number {
  const half = difference / 2;
  if (difference < 0 || rounding === 'down') return Math.floor(half);
  const down = Math.floor(half);
  return half - down === 0.5 && down % 2 !== 0 ? down + 1 : down; // Python's round
}

/** Black around an image that is smaller than the crop. */
function padded(image: RgbImage, crop: { width: number; height: number }, { left, top }: { left: number; top: number }): RgbImage {
  if (image.width === crop.width && image.height === crop.height) return image;
  const data = new Uint8Array(3 * crop.width * crop.height);
  const row = 3 * image.width;
  for (let y = 0; y < image.height; y++) {
    data.set(image.data.subarray(y * row, (y + 1) * row), 3 * ((y + top) * crop.width + left));
  }
  return { width: crop.width, height: crop.height, data };
}

/** f32 [3, height, width], rounded where numpy rounds: after the factor, after the mean, after the division. */
export function normalized({ width, height, data }: RgbImage, { rescale, normalize }: ImagePreparation): HostTensor {
  const pixels = new Float32Array(3 * width * height);
  for (let channel = 0; channel < 3; channel++) {
    const mean = Math.fround(normalize?.mean[channel] ?? 0);
    const std = Math.fround(normalize?.std[channel] ?? 1);
    const values = Float32Array.from({ length: 256 }, (_, x) => Math.fround(Math.fround(x * rescale) - mean) / std);
    for (let i = 0, at = channel * width * height; i < width * height; i++) pixels[at++] = values[data[3 * i + channel]!]!;
  }
  return float32Tensor([3, height, width], pixels);
}
