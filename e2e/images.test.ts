// Models that look at images, with the packages around them: on the native backend, and as folders that are quantized, saved, loaded, run and inspected, by the
// library and by the command. What the reference backend makes of the golden models: packages/models/src/model/images.test.ts.

import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRuntime, type HostTensor, patchLinears, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import { estimateMemory, loadImageTower, loadModel } from '@lowbit/models';
import { openModelFolder, planModel, quantizeModel } from 'lowbit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as golden from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';
import { inspect } from '../packages/cli/src/commands/inspect.ts';
import { lowbit as run, TINY } from './cli-process.ts';
import { difference, relativeDifference, TOLERANCE } from './families/run.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

const ids = (tensor: HostTensor): number[] => Array.from(toFloat32(tensor));

/** Entry `index` of the first axis. */
function entry({ dtype, shape, data }: HostTensor, index: number): HostTensor {
  const bytes = data.length / shape[0]!;
  return { dtype, shape: shape.slice(1), data: data.slice(index * bytes, (index + 1) * bytes) };
}

let dir = '';
let runtime: Runtime;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-images-'));
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(async () => {
  await runtime[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

describe('on the native backend, exactly', () => {
  it.each([
    { folder: 'models/clip-vision', names: ['last_hidden_state', 'pooler_output', 'image_embeds'] },
    { folder: 'models/timm-vit', names: ['features', 'logits'] },
    { folder: 'towers/clip-both', names: ['last_hidden_state', 'pooler_output', 'image_embeds'] },
    { folder: 'towers/timm-clip', names: ['features', 'pooled'] },
  ])('$folder', async ({ folder, names }, context) => {
    addon(context as never);
    const expected = golden.goldenTensors(`${folder}/expected.safetensors`);
    await using native = await createRuntime({ backends: [cpu({ threads: 2, precision: 'exact' })] });
    await using checkpoint = await openCheckpoint(golden.goldenPath(folder));
    await using tower = await loadImageTower(checkpoint, { runtime: native });
    const images = [0, 1].map((index) => entry(expected.get('pixel_values')!, index));
    for (const [index, got] of (await tower.forward(images)).entries()) {
      for (const name of names) expect(relativeDifference(got[name]!, entry(expected.get(name)!, index)), name).toBeLessThanOrEqual(1e-4);
    }
  });

  it.each(['models/llava', 'towers/llava-full'])('%s', async (folder, context) => {
    addon(context as never);
    const expected = golden.goldenTensors(`${folder}/expected.safetensors`);
    const pixels = expected.get('pixel_values')!;
    const images = Array.from({ length: pixels.shape[0]! }, (_, index) => entry(pixels, index));
    const prompt = ids(expected.get('input_ids')!);
    const want = ids(expected.get('generated')!);
    await using native = await createRuntime({ backends: [cpu({ threads: 2, precision: 'exact' })] });
    await using checkpoint = await openCheckpoint(golden.goldenPath(folder));
    for (const prefillChunk of [512, 7]) {
      await using model = await loadModel(checkpoint, { runtime: native, prefillChunk });
      expect(difference(await model.logits(prompt, { images }), expected.get('logits')!)).toBeLessThanOrEqual(TOLERANCE);
      const { ids: got } = await model.generate({ ids: prompt, images, maxTokens: want.length, temperature: 0, ignoreEos: true });
      expect(got).toEqual(want);
    }
  });
});

const hqq4 = hqq({ bits: 4, groupSize: 16 });

describe('quantized, saved, loaded and run', () => {
  it('llava: the language model alone, and what is saved says what the model in memory says', async () => {
    const source = golden.goldenPath('models/llava');
    const out = join(dir, 'llava-hqq4');
    const report = await quantizeModel(source, { out, quantizer: hqq4 });
    expect(report.summary).toMatchObject({ linears: 14 + 18 + 2 + 1, quantizedLinears: 14 });
    expect(report.tags.filter(({ quantized }) => quantized).every(({ tag }) => tag.startsWith('language_model.'))).toBe(true);
    const expected = golden.goldenTensors('models/llava/expected.safetensors');
    const images = [entry(expected.get('pixel_values')!, 0)];
    const prompt = ids(expected.get('input_ids')!);
    await using saved = await openCheckpoint(out);
    await using model = await loadModel(saved, { runtime });
    await using float = await openCheckpoint(source);
    await using patched = await loadModel(float, { runtime });
    const replaced = await patchLinears(patched, [{ match: 'language_model.model.**', use: hqq4 }], { runtime });
    expect(replaced.length).toBe(14);
    const logits = await model.logits(prompt, { images });
    expect(difference(logits, await patched.logits(prompt, { images }))).toBeLessThanOrEqual(0.05); // scales are stored in 16 bits
    expect(difference(logits, expected.get('logits')!)).toBeGreaterThan(0.1);
    expect((await model.generate({ ids: prompt, images, maxTokens: 4, temperature: 0 })).ids.length).toBeGreaterThan(0);
    const estimate = await estimateMemory(saved, { runtime });
    expect(estimate.weights).toBe(model.memory().weights);
    await using folder = await openModelFolder(out);
    const seen = await inspect(folder);
    expect(seen.images).toEqual({ linears: 20, inFloat: 20 });
    expect(seen.config.hidden_size).toBe(64);
  });

  it('llava: a rule reaches the tower by name', async () => {
    const plan = await planModel(golden.goldenPath('models/llava'), {
      quantizer: hqq4,
      rules: [{ match: 'vision_tower.**', use: hqq({ bits: 8, groupSize: 16 }) }],
    });
    expect(plan.summary.quantizedLinears).toBe(14 + 18);
    const text = await planModel(golden.goldenPath('models/llava'), {
      quantizer: 'keep',
      rules: [{ match: 'language_model.self_attn.*', use: hqq4 }],
    });
    expect(text.summary.quantizedLinears).toBe(8);
  });

  it.each([
    ['models/clip-vision', 18, 1],
    ['towers/clip-both', 12, 13],
    ['models/timm-vit', 12, 1],
    ['towers/timm-clip', 8, 0],
  ])('%s', async (folder, quantized, kept) => {
    const out = join(dir, folder.replace('/', '-'));
    const report = await quantizeModel(golden.goldenPath(folder), { out, quantizer: hqq({ bits: 8, groupSize: 8 }) });
    expect(report.summary).toMatchObject({ linears: quantized + kept, quantizedLinears: quantized });
    const expected = golden.goldenTensors(`${folder}/expected.safetensors`);
    await using checkpoint = await openCheckpoint(out);
    await using tower = await loadImageTower(checkpoint, { runtime });
    const [got] = await tower.forward([entry(expected.get('pixel_values')!, 0)]);
    const [name] = Object.keys(got!).filter((key) => expected.has(key));
    const error = relativeDifference(got![name!]!, entry(expected.get(name!)!, 0));
    if (folder === 'towers/clip-both')
      expect(error).toBeLessThanOrEqual(1e-4); // its image tower stays as it is
    else expect(error).toBeLessThanOrEqual(0.06);
  });
});

describe('the command', () => {
  /** The golden LLaVA with the files that text and images take. */
  async function folderOfLlava(): Promise<string> {
    const folder = join(dir, 'llava-files');
    await cp(golden.goldenPath('models/llava'), folder, { recursive: true });
    const special = (id: number, content: string) => ({
      id,
      content,
      special: true,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    });
    const letters = Object.fromEntries([...'abcdefghijklmnopqrstuvwxyz :?\n'].map((letter, i) => [letter, 10 + i]));
    const tokenizer = {
      version: '1.0',
      normalizer: null,
      post_processor: null,
      added_tokens: [special(1, '<s>'), special(2, '</s>'), special(303, '<image>')],
      pre_tokenizer: { type: 'Split', pattern: { Regex: '' }, behavior: 'Isolated', invert: false },
      decoder: { type: 'Fuse' },
      model: { type: 'BPE', merges: [], vocab: { '<s>': 1, '</s>': 2, '<image>': 303, ...letters } },
    };
    const template =
      "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}assistant:";
    await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer));
    await writeFile(
      join(folder, 'tokenizer_config.json'),
      JSON.stringify({ bos_token: '<s>', eos_token: '</s>', chat_template: template }),
    );
    await writeFile(join(folder, 'preprocessor_config.json'), JSON.stringify({ size: { shortest_edge: 40 }, crop_size: 40 }));
    return folder;
  }

  const file = (name: string): string => golden.goldenPath(`images/files/${name}`);
  const sampling = ['--temp', '0', '--max-tokens', '4', '--backend', 'reference'];

  it('quantizes, inspects, generates and chats with images', async () => {
    const folder = await folderOfLlava();
    const out = join(dir, 'llava-command');
    const quantized = await run(['quantize', folder, '-o', out, '-b', '4', '-g', '16', '--threads', '1', '--backend', 'reference']);
    expect(quantized.code, quantized.stderr).toBe(0);
    expect(quantized.stdout).toMatch(/vision_tower\S*self_attn\.q_proj|14 of 35 quantized/);
    const seen = await run(['inspect', out]);
    expect(seen.stdout).toMatch(/images +tower and projector: 20 linears, in floating point/);
    expect(await readFile(join(out, 'preprocessor_config.json'), 'utf8')).toContain('shortest_edge');

    const one = await run(['generate', out, '--image', file('rgb.png'), '-p', 'what is <image>', '--json', ...sampling]);
    expect(one.code, one.stderr).toBe(0);
    const said = JSON.parse(one.stdout) as { ids: number[]; usage: { promptTokens: number } };
    expect(said.usage.promptTokens).toBe(8 + 25);
    const bare = await run(['generate', out, '--image', file('rgb.png'), '--image', file('420.jpg'), '-p', 'what', ...sampling]);
    expect(bare.code, bare.stderr).toBe(0);
    expect(bare.stderr).toMatch(/<image> is put in front of it/);
    expect(bare.stderr).toMatch(/56 prompt tokens/); // two images, two newlines, four letters

    const talk = await run(['chat', out, '--json', ...sampling], { input: `/image ${file('turned-6.jpg')}\nwhat is this\nand now\n` });
    expect(talk.code, talk.stderr).toBe(0);
    const answers = talk.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { usage: { promptTokens: number; cachedTokens: number } });
    expect(answers.length).toBe(2);
    expect(answers[0]!.usage.promptTokens).toBeGreaterThan(25);
    expect(answers[1]!.usage.cachedTokens).toBeGreaterThan(25);
  });

  it.each([
    ['a file that is no image', 'images/make/images.py', /ERR_BAD_IMAGE|these bytes are no image/],
    ['a file that is not there', 'images/files/none.png', /--image: cannot read .*none\.png: it does not exist/],
  ])('%s', async (_, path, message) => {
    const folder = join(dir, 'llava-files');
    const { code, stderr } = await run(['generate', folder, '--image', golden.goldenPath(path), '-p', 'a', ...sampling]);
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
  });

  it('an image for a model of text', async () => {
    const { code, stderr } = await run(['generate', TINY, '--image', file('rgb.png'), '-p', 'a', ...sampling]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/takes no images/);
  });
});
