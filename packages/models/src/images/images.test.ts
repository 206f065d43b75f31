// Against Pillow and transformers: fixtures/golden/images/make/images.py says how the files came about.

import { readFileSync } from 'node:fs';
import { type HostTensor, isLowbitError, type JsonObject, toFloat32 } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { decodeImage } from './decode.ts';
import type { RgbImage } from './image.ts';
import { readPreparation } from './preparation.ts';
import { normalized, prepareImage, shaped } from './prepare.ts';
import { type ResizeFilter, resize } from './resize.ts';

const expected = goldenTensors('images/expected.safetensors');
const file = (name: string): Uint8Array => new Uint8Array(readFileSync(goldenPath(`images/files/${name}`)));
const own = { decoder: 'own' } as const;

function imageOf({ shape, data }: HostTensor): RgbImage {
  return { width: shape[1]!, height: shape[0]!, data };
}

/** Largest and mean difference of two images of one size. */
function difference(got: RgbImage, { shape, data }: HostTensor): { largest: number; mean: number } {
  expect([got.height, got.width, 3]).toEqual(shape);
  const all = Array.from(data, (value, i) => Math.abs(value - got.data[i]!));
  return { largest: Math.max(...all), mean: all.reduce((sum, x) => sum + x, 0) / all.length };
}

const named = (prefix: string): string[] =>
  [...expected.keys()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));

describe('files', () => {
  test.each(named('decode.'))('%s: every pixel as in Pillow', async (name) => {
    expect(difference(await decodeImage(file(name), own), expected.get(`decode.${name}`)!)).toEqual({ largest: 0, mean: 0 });
  });

  test('pixels of a canvas lose their alpha, and a subarray of a file is a file', async () => {
    const bytes = file('rgb.png');
    const larger = new Uint8Array(bytes.length + 20);
    larger.set(bytes, 10);
    expect(await decodeImage(larger.subarray(10, 10 + bytes.length), own)).toEqual(await decodeImage(bytes, own));
  });
});

describe('while an image is decoded', () => {
  const large = ['420.jpg', 'cmyk.jpg', 'progressive.jpg', 'turned-6.jpg', 'interlaced.png', 'turned-6.png'];
  /** As if every row took so long that the event loop is due. */
  let now = performance.now(); // rises from test to test, as clocks do
  const slowly = async (body: () => Promise<void>): Promise<void> => {
    vi.spyOn(performance, 'now').mockImplementation(() => (now += 1000));
    try {
      await body();
    } finally {
      vi.restoreAllMocks();
    }
  };

  test.each(large)('%s: the event loop runs, and the pixels are the same', (name) =>
    slowly(async () => {
      let [turns, running] = [0, true];
      const turn = (): void => {
        turns++;
        if (running) setImmediate(turn);
      };
      setImmediate(turn);
      const got = await decodeImage(file(name), own);
      running = false;
      expect(difference(got, expected.get(`decode.${name}`)!).largest).toBe(0);
      if (name.endsWith('.jpg')) expect(turns).toBeGreaterThan(got.height);
    }),
  );

  test.each(large)('%s: it can be aborted', (name) =>
    slowly(async () => {
      const controller = new AbortController();
      const decoding = decodeImage(file(name), { ...own, signal: controller.signal });
      setImmediate(() => controller.abort(new Error('enough')));
      await expect(decoding).rejects.toThrow('enough');
    }),
  );

  test.each(['own', 'sharp'] as const)('aborted before it begins: %s', async (decoder) => {
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(decodeImage(file('rgb.png'), { decoder, signal })).rejects.toThrow('enough');
  });
});

describe('files by sharp', () => {
  // What ink is in colours, and what of 16 bits is grey, sharp sees in another way.
  const others = ['cmyk.jpg', 'grey-16.png'];
  test.each(named('decode.').filter((name) => !others.includes(name)))('%s: every pixel as here', async (name) => {
    const image = await decodeImage(file(name), { decoder: 'sharp' });
    expect(difference(image, expected.get(`decode.${name}`)!)).toEqual({ largest: 0, mean: 0 });
    expect(Buffer.compare((await decodeImage(file(name))).data, image.data)).toBe(0); // by default, too
  });
  test.each(others)('%s: a picture of the same size', async (name) => {
    const image = await decodeImage(file(name), { decoder: 'sharp' });
    expect([image.height, image.width, 3]).toEqual(expected.get(`decode.${name}`)!.shape);
  });

  test('WebP, alpha left out', async () => {
    const { default: sharp } = await import('sharp');
    for (const name of ['rgb.png', 'rgba.png']) {
      const webp = await sharp(file(name)).webp({ lossless: true, exact: true }).toBuffer();
      expect(difference(await decodeImage(webp), expected.get(`decode.${name}`)!).largest).toBe(0);
    }
  });

  test('what is no image', async () => {
    const code = (bytes: Uint8Array): Promise<string> => codeOf(decodeImage(bytes, { decoder: 'sharp' }));
    expect(await code(new TextEncoder().encode('hello, I am a cat'))).toBe('ERR_BAD_IMAGE');
    expect(await code(file('444.jpg').subarray(0, 900))).toBe('ERR_BAD_IMAGE');
    expect(await code(file('rgb.png').subarray(0, 900))).toBe('ERR_BAD_IMAGE');
    expect(await code(pngOf(10_000, 10_000))).toBe('ERR_LIMIT');
    expect(await code(jpegOf(10_000, 10_000))).toBe('ERR_LIMIT');
  });
});

test('in a browser sharp is not looked for', async () => {
  const inspected: string[] = [];
  // What polyfills of bundlers are like.
  const polyfill = { versions: new Proxy({}, { get: (_, name) => void inspected.push(String(name)) }) };
  const { process: real } = globalThis;
  vi.stubGlobal(
    'process',
    new Proxy(real, { get: (target, name) => (name === 'versions' ? polyfill.versions : Reflect.get(target, name)) }),
  );
  try {
    expect(await codeOf(decodeImage(file('rgb.png'), { decoder: 'sharp' }))).toBe('ERR_NOT_FOUND');
    expect(await decodeImage(file('rgb.png'))).toEqual(await decodeImage(file('rgb.png'), own));
    expect(inspected).toContain('node');
  } finally {
    vi.unstubAllGlobals();
  }
});

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise;
  } catch (error) {
    if (isLowbitError(error)) return error.code;
    throw error;
  }
  return 'none';
};

/** A PNG that says it is so large. */
function pngOf(width: number, height: number): Uint8Array {
  const bytes = file('rgb.png');
  const view = new DataView(bytes.buffer);
  view.setUint32(16, width);
  view.setUint32(20, height);
  return bytes;
}

/** A JPEG that says it is so large. */
function jpegOf(width: number, height: number): Uint8Array {
  const bytes = file('444.jpg');
  const at = bytes.findIndex((byte, i) => byte === 0xff && bytes[i + 1] === 0xc0);
  new DataView(bytes.buffer).setUint16(at + 5, height);
  new DataView(bytes.buffer).setUint16(at + 7, width);
  return bytes;
}

describe('what is no image', () => {
  const bad: readonly (readonly [name: string, bytes: Uint8Array, code: string])[] = [
    ['nothing', new Uint8Array(0), 'ERR_BAD_IMAGE'],
    ['text', new TextEncoder().encode('hello, I am a cat'), 'ERR_BAD_IMAGE'],
    ['WebP without sharp', new TextEncoder().encode('RIFF0000WEBPVP8 '), 'ERR_UNSUPPORTED_FORMAT'],
    ['GIF without sharp', new TextEncoder().encode('GIF89a'), 'ERR_UNSUPPORTED_FORMAT'],
    ['a PNG signature alone', file('rgb.png').subarray(0, 8), 'ERR_BAD_IMAGE'],
    ['a JPEG signature alone', file('444.jpg').subarray(0, 3), 'ERR_BAD_IMAGE'],
    ['a PNG without rows', pngOf(29, 24), 'ERR_BAD_IMAGE'],
    ['a PNG of no width', pngOf(0, 24), 'ERR_BAD_IMAGE'],
    ['a PNG of 4 billion columns', pngOf(2 ** 32 - 1, 1), 'ERR_LIMIT'],
    ['a PNG of absurd sides', pngOf(2 ** 31, 2 ** 31), 'ERR_LIMIT'],
    ['a JPEG of no height', jpegOf(10, 0), 'ERR_BAD_IMAGE'],
    ['a JPEG of absurd sides', jpegOf(65535, 65535), 'ERR_LIMIT'],
  ];
  test.each(bad)('%s', async (_, bytes, code) => {
    expect(await codeOf(decodeImage(bytes, own))).toBe(code);
  });

  test.each([
    ['JPEG', jpegOf(8192, 8192)],
    ['PNG', pngOf(8192, 8192)],
  ])('a small %s that claims to be large is refused before anything is allocated for it', async (_, bytes) => {
    let most = 0;
    const counted = <T extends typeof Int16Array | typeof Uint8Array>(type: T): T =>
      new Proxy(type, {
        construct(target, args, newTarget) {
          most = Math.max(most, Number(args[0]) || 0);
          return Reflect.construct(target, args, newTarget);
        },
      });
    vi.stubGlobal('Int16Array', counted(Int16Array));
    vi.stubGlobal('Uint8Array', counted(Uint8Array));
    try {
      expect(await codeOf(decodeImage(bytes, own))).toBe('ERR_BAD_IMAGE');
    } finally {
      vi.unstubAllGlobals();
    }
    expect(most).toBeLessThan(2 ** 16);
  });

  test('wrong calls', async () => {
    expect(await codeOf(decodeImage('cat.jpg' as never, own))).toBe('ERR_BAD_ARGUMENT');
    expect(await codeOf(decodeImage(file('rgb.png'), { decoder: 'pil' as never }))).toBe('ERR_BAD_ARGUMENT');
    expect(await codeOf(decodeImage(file('rgb.png'), { decoded: 'own' } as never))).toBe('ERR_BAD_ARGUMENT');
  });

  const names = ['rgb.png', 'interlaced.png', 'palette.png', 'rgb-16.png', '420.jpg', 'progressive.jpg', 'turned-6.jpg'];
  test.each(names)('%s cut off anywhere', async (name) => {
    const bytes = file(name);
    for (let length = 0; length < bytes.length - 1; length += Math.max(1, Math.floor(bytes.length / 97))) {
      expect(await codeOf(decodeImage(bytes.subarray(0, length), own)), `${length} bytes`).toBe('ERR_BAD_IMAGE');
    }
  });

  test('damaged bytes give an image or an error that says so, of a bounded size', async () => {
    const files = names.map(file);
    const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(fc.nat(names.length - 1), damage, async (which, changes) => {
        const bytes = files[which]!.slice();
        for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
        try {
          const { width, height, data } = await decodeImage(bytes, own);
          expect(data.length).toBe(3 * width * height);
        } catch (error) {
          if (!isLowbitError(error)) throw error;
          expect(['ERR_BAD_IMAGE', 'ERR_LIMIT', 'ERR_UNSUPPORTED_FORMAT']).toContain(error.code);
        }
      }),
      { seed: 7, numRuns: 600 },
    );
  });

  test('a file that inflates to a thousand times what its image takes is read no further than that', async () => {
    const zeros = new Blob([new Uint8Array(2 ** 26)]).stream().pipeThrough(new CompressionStream('deflate'));
    const packed = new Uint8Array(await new Response(zeros).arrayBuffer());
    const head = file('rgb-16.png').subarray(0, 33);
    const chunk = (type: string, content: Uint8Array): Uint8Array => {
      const bytes = new Uint8Array(12 + content.length);
      new DataView(bytes.buffer).setUint32(0, content.length);
      bytes.set(new TextEncoder().encode(type), 4);
      bytes.set(content, 8);
      return bytes;
    };
    const bomb = new Uint8Array(await new Blob([head, chunk('IDAT', packed), chunk('IEND', new Uint8Array(0))]).arrayBuffer());
    const { width, height, data } = await decodeImage(bomb, own);
    expect([width, height, data.every((byte) => byte === 0)]).toEqual([11, 9, true]);
  });
});

describe('resizing', () => {
  const source = imageOf(expected.get('resize.source')!);
  const sizes = named('resize.').filter((name) => /^[a-z]+\.\d+x\d+$/.test(name) && !name.startsWith('odd'));
  test.each(sizes)('%s: every number as in Pillow', (name) => {
    const [filter, size] = name.split('.') as [ResizeFilter, string];
    const [width, height] = size.split('x').map(Number) as [number, number];
    expect(difference(resize(source, { width, height }, { filter }), expected.get(`resize.${name}`)!)).toEqual({ largest: 0, mean: 0 });
  });

  test.each(['1x40', '40x1', '300x3'])('odd shapes: %s', (name) => {
    const odd = imageOf(expected.get(`resize.odd.${name}`)!);
    expect(difference(resize(odd, { width: 13, height: 9 }), expected.get(`resize.odd.${name}.to.13x9`)!).largest).toBe(0);
  });

  const side = fc.integer({ min: 1, max: 40 });
  const filters = fc.constantFrom<ResizeFilter>('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming');
  const picture = fc.tuple(side, side, fc.nat(255)).map(([width, height, seed]) => ({
    width,
    height,
    data: Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * i * 31 + seed * (i + 7)) % 256),
  }));

  test('a window is that part of the whole', () => {
    fc.assert(
      fc.property(picture, side, side, filters, fc.nat(), fc.nat(), (image, width, height, filter, x, y) => {
        const window = { left: x % width, top: y % height, width: width - (x % width), height: height - (y % height) };
        const whole = resize(image, { width, height }, { filter });
        const part = resize(image, { width, height }, { filter, window });
        for (let row = 0; row < window.height; row++) {
          const from = 3 * ((window.top + row) * width + window.left);
          expect(part.data.subarray(3 * row * window.width, 3 * (row + 1) * window.width)).toEqual(
            whole.data.subarray(from, from + 3 * window.width),
          );
        }
      }),
      { seed: 3, numRuns: 150 },
    );
  });

  test('one colour stays that colour, the same size is the same image', () => {
    fc.assert(
      fc.property(picture, side, side, filters, fc.nat(255), (image, width, height, filter, level) => {
        const flat = { ...image, data: new Uint8Array(image.data.length).fill(level) };
        expect(resize(flat, { width, height }, { filter }).data.every((value) => value === level)).toBe(true);
        expect(resize(image, image, { filter })).toEqual({ width: image.width, height: image.height, data: image.data });
      }),
      { seed: 4, numRuns: 150 },
    );
  });

  test.each([
    ['wide', { width: 2 ** 26, height: 1 }],
    ['tall', { width: 1, height: 2 ** 26 }],
  ])('a %s image of absurd sides is refused', (_, sides) => {
    const image = { ...sides, data: new Uint8Array(0) }; // nothing of it is looked at
    expect(() => resize(image, { width: 224, height: 224 })).toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });

  test('a tall image that is widened before it shrinks is refused', () => {
    const image = { width: 1, height: 2 ** 20, data: new Uint8Array(0) };
    expect(() => resize(image, { width: 224, height: 224 })).toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });

  test('a narrow image is resized to a square crop without the rest being made', () => {
    // The whole would be 336 x 21 million pixels.
    const image = { width: 1, height: 2 ** 16, data: new Uint8Array(3 * 2 ** 16).fill(9) };
    const crop = { width: 336, height: 336, rounding: 'down' } as const;
    const got = shaped(image, { resize: { to: { shortest: 336 }, filter: 'bicubic' }, crop, rescale: 1 });
    expect([got.width, got.height, got.data.every((value) => value === 9)]).toEqual([336, 336, true]);
  });
});

describe('preparing, as transformers', () => {
  const configs = goldenJson<Record<string, JsonObject>>('images/preparations.json');
  const source = (files: Readonly<Record<string, unknown>>) => ({
    label: 'a folder',
    file: async (name: string) => (name in files ? new TextEncoder().encode(JSON.stringify(files[name])) : undefined),
  });

  test.each(Object.keys(configs))('%s', async (name) => {
    for (const files of [
      { 'preprocessor_config.json': configs[name]! },
      { 'processor_config.json': { image_processor: configs[name]! } },
    ]) {
      const steps = await readPreparation(source(files) as never, {});
      for (const which of ['wide', 'tall']) {
        const want = expected.get(`prepare.${name}.${which}`)!;
        const got = normalized(shaped(imageOf(expected.get(`prepare.${which}`)!), steps), steps);
        expect(got.shape).toEqual(want.shape);
        const wanted = toFloat32(want);
        expect(Math.max(...toFloat32(got).map((x, i) => Math.abs(x - wanted[i]!)))).toBe(0);
      }
    }
  });

  test("timm's block in config.json", async () => {
    const pretrained_cfg = {
      input_size: [3, 224, 224],
      interpolation: 'bicubic',
      crop_pct: 0.9,
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
    };
    expect(await readPreparation(source({}) as never, { pretrained_cfg })).toEqual({
      resize: { to: { shortest: 248 }, filter: 'bicubic' },
      crop: { height: 224, width: 224, rounding: 'even' },
      rescale: 1 / 255,
      normalize: { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
    });
  });

  test.each([
    ['no file at all', {}, 'ERR_NOT_FOUND'],
    ['a side of 0', { 'preprocessor_config.json': { size: 0 } }, 'ERR_BAD_CHECKPOINT'],
    ['a side of 1e12', { 'preprocessor_config.json': { crop_size: 1e12 } }, 'ERR_BAD_CHECKPOINT'],
    ['a filter nobody has', { 'preprocessor_config.json': { resample: 9 } }, 'ERR_BAD_CHECKPOINT'],
    ['a deviation of 0', { 'preprocessor_config.json': { image_std: [0, 1, 1] } }, 'ERR_BAD_CHECKPOINT'],
    ['two means', { 'preprocessor_config.json': { image_mean: [0, 1] } }, 'ERR_BAD_CHECKPOINT'],
    ['a list', { 'preprocessor_config.json': [] }, 'ERR_BAD_CHECKPOINT'],
    ['another processor', { 'preprocessor_config.json': { image_processor_type: 'Qwen2VLImageProcessor' } }, 'ERR_UNSUPPORTED_FORMAT'],
  ])('%s', async (_, files, code) => {
    expect(await codeOf(readPreparation(source(files) as never, {}))).toBe(code);
  });

  test('what is no image, and what the tower does not take', async () => {
    const tower = { channels: 3, height: 28, width: 28 };
    const steps = await readPreparation(source({ 'preprocessor_config.json': configs.clip! }) as never, {});
    const prepared = await prepareImage(imageOf(expected.get('prepare.wide')!), tower, () => steps);
    expect(await prepareImage(prepared, tower, () => steps)).toEqual(prepared);
    const code = (input: unknown, wanted = tower): Promise<string> => codeOf(prepareImage(input as never, wanted, () => steps));
    expect(await code('cat.jpg')).toBe('ERR_BAD_ARGUMENT');
    expect(await code(null)).toBe('ERR_BAD_ARGUMENT');
    expect(await code({ width: 2, height: 2, data: new Uint8Array(5) })).toBe('ERR_BAD_ARGUMENT');
    expect(await code({ width: 1e9, height: 1e9, data: new Uint8Array(5) })).toBe('ERR_LIMIT');
    expect(await code({ ...prepared, shape: [3, 14, 56] })).toBe('ERR_BAD_ARGUMENT');
    expect(await code(imageOf(expected.get('prepare.wide')!), { ...tower, width: 56 })).toBe('ERR_BAD_CHECKPOINT');
  });
});
