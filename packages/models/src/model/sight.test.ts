// A language model that looks at images: prompts and their placeholders, what may be shared between texts, and what is refused. The numbers themselves:
// images.test.ts.

import { createRuntime, type HostTensor, isLowbitError, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import type { ImageInput } from '../images/image.ts';
import { type Contents, goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { loadImageTower } from './image-tower.ts';
import type { LanguageModel } from './language-model.ts';
import { loadModel } from './load-model.ts';

const IMAGE = 303;
const ROWS = 25;

/** The golden LLaVA with a tokenizer of one token a character, a chat template, and a way to prepare images. */
const contents: Contents = {
  ...goldenContents(golden, 'llava'),
  files: {
    'tokenizer.json': JSON.stringify({
      version: '1.0',
      added_tokens: [
        { id: 1, content: '<s>', special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
        { id: 2, content: '</s>', special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
        { id: IMAGE, content: '<image>', special: true, single_word: false, lstrip: false, rstrip: false, normalized: false },
      ],
      normalizer: null,
      pre_tokenizer: { type: 'Split', pattern: { Regex: '' }, behavior: 'Isolated', invert: false },
      post_processor: null,
      decoder: { type: 'Fuse' },
      model: {
        type: 'BPE',
        unk_token: null,
        merges: [],
        vocab: {
          '<s>': 1,
          '</s>': 2,
          '<image>': IMAGE,
          ...Object.fromEntries([...'abcdefghijklmnopqrstuvwxyz :?\n'].map((c, i) => [c, 10 + i])),
        },
      },
    }),
    'tokenizer_config.json': JSON.stringify({ bos_token: '<s>', eos_token: '</s>' }),
    'chat_template.json': JSON.stringify({
      chat_template:
        "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
    }),
    'preprocessor_config.json': JSON.stringify({ size: { shortest_edge: 40 }, crop_size: { height: 40, width: 40 } }),
  },
};

/** Pixels of one kind of picture. */
function picture(seed: number, width = 48, height = 44): ImageInput {
  const data = Uint8Array.from({ length: 3 * width * height }, (_, i) => 128 + 120 * Math.sin((i + seed * 37) / (3 + seed)));
  return { width, height, data };
}

let runtime: Runtime;
let model: LanguageModel;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
  model = await loadModel(memoryCheckpoint(contents), { runtime, maxSequences: 4 });
});
afterAll(async () => {
  await model[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
});

const codeOf = async (run: () => Promise<unknown>): Promise<string> => {
  try {
    await run();
  } catch (error) {
    if (isLowbitError(error)) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'none';
};

const greedy = { temperature: 0, maxTokens: 6, ignoreEos: true } as const;
const [a, b] = [picture(1), picture(2)];

describe('prompts', () => {
  test('text and conversation have one placeholder an image, and the image takes its tokens', async () => {
    const prompt = 'user: <image>\nwhat is this?\nassistant:';
    const byText = await model.generate({ prompt, images: [a], ...greedy });
    const content = [{ type: 'image' }, { type: 'text', text: 'what is this?' }];
    const byMessages = await model.generate({ messages: [{ role: 'user', content }], images: [a], ...greedy });
    expect(byMessages.ids).toEqual(byText.ids);
    expect(byText.usage.promptTokens).toBe(model.tokenizer.encode(prompt).length + ROWS - 1);
    const other = await model.generate({ prompt, images: [b], ...greedy });
    expect(other.ids).not.toEqual(byText.ids);
  });

  test('images stand in their order', async () => {
    const prompt = 'a: <image> b: <image> which?';
    const both = await model.generate({ prompt, images: [a, b], ...greedy });
    const turned = await model.generate({ prompt, images: [b, a], ...greedy });
    const logits = async (images: ImageInput[]): Promise<Float32Array> =>
      toFloat32(await model.logits(model.tokenizer.encode(prompt), { images }));
    expect(await logits([a, b])).not.toEqual(await logits([b, a]));
    expect(both.usage.promptTokens).toBe(turned.usage.promptTokens);
  });

  test('streams, and may be left early', async () => {
    const whole = await model.generate({ prompt: '<image> a', images: [a], ...greedy });
    const ids: number[] = [];
    for await (const { id } of model.stream({ prompt: '<image> a', images: [a], ...greedy })) {
      ids.push(id);
      if (ids.length === 3) break;
    }
    expect(ids).toEqual(whole.ids.slice(0, 3));
    expect(model.memory().kvCache).toBe(0);
  });

  test('a batch gives what each text gives alone', async () => {
    const requests = [
      { prompt: '<image> a', images: [a], ...greedy },
      { prompt: 'no image here', ...greedy },
      { prompt: 'two: <image><image>', images: [b, a], ...greedy },
      { prompt: '<image> a', images: [b], ...greedy },
    ];
    const alone = [];
    for (const request of requests) alone.push((await model.generate(request)).ids);
    const batch = await model.generateBatch(requests);
    expect(batch.map(({ ids }) => ids)).toEqual(alone);
    expect(model.memory().kvCache).toBe(0);
  });

  test('guessing tokens changes nothing', async () => {
    const options = { prompt: '<image> abab abab', images: [a], temperature: 0, maxTokens: 20, ignoreEos: true };
    expect((await model.generate({ ...options, promptLookup: true })).ids).toEqual((await model.generate(options)).ids);
  });
});

describe('the prompt cache', () => {
  const ask = (text: string, images: ImageInput[], promptCache?: Awaited<ReturnType<LanguageModel['promptCache']>>) =>
    model.generate({ prompt: text, images, ...greedy, ...(promptCache && { promptCache }) });

  test('the same image goes on where the last text ended, another image does not', async () => {
    const text = 'user: <image>\nwhat';
    const start = model.tokenizer.encode('user: ').length;
    const more = `${text} is this?`;
    await using cache = model.promptCache({ texts: 2 });
    const first = await ask(text, [a], cache);
    expect(first.usage.cachedTokens).toBe(0);
    // A copy of the pixels is the same image.
    const again = await ask(more, [{ ...(a as { width: number; height: number; data: Uint8Array }) }], cache);
    expect(again.usage.cachedTokens).toBe(model.tokenizer.encode(text).length + ROWS - 1);
    expect(again.ids).toEqual((await ask(more, [a])).ids);
    const other = await ask(more, [b], cache);
    expect(other.usage.cachedTokens).toBe(start);
    expect(other.ids).toEqual((await ask(more, [b])).ids);
    // Both are known now.
    const back = await ask(more, [b], cache);
    expect(back.usage.cachedTokens).toBeGreaterThan(start + ROWS);
    expect(back.ids).toEqual(other.ids);
  });

  test('a second image that differs leaves the first one in place', async () => {
    const text = 'a <image> b <image> c';
    await using cache = model.promptCache();
    await ask(text, [a, a], cache);
    const second = await ask(text, [a, b], cache);
    expect(second.usage.cachedTokens).toBe(model.tokenizer.encode('a ').length + ROWS + model.tokenizer.encode(' b ').length);
    expect(second.ids).toEqual((await ask(text, [a, b])).ids);
  });

  test('tokens that an image replaced are not those of a text without it', async () => {
    await using cache = model.promptCache();
    const ids = [1, 12, ...new Array<number>(ROWS).fill(IMAGE), 13, 14];
    await model.generate({ ids, images: [a], ...greedy, promptCache: cache });
    const other = [1, 12, 13, 14];
    const got = await model.generate({ ids: other, ...greedy, promptCache: cache });
    expect(got.usage.cachedTokens).toBe(2);
  });
});

describe('what is refused', () => {
  test.each([
    ['no placeholder', 'what is this?', [a], /^ERR_BAD_ARGUMENT: the prompt has 0 image placeholders, and there is 1 image/],
    ['no image', 'user: <image>', [], /^ERR_BAD_ARGUMENT: the prompt has 1 image placeholder, and there are 0 images/],
    ['one image too few', '<image> <image>', [a], /^ERR_BAD_ARGUMENT: the prompt has 2 image placeholders, and there is 1 image/],
    ['no list', '<image>', a, /^ERR_BAD_ARGUMENT: images is no list/],
    ['a path', '<image>', ['cat.jpg'], /^ERR_BAD_ARGUMENT: an image is neither/],
    ['bytes that are no image', '<image>', [new Uint8Array(50)], /^ERR_BAD_IMAGE/],
  ])('%s', async (_, prompt, images, message) => {
    for (const run of [
      () => model.generate({ prompt, images: images as never, ...greedy }),
      () => model.generateBatch([{ prompt, images: images as never, ...greedy }]),
    ]) {
      expect(await codeOf(run)).toMatch(message);
    }
    expect(model.memory().kvCache).toBe(0);
  });

  test('more images than the context holds', async () => {
    const count = 90;
    const prompt = '<image>'.repeat(count);
    expect(await codeOf(() => model.generate({ prompt, images: new Array<ImageInput>(count).fill(a), ...greedy }))).toMatch(
      /^ERR_LIMIT: 2250 tokens, 2250 of them of images, do not fit into a context of 2048/,
    );
  });

  test('placeholders of an image that are not together', async () => {
    const ids = [1, ...new Array<number>(10).fill(IMAGE), 5, ...new Array<number>(15).fill(IMAGE)];
    expect(await codeOf(() => model.generate({ ids, images: [a], ...greedy }))).toMatch(/^ERR_BAD_ARGUMENT: the prompt has 25 image/);
  });

  test('an image for a model of text, and an abort', async () => {
    await using text = await loadModel(memoryCheckpoint(goldenContents(golden, 'llama-tied')), { runtime });
    expect(text.images).toBeUndefined();
    expect(await codeOf(() => text.generate({ ids: [1, 2], images: [a], ...greedy }))).toMatch(
      /^ERR_BAD_ARGUMENT: this model takes no images/,
    );
    expect(await codeOf(() => loadImageTower(memoryCheckpoint(goldenContents(golden, 'llama-tied')), { runtime }))).toMatch(
      /^ERR_UNSUPPORTED_ARCH: llama-tied looks at no images/,
    );
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(model.generate({ prompt: '<image>', images: [a], ...greedy, signal })).rejects.toThrow('enough');
    expect(model.memory().kvCache).toBe(0);
  });

  test('a tower as a language model, and a model that does not say how images are prepared', async () => {
    expect(await codeOf(() => loadModel(memoryCheckpoint(goldenContents(golden, 'clip-vision')), { runtime }))).toMatch(
      /^ERR_UNSUPPORTED_ARCH: clip-vision looks at images and reads no text/,
    );
    const bare = memoryCheckpoint(goldenContents(golden, 'llava'));
    await using unprepared = await loadModel(bare, { runtime });
    expect(await codeOf(() => unprepared.generate({ ids: [1, IMAGE], images: [a], ...greedy }))).toMatch(
      /^ERR_NOT_FOUND: llava has no preprocessor_config\.json/,
    );
    // What a processor made is taken all the same.
    const pixels: HostTensor = { dtype: 'f32', shape: [1, 3, 40, 40], data: new Uint8Array(4 * 3 * 40 * 40) };
    expect((await unprepared.generate({ ids: [1, IMAGE], images: [pixels], ...greedy })).ids.length).toBe(6);
  });

  const changed = (config: object, vision: object = {}) => {
    const { config: original, ...rest } = contents;
    const vision_config = { ...(original.vision_config as object), ...vision };
    return memoryCheckpoint({ ...rest, config: { ...original, vision_config, ...config } as never });
  };
  test.each([
    ['another tower', {}, { model_type: 'siglip_vision_model' }, /^ERR_UNSUPPORTED_ARCH: .*vision_config\.model_type/],
    ['several layers', { vision_feature_layer: [-2, -5] }, {}, /^ERR_UNSUPPORTED_ARCH: .*vision_feature_layer/],
    ['a layer beyond the last', { vision_feature_layer: 7 }, {}, /^ERR_BAD_CHECKPOINT: .*vision_feature_layer is 7/],
    ['a placeholder beyond the vocabulary', { image_token_index: 304 }, {}, /^ERR_BAD_CHECKPOINT: .*image_token_index is 304/],
    ['another language model', { text_config: { model_type: 'mamba' } }, {}, /^ERR_UNSUPPORTED_ARCH: .*text_config\.model_type/],
    ['patches that do not fill the image', {}, { patch_size: 7 }, /^ERR_BAD_CHECKPOINT: .*patch_size is 7/],
    ['a million patches', {}, { patch_size: 1, image_size: 1024 }, /^ERR_BAD_CHECKPOINT: .*image_size/],
    ['a negative side', {}, { image_size: -40 }, /^ERR_BAD_CHECKPOINT: .*image_size is -40/],
    ['more layers than the file', {}, { num_hidden_layers: 4 }, /^ERR_TENSOR_MISMATCH: .*layers\.3/],
    ['fewer layers than the file', {}, { num_hidden_layers: 2 }, /^ERR_TENSOR_MISMATCH: .*layers\.2/],
  ])('%s', async (_, config, vision, message) => {
    expect(await codeOf(() => loadModel(changed(config, vision), { runtime }))).toMatch(message);
  });
});

test('memory is counted and given back, and linears of both parts can be read', async () => {
  const own = await createRuntime({ backends: [referenceBackend()] });
  const loaded = await loadModel(memoryCheckpoint(contents), { runtime: own });
  const paths = [...loaded.linears()].map(({ path, keep }) => [path, keep === true] as const);
  const tower = paths.filter(([path]) => path.startsWith('vision_tower.'));
  expect(tower.length).toBe(12); // the third layer is in the file alone
  expect(paths.filter(([path, keep]) => keep === path.startsWith('language_model.model.'))).toEqual([]);
  expect((await loaded.weight(tower[0]![0])).weight.shape).toEqual([64, 64]);
  expect((await loaded.weight('language_model.model.layers.0.mlp.up_proj')).weight.shape).toEqual([64, 64]);
  const { weights } = loaded.memory();
  await using image = await loadImageTower(memoryCheckpoint(contents), { runtime: own });
  expect(image.memory().weights).toBeGreaterThan(0);
  expect(image.memory().weights).toBeLessThan(weights);
  await image[Symbol.asyncDispose]();
  await loaded[Symbol.asyncDispose]();
  const backend = await own.backend();
  expect(backend.allocated()).toEqual(await freshlyAllocated());
  await own[Symbol.asyncDispose]();
});

async function freshlyAllocated(): Promise<unknown> {
  await using fresh = await createRuntime({ backends: [referenceBackend()] });
  return (await fresh.backend()).allocated();
}
