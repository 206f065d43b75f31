// All cores with the packages as they are built and published: the worker of hqq is found beside it, and a folder has the same bytes.

import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { castFloat } from '@lowbit/core';
import { createSafetensorsSink } from '@lowbit/hub';
import { seededTensor } from '@lowbit/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureBuilt, lowbit, TINY } from './cli-process.ts';

let dir: string;
beforeAll(async () => {
  ensureBuilt();
  dir = await mkdtemp(join(tmpdir(), 'lowbit-threads-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

it('the built packages quantize on two threads, and the process ends by itself', () => {
  const script = `
    import { createWorkers, float32Tensor, quantize } from '@lowbit/core';
    import { hqq } from '@lowbit/hqq';
    const weight = float32Tensor([512, 2048], Array.from({ length: 2 ** 20 }, (_, i) => Math.sin(i * i)));
    const workers = createWorkers({ threads: 2 });
    const two = await quantize(weight, hqq(), { threads: workers });
    const { running } = workers;
    const one = await quantize(weight, hqq());
    const same = Object.keys(one.parts).every((part) => Buffer.compare(one.parts[part].data, two.parts[part].data) === 0);
    console.log(JSON.stringify({ running, same }));
    // The workers are not disposed of: idle threads must not keep the process alive.
  `;
  const cwd = fileURLToPath(new URL('..', import.meta.url));
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], { cwd, encoding: 'utf8', timeout: 60_000 });
  expect(run.stderr).toBe('');
  expect(JSON.parse(run.stdout)).toEqual({ running: 2, same: true });
  expect(run.status).toBe(0);
});

/** A one-layer Llama whose MLP has matrices of several tiles. */
async function writeModel(folder: string): Promise<void> {
  const [hidden, inner, vocab] = [512, 1536, 64];
  const p = 'model.layers.0';
  const shapes: Readonly<Record<string, readonly number[]>> = {
    'model.embed_tokens.weight': [vocab, hidden],
    'model.norm.weight': [hidden],
    [`${p}.input_layernorm.weight`]: [hidden],
    [`${p}.post_attention_layernorm.weight`]: [hidden],
    ...Object.fromEntries(['q', 'k', 'v', 'o'].map((name) => [`${p}.self_attn.${name}_proj.weight`, [hidden, hidden]])),
    ...Object.fromEntries(['gate', 'up'].map((name) => [`${p}.mlp.${name}_proj.weight`, [inner, hidden]])),
    [`${p}.mlp.down_proj.weight`]: [hidden, inner],
  };
  await using sink = await createSafetensorsSink(folder, { fingerprint: 'threads' });
  await sink.reserve(new Map(Object.entries(shapes).map(([name, shape]) => [name, { dtype: 'bf16', shape }])), { format: 'pt' });
  for (const [seed, [name, shape]] of Object.entries(shapes).entries()) {
    await sink.write(name, 0, castFloat(seededTensor(seed + 1, shape, 0.05), 'bf16').data);
    await sink.commit(name, null);
  }
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: 1,
    num_attention_heads: 8,
    num_key_value_heads: 8,
    vocab_size: vocab,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
  };
  await sink.writeFile('config.json', new TextEncoder().encode(JSON.stringify(config)));
  await sink.close();
}

it('--threads changes no byte of a folder', async () => {
  const model = join(dir, 'model');
  await writeModel(model);
  const folder = async (threads: string): Promise<Map<string, Buffer>> => {
    const out = join(dir, threads);
    expect(await lowbit(['quantize', model, '-o', out, '--threads', threads, '--quiet'])).toMatchObject({ code: 0, stderr: '' });
    return new Map(await Promise.all((await readdir(out)).map(async (name) => [name, await readFile(join(out, name))] as const)));
  };
  const [one, three] = [await folder('1'), await folder('3')];
  expect([...three.keys()].toSorted()).toEqual([...one.keys()].toSorted());
  expect(one.has('model.safetensors')).toBe(true);
  for (const [name, bytes] of one) expect(Buffer.compare(bytes, three.get(name)!), name).toBe(0);
});

it('--threads takes whole numbers from 1', async () => {
  const wrong = await lowbit(['quantize', TINY, '-o', join(dir, 'no'), '--threads', '0']);
  expect(wrong).toMatchObject({ code: 2, stderr: expect.stringContaining('whole number from 1 to 1024') });
});
