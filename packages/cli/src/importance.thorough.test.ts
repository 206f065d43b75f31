import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRuntime, referenceBackend } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { checkpointImportance, loadTokenizer, randomTokens, weightImportance } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generatedTokens } from './generated-tokens.ts';
import { findImportance, type ImportanceSource } from './importance.ts';
import { openModelFolder } from './open.ts';
import { quantizeModel } from './quantize-model.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));
const golden = (name: string): string => fileURLToPath(new URL(`../../../fixtures/golden/models/${name}`, import.meta.url));
const backends = [referenceBackend()];
let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-importance-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('findImportance', () => {
  it('from random tokens, tokens of its own, a text and weights: of every linear, what those tokens give', async () => {
    await using runtime = await createRuntime({ backends });
    await using checkpoint = await openModelFolder(TINY);
    const tokens = 48;
    const text = readFileSync(join(TINY, 'eval.txt'), 'utf8').slice(0, 400);
    const tokenizer = await loadTokenizer(checkpoint);
    const encoded = [tokenizer.bosId!, ...tokenizer.encode(text, { addSpecialTokens: false }).slice(0, tokens)];
    const same: readonly (readonly [ImportanceSource, string, readonly ArrayLike<number>[]])[] = [
      ['self', 'self', await generatedTokens(checkpoint, { runtime, tokens, sample: 256 })],
      [{ text }, 'text', [encoded]],
    ];
    for (const [source, from, ids] of same) {
      const { importance, report } = await findImportance(TINY, source, { runtime, tokens });
      expect(report).toEqual({ from, tokens: ids[0]!.length, estimated: [], why: null });
      expect([...importance!.keys()].filter((path) => path.startsWith('model.layers.')).length).toBe(42);
      expect(importance).toEqual((await findImportance(TINY, { ids }, { runtime })).importance);
    }
    // Random ones in samples of 64, and damped.
    const random = randomTokens(4096, 80, 1);
    const found = await findImportance(TINY, 'random-tokens', { runtime, tokens: 80 });
    expect(found.report).toEqual({ from: 'random-tokens', tokens: 80, estimated: [], why: null });
    const ids = [random.slice(0, 64), random.slice(64)];
    expect(found.importance).toEqual(await checkpointImportance(checkpoint, { runtime, ids, damped: true }));
    expect(found.importance).not.toEqual(await checkpointImportance(checkpoint, { runtime, ids }));
    const { importance, report } = await findImportance(TINY, 'weights', { runtime });
    expect(report).toEqual({ from: 'weights', tokens: 0, estimated: [], why: null });
    expect(importance).toEqual(await weightImportance(checkpoint));
    expect(await findImportance(TINY, 'none')).toEqual({
      importance: undefined,
      report: { from: 'none', tokens: 0, estimated: [], why: null },
    });
  });

  it('of experts that no token reached is the estimate from weights, and they are named', async () => {
    const { importance, report } = await findImportance(golden('qwen2-moe'), { ids: [[3]] }, { backends });
    expect(report.estimated.length).toBeGreaterThan(0);
    const weights = await findImportance(golden('qwen2-moe'), 'weights', { backends });
    for (const path of report.estimated) {
      expect(path).toMatch(/experts\.\d/);
      expect(importance!.get(path)).toEqual(weights.importance!.get(path));
    }
    const many = await findImportance(golden('qwen2-moe'), 'random-tokens', { backends, tokens: 128 });
    expect(many.report.estimated.length).toBeLessThan(report.estimated.length);
  });

  it('falls back, and says so: to weights for a model with an encoder, to none where nothing is known', async () => {
    const encoder = await findImportance(golden('t5-gated'), 'random-tokens', { backends });
    expect(encoder.report).toMatchObject({ from: 'weights', why: expect.stringContaining('has an encoder') });
    expect(encoder.importance!.size).toBeGreaterThan(10);
    const odd = join(dir, 'odd');
    mkdirSync(odd);
    cpSync(join(TINY, 'model.safetensors'), join(odd, 'model.safetensors'));
    writeFileSync(join(odd, 'config.json'), JSON.stringify({ model_type: 'foobar', vocab_size: 4096 }));
    for (const source of ['random-tokens', 'weights'] as const) {
      const none = await findImportance(odd, source, { backends });
      expect(none).toMatchObject({ importance: undefined, report: { from: 'none', why: expect.stringContaining('foobar') } });
    }
  });

  it('of a model with images is that of its language model, and of a tower without tokens the estimate from weights', async () => {
    for (const source of ['random-tokens', 'self'] as const) {
      const { importance, report } = await findImportance(golden('llava'), source, { backends, tokens: 24 });
      expect(report).toMatchObject({ from: source, tokens: 24, why: null });
      expect([...importance!.keys()].some((path) => path.includes('q_proj'))).toBe(true);
    }
    const tower = await findImportance(golden('clip-vision'), 'random-tokens', { backends });
    expect(tower.report).toMatchObject({ tokens: 0, why: expect.stringContaining('reads no text') });
  });

  it('refuses a text where the start token leaves no room for it', async () => {
    for (const [most, code] of [
      [1, 'ERR_LIMIT'],
      [0.5, 'ERR_BAD_CHECKPOINT'],
    ] as const) {
      const short = join(dir, `short-${most}`);
      cpSync(TINY, short, { recursive: true });
      const config = JSON.parse(readFileSync(join(short, 'config.json'), 'utf8')) as object;
      writeFileSync(join(short, 'config.json'), JSON.stringify({ ...config, max_position_embeddings: most }));
      await expect(findImportance(short, { text: 'a text' }, { backends })).rejects.toMatchObject({ code });
    }
  });

  it('refuses sources that are none, texts without tokens, and moments that are no numbers', async () => {
    await expect(findImportance(TINY, 'text' as ImportanceSource)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(findImportance(TINY, { text: '' }, { backends })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    const broken = join(dir, 'broken');
    cpSync(TINY, broken, { recursive: true });
    const weights = readFileSync(join(broken, 'model.safetensors'));
    const end = 8 + Number(weights.readBigUInt64LE(0));
    const header = JSON.parse(weights.toString('utf8', 8, end)) as Record<string, { data_offsets: [number, number] }>;
    const [from, to] = header['model.layers.0.input_layernorm.weight']!.data_offsets;
    for (let i = end + from; i < end + to; i += 2) weights.writeUInt16LE(0x7149, i); // 1e30, whose square no float holds
    writeFileSync(join(broken, 'model.safetensors'), weights);
    await expect(findImportance(broken, 'random-tokens', { backends, tokens: 8 })).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
      message: expect.stringContaining('layers.0.self_attn.q_proj'),
    });
  });
});

it('quantizeModel runs the source itself: the same bytes as with what was found before', async () => {
  const SMALL = golden('qwen2-moe');
  const quantizer = hqq({ bits: 3, groupSize: 16, solver: 'least-squares' });
  const { importance } = await findImportance(SMALL, 'weights', { backends });
  const given = await quantizeModel(SMALL, { out: join(dir, 'given'), quantizer, importance });
  const named = await quantizeModel(SMALL, { out: join(dir, 'named'), quantizer, importance: 'weights', backends });
  const plain = await quantizeModel(SMALL, { out: join(dir, 'plain'), quantizer });
  expect(given.importance).toBe(null);
  expect(named.importance).toMatchObject({ from: 'weights' });
  expect(plain.importance).toMatchObject({ from: 'none' });
  const [a, b, c] = ['given', 'named', 'plain'].map((name) => readFileSync(join(dir, name, 'model.safetensors')));
  expect(a!.equals(b!)).toBe(true);
  expect(a!.equals(c!)).toBe(false);
});

it('quantizeModel refuses importance that no quantizer uses, and sources that are quantized, before it runs anything', async () => {
  const SMALL = golden('qwen2-moe');
  const none = [createNever()];
  const plain = hqq({ bits: 3, groupSize: 16 });
  const rules = [{ match: 'lm_head', use: hqq({ bits: 8, groupSize: 16, solver: 'least-squares' }) }];
  const importance = 'random-tokens';
  await expect(quantizeModel(SMALL, { out: join(dir, 'unused'), quantizer: plain, importance, backends: none })).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    hint: expect.stringContaining("solver: 'least-squares'"),
  });
  const used = await quantizeModel(SMALL, { out: join(dir, 'used'), quantizer: plain, rules, importance: 'weights', backends });
  expect(used.importance).toMatchObject({ from: 'weights' });
  await expect(
    quantizeModel(join(dir, 'used'), { out: join(dir, 'twice'), quantizer: plain, rules, importance, backends: none }),
  ).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT', message: expect.stringContaining('quantized already') });
});

/** A backend that nobody may open. */
function createNever(): ReturnType<typeof referenceBackend> {
  return {
    ...referenceBackend(),
    open: () => {
      throw new Error('opened');
    },
  };
}
