// Folders that transformers 5.23.0 saved with bitsandbytes 0.50.2: their linears, their logits, and the same files made here of the float model.

import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bitsAndBytesConfig, fp4, int8, nf4 } from '@lowbit/bnb';
import {
  type Checkpoint,
  createRuntime,
  dequantize,
  elements,
  type Format,
  float32Tensor,
  type JsonObject,
  type Quantizer,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import {
  type FolderCheckpoint,
  memoryFootprint,
  openCheckpoint,
  planQuantization,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
} from '@lowbit/hub';
import { llama, loadModel } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../fixtures/golden.ts';

interface GoldenCase {
  readonly name: string;
  readonly memory_footprint_without_buffers: number;
  readonly quantized_linears: readonly string[];
}

const { cases } = goldenJson<{ cases: readonly GoldenCase[] }>('bnb/cases.json');
const logits = goldenTensors('bnb/checkpoints/logits.safetensors');
const ids = Array.from(elements({ dtype: 'i64', data: logits.get('input_ids')!.data }), Number);

/** The same checkpoint with its quantized linears expanded to f32. */
function expanded(checkpoint: Checkpoint): Checkpoint {
  return {
    ...checkpoint,
    async linear(path, options) {
      const q = await checkpoint.linear(path, options);
      if (q.format.kind === 'dense') return q;
      const weight = float32Tensor(q.shape, toFloat32(dequantize(q)));
      return { format: { kind: 'dense', dtype: 'f32' }, shape: q.shape, parts: { weight } };
    },
    [Symbol.asyncDispose]: () => checkpoint[Symbol.asyncDispose](),
  };
}

describe.each(['nf4', 'nf4-double', 'fp4', 'int8'])('%s', (name) => {
  const folder = goldenPath(`bnb/checkpoints/${name}`);

  async function largestDifference(expected: string, wrap: (checkpoint: Checkpoint) => Checkpoint): Promise<number> {
    const want = toFloat32(logits.get(`${name}/${expected}`)!); // [2, 8, vocab]
    await using checkpoint = await openCheckpoint(folder);
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using model = await loadModel(wrap(checkpoint), { runtime });
    const got = [...toFloat32(await model.logits(ids.slice(0, 8))), ...toFloat32(await model.logits(ids.slice(8)))];
    expect(got.length).toBe(want.length);
    return got.reduce((largest, value, i) => Math.max(largest, Math.abs(value - want[i]!)), 0);
  }

  it('has the memory footprint that Python counts', async () => {
    const { memory_footprint_without_buffers: expected } = cases.find((c) => c.name === `checkpoint-${name}`)!;
    await using checkpoint = await openCheckpoint(folder);
    expect(memoryFootprint(checkpoint)).toBe(expected);
  });

  it('has the linears that Python quantized', async () => {
    await using checkpoint = await openCheckpoint(folder);
    expect(checkpoint.layout).toBe('bitsandbytes');
    const quantized = cases.find((item) => item.name === `checkpoint-${name}`)!.quantized_linears;
    expect([...checkpoint.quantized.keys()].toSorted()).toEqual([...quantized].toSorted());
  });

  it("has Python's logits when dequantized", async () => {
    expect(await largestDifference('logits_dequantized_f32', expanded)).toBeLessThan(1e-4);
  });

  it('has about the logits of the Python modules when run from its codes', async () => {
    const difference = await largestDifference('logits_quantized', (checkpoint) => checkpoint);
    expect(difference).toBeLessThan(0.15);
  });
});

const FLOAT = goldenPath('bnb/checkpoints/float');
const golden = (name: string) => goldenTensors(`bnb/checkpoints/${name}/model.safetensors`);

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function make(name: string, quantizer: Quantizer, options: Partial<QuantizeCheckpointOptions> = {}) {
  const out = join(dir, name);
  await using source = await openCheckpoint(FLOAT);
  const settings = { quantizer, adapters: [llama], ...options };
  const { files: planned } = await planQuantization(source, settings);
  const report = await quantizeCheckpoint(source, { ...settings, out });
  for (const { name: file, bytes } of report.files) expect((await stat(join(out, file))).size, file).toBe(bytes);
  expect((await readdir(out)).toSorted()).toEqual(planned.map((file) => file.name).toSorted());
  return { out, planned, report };
}

/** A quantizer that writes what a golden checkpoint has, in small pieces: the layout alone is at work. */
function replay(checkpoint: FolderCheckpoint): Quantizer {
  const [first] = checkpoint.quantized.values();
  return {
    spec: 1,
    method: 'bitsandbytes',
    identity: 'replay',
    config: checkpoint.config.quantization_config as JsonObject,
    format: () => first!.format as Format,
    async quantize(weight, _format, out) {
      const { parts } = await checkpoint.linear(weight.name.replace(/\.weight$/, ''));
      for (const [part, { data, dtype }] of Object.entries(parts)) {
        const width = dtype === 'f32' ? 4 : 1;
        for (let at = 0; at < data.byteLength; at += 1000) await out.write(part, at / width, data.subarray(at, at + 1000));
      }
      return { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
    },
  };
}

describe('made here of the float model', () => {
  it.each([
    ['nf4', nf4({ computeDtype: 'bf16' })],
    ['fp4', fp4()],
    ['int8', int8()],
  ] as const)('%s: the files of Python, byte for byte', async (name, quantizer) => {
    const { out, planned, report } = await make(name, quantizer);
    for (const file of ['model.safetensors', 'config.json']) {
      const want = await readFile(goldenPath(`bnb/checkpoints/${name}/${file}`));
      expect(Buffer.compare(await readFile(join(out, file)), want), file).toBe(0);
    }
    expect(report.files).toEqual(planned);
    expect(report.plan.layout!.name).toBe('bitsandbytes');
    expect(report.loadsIn.join(' ')).toMatch(/transformers 4 and 5/);
  });

  it('nf4-double: the tensors of Python, but for the codes of scales that it does not round to the nearest', async () => {
    const { out, planned, report } = await make('nf4-double', nf4({ computeDtype: 'bf16', doubleQuant: true }));
    expect(await readFile(join(out, 'config.json'))).toEqual(await readFile(goldenPath('bnb/checkpoints/nf4-double/config.json')));
    await using result = await openCheckpoint(out);
    const want = golden('nf4-double');
    expect([...result.source.entries.keys()].toSorted()).toEqual([...want.keys()].toSorted());
    let different = 0;
    for (const [name, { dtype, shape, data }] of want) {
      const got = await result.tensor(name);
      if (name.endsWith('.nested_quant_map')) {
        // Python's own depends on the CPU's instruction set
        for (const [i, value] of toFloat32(got).entries())
          expect(Math.abs(value - toFloat32({ dtype, shape, data })[i]!)).toBeLessThan(2e-7);
      } else if (dtype === 'u8' && name.endsWith('.absmax')) {
        for (const [i, code] of got.data.entries()) {
          if (code === data[i]) continue;
          different++;
          expect(Math.abs(code - data[i]!), name).toBe(1);
        }
      } else {
        expect({ dtype: got.dtype, shape: got.shape }, name).toEqual({ dtype, shape });
        expect(Buffer.compare(got.data, data), name).toBe(0);
      }
    }
    expect(different).toBeLessThanOrEqual(5); // of 4608
    const size = (files: typeof planned) => files.find(({ name }) => name === 'model.safetensors')!.bytes;
    expect(size(planned) - size(report.files)).toBeGreaterThan(0);
    expect(size(planned) - size(report.files)).toBeLessThan(14 * 8);
  });

  it.each([undefined, 50_000])("nf4-double with Python's codes: all tensors byte for byte, shards of %s bytes", async (shardSize) => {
    await using source = await openCheckpoint(goldenPath('bnb/checkpoints/nf4-double'));
    const { out } = await make(`replayed-${shardSize}`, replay(source), { shardSize });
    await using result = await openCheckpoint(out);
    expect(result.source.files.length > 3).toBe(shardSize !== undefined);
    expect(result.quantized).toEqual(source.quantized);
    const want = golden('nf4-double');
    expect([...result.source.entries.keys()].toSorted()).toEqual([...want.keys()].toSorted());
    for (const [name, { dtype, shape, data }] of want) {
      const got = await result.tensor(name);
      expect([got.dtype, got.shape], name).toEqual([dtype, shape]);
      expect(Buffer.compare(got.data, data), name).toBe(0);
    }
  });

  it('codes stored as bf16 are the same bytes', async () => {
    const made = nf4({ computeDtype: 'bf16' });
    const { out } = await make('storage', { ...made, config: { ...made.config, bnb_4bit_quant_storage: 'bfloat16' } });
    await using result = await openCheckpoint(out);
    expect(result.config.quantization_config).toMatchObject({ bnb_4bit_quant_storage: 'bfloat16' });
    for (const [name, { shape, data }] of golden('nf4')) {
      const got = await result.tensor(name);
      expect(Buffer.compare(got.data, data), name).toBe(0);
      if (name.endsWith('q_proj.weight')) expect([got.dtype, got.shape]).toEqual(['bf16', [shape[0]! / 2, 1]]);
    }
  });

  it.each(['nf4', 'fp4', 'int8'])('%s, from the block of config.json', async (name) => {
    const config = goldenJson<JsonObject>(`bnb/checkpoints/${name}/config.json`);
    const { quantizer } = bitsAndBytesConfig(config.quantization_config as JsonObject);
    const { out } = await make(`${name}-from-config`, quantizer);
    expect(await readFile(join(out, 'config.json'))).toEqual(await readFile(goldenPath(`bnb/checkpoints/${name}/config.json`)));
    const want = await readFile(goldenPath(`bnb/checkpoints/${name}/model.safetensors`));
    expect(Buffer.compare(await readFile(join(out, 'model.safetensors')), want)).toBe(0);
  });

  it('a list of modules to skip is written as it was given', async () => {
    const llmInt8SkipModules = ['lm_head', 'model.layers.1.mlp', 'o_proj'];
    const { quantizer, rules } = bitsAndBytesConfig({ loadIn8bit: true, llmInt8Threshold: 4.5, llmInt8SkipModules });
    await using source = await openCheckpoint(FLOAT);
    const paths = llama.linears(source.config, source.source.entries).map(({ path }) => path);
    const { out } = await make('skipped', quantizer, { rules: rules(paths) });
    await using result = await openCheckpoint(out);
    expect(result.quantized.size).toBe(14 - 2 - 3);
    expect(result.quantized.get('model.layers.0.mlp.up_proj')!.format).toEqual({ kind: 'int8', threshold: 4.5 });
    expect(result.config.quantization_config).toMatchObject({ llm_int8_skip_modules: llmInt8SkipModules, llm_int8_threshold: 4.5 });
  });

  it('a mixture is read as it was stored', async () => {
    const rules = [
      { match: 'mlp.*', use: nf4({ doubleQuant: true, blockSize: 128 }) },
      { match: 'self_attn.v_proj', use: int8() },
      { match: 'self_attn.o_proj', use: 'keep' as const },
    ];
    const { out, report } = await make('mixture', fp4(), { rules, dtype: 'f16' });
    await using result = await openCheckpoint(out);
    const format = (path: string) => result.quantized.get(`model.layers.1.${path}`)?.format;
    expect(format('mlp.down_proj')).toMatchObject({ table: 'nf4', group: 128, offset: true });
    expect(format('self_attn.v_proj')).toEqual({ kind: 'int8', threshold: 6 });
    expect(format('self_attn.q_proj')).toMatchObject({ table: 'fp4', group: 64, scale: 'f32' });
    expect(format('self_attn.o_proj')).toBeUndefined();
    const state = await result.tensor('model.layers.1.self_attn.q_proj.weight.quant_state.bitsandbytes__fp4');
    expect(JSON.parse(Buffer.from(state.data).toString()).dtype).toBe('float16');
    expect(result.config.quantization_config).toMatchObject({ llm_int8_skip_modules: ['lm_head', 'o_proj'] });
    expect(report.loadsIn.join(' ')).toMatch(/Not transformers: it takes one number of bits/);
  });

  it('goes on after an interruption at any point, to the same files', async () => {
    const quantizer = nf4({ doubleQuant: true });
    const whole = await make('whole', quantizer, { shardSize: 100_000 });
    const out = join(dir, 'interrupted');
    await using source = await openCheckpoint(FLOAT);
    for (const stopAt of [0.2, 0.5, 0.9]) {
      const controller = new AbortController();
      const onProgress = ({ done, total }: { done: number; total: number }) => done > stopAt * total && controller.abort();
      const options = { quantizer, adapters: [llama], out, resume: true, shardSize: 100_000, signal: controller.signal, onProgress };
      await expect(quantizeCheckpoint(source, options)).rejects.toBeDefined();
    }
    const report = await quantizeCheckpoint(source, { quantizer, adapters: [llama], out, resume: true, shardSize: 100_000 });
    expect(report.resumed).toBeGreaterThan(10);
    const names = await readdir(whole.out);
    expect((await readdir(out)).toSorted()).toEqual(names.toSorted());
    for (const name of names) expect(Buffer.compare(await readFile(join(out, name)), await readFile(join(whole.out, name))), name).toBe(0);
  });
});
