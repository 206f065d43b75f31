// llm_int8_enable_fp32_cpu_offload and device maps in Python's words: what stays in floating point, and where the result runs.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bitsAndBytesConfig, type RulesOptions } from '@lowbit/bnb';
import { createRuntime, type DeviceMap, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { type FolderCheckpoint, openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { formatPlacement, type LoadOptions, llama, loadModel } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const TINY = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
/** Six layers, the last two offloaded. */
const deviceMap: DeviceMap = {
  'model.embed_tokens': 'gpu',
  ...Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`model.layers.${i}`, i < 4 ? 'gpu' : 'cpu'])),
  'model.norm': 'gpu',
  lm_head: 'gpu',
};
const offloaded = /^model\.layers\.[45]\./;
const open = (): Promise<Runtime> => createRuntime({ backends: [referenceBackend({ name: 'gpu' }), referenceBackend({ name: 'cpu' })] });

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-offload-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** Quantizes tiny-llama by a configuration and gives the paths that were. */
async function quantized(name: string, config: object, options: RulesOptions): Promise<FolderCheckpoint> {
  await using source = await openCheckpoint(TINY);
  const { quantizer, rules } = bitsAndBytesConfig(config);
  const paths = llama.linears(source.config, source.source.entries).map(({ path }) => path);
  await quantizeCheckpoint(source, { out: join(dir, name), quantizer, rules: rules(paths, options), adapters: [llama] });
  return openCheckpoint(join(dir, name));
}

async function logits(checkpoint: FolderCheckpoint, where: Pick<LoadOptions, 'deviceMap' | 'backendMemory'>) {
  await using runtime = await open();
  const gpu = await runtime.backend('gpu');
  const cpu = await runtime.backend('cpu');
  const values: Float32Array[] = [];
  let placement = '';
  let bytes: number[] = [];
  {
    await using model = await loadModel(checkpoint, { runtime, dtype: 'f32', ...where });
    placement = formatPlacement(model.placement);
    bytes = ['gpu', 'cpu'].map((name) => model.placement.reduce((sum, part) => sum + (part.backend === name ? part.bytes : 0), 0));
    values.push(toFloat32(await model.logits([0, 5, 17, 300, 42, 7])));
  }
  expect([gpu.allocated(), cpu.allocated()]).toEqual([0, 0]);
  return { values: values[0]!, placement, bytes };
}

describe.each([
  ['LLM.int8', { load_in_8bit: true }],
  ['NF4', { load_in_4bit: true, bnb_4bit_quant_type: 'nf4' }],
])('%s', (name, config) => {
  it('keeps what is offloaded in floating point if the flag says so', async () => {
    const flagged = { ...config, llm_int8_enable_fp32_cpu_offload: true };
    await using checkpoint = await quantized(`${name}-kept`, flagged, { deviceMap });
    const paths = [...checkpoint.quantized.keys()];
    expect([paths.length, paths.some((path) => offloaded.test(path))]).toEqual([28, false]);
    expect(checkpoint.config.quantization_config).toMatchObject({ llm_int8_enable_fp32_cpu_offload: true });
    const { llm_int8_skip_modules: skipped } = checkpoint.config.quantization_config as { llm_int8_skip_modules: string[] };
    expect(skipped).toContain('model.layers.5.mlp.down_proj');

    const mixed = await logits(checkpoint, { deviceMap });
    const whole = await logits(checkpoint, { deviceMap: { '': 'gpu' } });
    expect(mixed.values).toEqual(whole.values);
    expect(mixed.placement).toMatch(/gpu[\s\S]*cpu[\s\S]*gpu/);
    expect(whole.placement).not.toContain('cpu');
    const weights = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 768 * 256);
    expect(mixed.bytes[1]).toBe(4 * weights); // float32
  });

  it('quantizes it, too, if not, and runs the same on one backend, by a map, and by room', async () => {
    await using checkpoint = await quantized(`${name}-all`, config, { deviceMap });
    expect(checkpoint.quantized.size).toBe(42);
    const whole = await logits(checkpoint, { deviceMap: { '': 'cpu' } });
    const mapped = await logits(checkpoint, { deviceMap });
    expect(mapped.values).toEqual(whole.values);
    expect(mapped.bytes[1]).toBeGreaterThan(0);
    // Room for the embeddings and some of the layers on the first backend.
    const backendMemory = { gpu: Math.floor(whole.bytes[1]! * 0.8), cpu: whole.bytes[1]! };
    const auto = await logits(checkpoint, { deviceMap: 'auto', backendMemory });
    expect(auto.values).toEqual(whole.values);
    expect(auto.bytes[0]).toBeLessThanOrEqual(backendMemory.gpu);
    expect(auto.bytes.every((held) => held > 0)).toBe(true);
    expect(auto.placement).toMatch(/gpu[\s\S]*cpu/);
  });
});

it('offloads to the backends that are named, and refuses maps with gaps', () => {
  const { rules } = bitsAndBytesConfig({ loadIn4bit: true, llmInt8EnableFp32CpuOffload: true });
  const paths = ['model.layers.0.mlp.up_proj', 'model.layers.1.mlp.up_proj', 'lm_head'];
  const map = { 'model.layers.0': 'cuda', 'model.layers.1': 'reference', lm_head: 'cuda' };
  const kept = (options: RulesOptions) => rules(paths, options).flatMap(({ match, use }) => (use === 'keep' ? match : []));
  expect(kept({ deviceMap: map })).toEqual(['lm_head']);
  expect(kept({ deviceMap: map, offload: 'reference' })).toEqual(['lm_head', 'model.layers.1.mlp.up_proj']);
  expect(kept({ deviceMap: { ...map, 'model.layers.0': 'disk' } })).toEqual(['lm_head', 'model.layers.0.mlp.up_proj']);
  expect(kept({ deviceMap: { '': 'cpu' } })).toEqual(['lm_head']); // all of it there: nothing is offloaded
  const gap = { code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('model.layers.1') as unknown };
  expect(() => kept({ deviceMap: { 'model.layers.0': 'cpu', lm_head: 'cpu' } })).toThrow(expect.objectContaining(gap));
  expect(() => kept({ deviceMap: 'auto' as never })).toThrow(/deviceMap cannot be "auto"/);
  expect(() => kept({ deviceMap: map, offload: 3 as never })).toThrow(/offload cannot be 3/);
});
