// What a checkpoint wants done to an image before its tower sees it: preprocessor_config.json of transformers, or the block that timm has in config.json.

import { type JsonObject, LowbitError } from '@lowbit/core';
import { badConfig, given, readBoolean, readInteger, readingFile, readList, readNumber, readObject } from '../config.ts';
import { jsonFile, type TextFiles } from '../text/files.ts';
import type { ResizeFilter } from './resize.ts';

/** Sides in pixels. */
interface Sides {
  readonly width: number;
  readonly height: number;
}

/** The steps, in order. */
export interface ImagePreparation {
  /** To sides, or so that the shorter side is this long. Absent: not resized. */
  readonly resize?: { readonly to: Sides | { readonly shortest: number }; readonly filter: ResizeFilter };
  /** The middle; where a margin is odd, the left and upper half of it is `rounding`. Absent: not cropped. */
  readonly crop?: Sides & { readonly rounding: 'down' | 'even' };
  /** Factor of every pixel. */
  readonly rescale: number;
  /** Of each channel: (x - mean) / std. Absent: as it is. */
  readonly normalize?: { readonly mean: readonly number[]; readonly std: readonly number[] };
}

const SIDE = { min: 1, max: 2 ** 14 };
const FILTERS: Readonly<Record<number, ResizeFilter>> = { 0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic', 4: 'box', 5: 'hamming' };
const OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073];
const OPENAI_STD = [0.26862954, 0.26130258, 0.27577711];
const FILES = ['preprocessor_config.json', 'processor_config.json'];
const RULES = { maxBytes: 2 ** 20, code: 'ERR_BAD_CHECKPOINT' } as const;

/**
 * Reads preprocessor_config.json, or `image_processor` of processor_config.json, or `pretrained_cfg` of timm's config.json. Throws ERR_NOT_FOUND where there
 * is none of them, ERR_BAD_CHECKPOINT for unusable values, ERR_UNSUPPORTED_FORMAT for another processor.
 */
export async function readPreparation(source: TextFiles, config: JsonObject): Promise<ImagePreparation> {
  const [own, processor] = await Promise.all(FILES.map((name) => jsonFile(source, name, RULES)));
  if (own) return readingFile(FILES[0]!, () => clipPreparation(own));
  const inner = processor && readingFile(FILES[1]!, () => readObject(processor, 'image_processor'));
  if (inner) return readingFile(FILES[1]!, () => clipPreparation(inner));
  const pretrained = readObject(config, 'pretrained_cfg');
  if (pretrained) return timmPreparation(pretrained);
  throw new LowbitError('ERR_NOT_FOUND', `${source.label} has no preprocessor_config.json, which says how images are prepared`, {
    hint: 'Add the file of the original model, or pass images as tensors that its processor made.',
    details: { file: FILES[0] },
  });
}

function numbers(config: JsonObject, key: string, fallback: readonly number[], bounds: { min: number; max: number }): readonly number[] {
  return readList(config, key, { length: 3 }, (list, name) => readNumber(list, name, bounds)) ?? fallback;
}

function filterOf(config: JsonObject, key: string): ResizeFilter {
  const value = given(config, key) ?? 3;
  const filter = typeof value === 'number' ? FILTERS[value] : undefined;
  if (filter) return filter;
  throw badConfig(key, value, 'a filter of Pillow, 0 to 5');
}

/** A size as processors write it: a number, { shortest_edge }, or { height, width }. */
function sizeOf(config: JsonObject, key: string, fallback: number): Sides | { readonly shortest: number } {
  const value = given(config, key) ?? fallback;
  if (typeof value === 'number') return { shortest: readInteger({ [key]: value }, key, SIDE) };
  const size = readObject(config, key)!;
  if (given(size, 'shortest_edge') !== undefined)
    return { shortest: readInteger(size, 'shortest_edge', SIDE, undefined, `${key}.shortest_edge`) };
  return sidesOf(size, key);
}

const sidesOf = (size: JsonObject, key: string): Sides => ({
  height: readInteger(size, 'height', SIDE, undefined, `${key}.height`),
  width: readInteger(size, 'width', SIDE, undefined, `${key}.width`),
});

function cropOf(config: JsonObject): Sides {
  const value = given(config, 'crop_size') ?? 224;
  if (typeof value !== 'number') return sidesOf(readObject(config, 'crop_size')!, 'crop_size');
  const side = readInteger({ crop_size: value }, 'crop_size', SIDE);
  return { height: side, width: side };
}

function clipPreparation(config: JsonObject): ImagePreparation {
  const type = given(config, 'image_processor_type') ?? given(config, 'feature_extractor_type') ?? 'CLIPImageProcessor';
  if (
    typeof type !== 'string' ||
    !/^CLIP(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)$|^ViTImageProcessor(?:Fast)?$|^Llava(?:ImageProcessor(?:Fast|Pil)?)$/.test(type)
  ) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `images are prepared by ${JSON.stringify(type)}, which nothing here does`, {
      hint: 'Pass images as tensors that its processor made.',
      details: { type },
    });
  }
  if (/^Llava/.test(type) && readBoolean(config, 'do_pad', false)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', 'images are padded to squares, which nothing here does', {
      hint: 'Pad them before, or pass tensors that its processor made.',
    });
  }
  const crops = readBoolean(config, 'do_center_crop', !/^ViT/.test(type));
  return {
    ...(readBoolean(config, 'do_resize', true) && {
      resize: { to: sizeOf(config, 'size', 224), filter: filterOf(config, 'resample') },
    }),
    ...(crops && { crop: { ...cropOf(config), rounding: 'down' } }),
    rescale: readBoolean(config, 'do_rescale', true) ? readNumber(config, 'rescale_factor', { min: 1e-9, max: 1e3 }, 1 / 255) : 1,
    ...(readBoolean(config, 'do_normalize', true) && {
      normalize: {
        mean: numbers(config, 'image_mean', OPENAI_MEAN, { min: -1e3, max: 1e3 }),
        std: numbers(config, 'image_std', OPENAI_STD, { min: 1e-6, max: 1e6 }),
      },
    }),
  };
}

/** Its evaluation transform: the shorter side to the model's over crop_pct, then the middle. */
function timmPreparation(config: JsonObject): ImagePreparation {
  const [, height, width] = readList(config, 'input_size', { length: 3 }, (list, key) => readInteger(list, key, SIDE)) ?? [3, 224, 224];
  const share = readNumber(config, 'crop_pct', { min: 0.1, max: 1 }, 0.875);
  const mode = given(config, 'crop_mode') ?? 'center';
  if (mode !== 'center' || height !== width) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `config.json: images of ${height} x ${width}, crop_mode ${JSON.stringify(mode)}`, {
      hint: 'Only square images and crop_mode center are supported. Pass images as tensors that timm made.',
      details: { height, width, mode },
    });
  }
  const name = given(config, 'interpolation') ?? 'bicubic';
  const filter = Object.values(FILTERS).find((known) => known === name);
  if (!filter) throw badConfig('interpolation', name, Object.values(FILTERS).join(', '));
  return {
    resize: { to: { shortest: Math.floor(height! / share) }, filter },
    crop: { height: height!, width: width!, rounding: 'even' },
    rescale: 1 / 255,
    normalize: {
      mean: numbers(config, 'mean', [0.485, 0.456, 0.406], { min: -1e3, max: 1e3 }),
      std: numbers(config, 'std', [0.229, 0.224, 0.225], { min: 1e-6, max: 1e6 }),
    },
  };
}
