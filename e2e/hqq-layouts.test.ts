// The layouts of hqq other than transformers': `hqq-safetensors` against a folder that hqq 0.2.8 wrote, `hqq-nested` against the numbers in memory.

import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Checkpoint,
  createRuntime,
  type DType,
  dequantize,
  type HostTensor,
  type JsonObject,
  quantize,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import { type HqqBits, type HqqOptions, hqq } from '@lowbit/hqq';
import {
  createSafetensorsSink,
  openCheckpoint,
  PT_METADATA,
  planQuantization,
  quantizeCheckpoint,
  readSafetensorsHeader,
} from '@lowbit/hub';
import { llama, loadModel } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenPath, goldenTensors } from '../fixtures/golden.ts';

const FLOAT = goldenPath('bnb/checkpoints/float');
let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-layouts-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

describe('hqq-safetensors', () => {
  it('is what save_to_safetensors writes: header, tensors, no quantization_config', async () => {
    const golden = 'hqq/checkpoints/b2-g16-a0-f16';
    const out = join(dir, 'library');
    await using source = await openCheckpoint(FLOAT);
    const quantizer = hqq({ bits: 2, groupSize: 16, axis: 0 });
    const report = await quantizeCheckpoint(source, { out, quantizer, adapters: [llama], dtype: 'f16', layout: 'hqq-safetensors' });
    expect(report.plan.layout!.name).toBe('hqq-safetensors');
    expect(report.loadsIn.join('\n')).toMatch(/^Not transformers or vLLM as it is/m);
    for (const { name, bytes } of report.files) expect((await stat(join(out, name))).size, name).toBe(bytes);

    const header = async (path: string) => {
      const bytes = await readFile(path);
      return bytes.subarray(0, 8 + Number(bytes.readBigUInt64LE(0))).toString('latin1');
    };
    expect(await header(join(out, 'model.safetensors'))).toBe(await header(goldenPath(`${golden}/model.safetensors`)));
    expect(JSON.parse(await readFile(join(out, 'config.json'), 'utf8'))).not.toHaveProperty('quantization_config');

    await using result = await openCheckpoint(out);
    await using library = await openCheckpoint(goldenPath(golden));
    expect([result.layout, library.layout]).toEqual(['hqq-safetensors', 'hqq-safetensors']);
    // Zeros are sums, which the library adds up in another order: the last bit may differ. One group has a code on a tie.
    const sums = { codes: 0, otherCodes: 0, zeros: 0, otherZeros: 0 };
    for (const [name, want] of goldenTensors(`${golden}/model.safetensors`)) {
      const got = await result.tensor(name);
      if (name.endsWith('.W_q')) {
        sums.codes += want.data.length;
        sums.otherCodes += want.data.filter((code, i) => code !== got.data[i]).length;
      } else if (name.endsWith('.zero')) {
        const [a, b] = [got, want].map(({ data }) => new Int16Array(data.slice().buffer)) as [Int16Array, Int16Array];
        sums.zeros += a.length;
        sums.otherZeros += a.filter((bits, i) => bits !== b[i]).length;
      } else expect(Buffer.compare(got.data, want.data), name).toBe(0);
    }
    expect(sums).toMatchObject({ codes: 73728, zeros: 18432 });
    expect(sums.otherCodes).toBeLessThanOrEqual(2);
    expect(sums.otherZeros).toBeLessThanOrEqual(20);
  });

  it('splits twelve layers into two files of six, resumes, and reads them back', async () => {
    const deep = await deepModel(join(dir, 'deep'), 12);
    await using source = await openCheckpoint(deep);
    const options = { quantizer: hqq({ bits: 4 }), adapters: [llama], layout: 'hqq-safetensors' };
    const out = join(dir, 'deep-hqq');
    const controller = new AbortController();
    const onProgress = ({ done, total }: { done: number; total: number }) => done > total / 2 && controller.abort();
    await expect(
      quantizeCheckpoint(source, { ...options, out, resume: true, signal: controller.signal, onProgress }),
    ).rejects.toBeDefined();
    // The work belongs to this layout.
    const other = quantizeCheckpoint(source, { ...options, layout: 'hqq', out, resume: true });
    await expect(other).rejects.toMatchObject({ code: 'ERR_JOURNAL_MISMATCH' });
    const report = await quantizeCheckpoint(source, { ...options, out, resume: true });
    expect(report.resumed).toBeGreaterThan(0);
    expect((await readdir(out)).filter((name) => name.includes('safetensors')).sort()).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ]);
    const first = await readSafetensorsHeader(join(out, 'model-00001-of-00002.safetensors'));
    expect(first.header.metadata.size).toBe(0);
    expect(new Set([...first.header.tensors.keys()].map((name) => /layers\.(\d+)\./.exec(name)?.[1]))).toEqual(
      new Set(['0', '1', '2', '3', '4', '5']),
    );
    await using result = await openCheckpoint(out);
    expect([result.layout, result.quantized.size]).toEqual(['hqq-safetensors', 84]);
    const path = 'model.layers.11.mlp.down_proj';
    expect(await result.linear(path)).toEqual(
      await quantize(await source.tensor(`${path}.weight`), options.quantizer, { metaDtype: 'f16' }),
    );
  });

  it('refuses a shard size, and names of layouts that are not there', async () => {
    await using source = await openCheckpoint(FLOAT);
    const options = { quantizer: hqq(), adapters: [llama] };
    await expect(planQuantization(source, { ...options, layout: 'hqq-safetensors', shardSize: 1e6 })).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringContaining('shardSize'),
    });
    await expect(planQuantization(source, { ...options, layout: 'hqq-safetensor' })).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringContaining('hqq-safetensors'),
    });
  });
});

describe('hqq, where loadsIn names vLLM', () => {
  it('has the three tensors that vLLM takes, in the order that it takes them', async () => {
    const out = join(dir, 'vllm');
    await using source = await openCheckpoint(FLOAT);
    const report = await quantizeCheckpoint(source, { out, quantizer: hqq({ bits: 4, groupSize: 64 }), adapters: [llama] });
    expect(report.loadsIn.join('\n')).toMatch(/^vLLM up to 0\.14/m);
    await using result = await openCheckpoint(out);
    for (const path of result.quantized.keys()) {
      const [W_q, scale, zero] = await Promise.all(['W_q', 'scale', 'zero'].map((name) => result.tensor(`${path}.${name}`)));
      const { shape } = result.quantized.get(path)!;
      // Its unpack_4bit_u8: high nibbles of all rows, then low ones; the result is seen as [out, in], scales and zeros as [out, in / 64].
      const bytes = W_q!.data;
      const codes = [...bytes.map((byte) => byte >> 4), ...bytes.map((byte) => byte & 15)];
      const [s, z] = [toFloat32(scale!), toFloat32(zero!)];
      const perRow = shape[1] / 64;
      const weights = Float32Array.from(codes, (code, i) => {
        const group = Math.floor(i / shape[1]) * perRow + Math.floor((i % shape[1]) / 64);
        return Math.fround(code - z[group]!) * s[group]!;
      });
      expect(weights).toEqual(toFloat32(dequantize(await result.linear(path))));
    }
  });
});

describe('hqq-nested: quantized scales and zeros, written and read back', () => {
  const kinds: readonly (readonly [Pick<HqqOptions, 'quantScale' | 'quantZero'>, readonly HqqBits[]])[] = [
    [{ quantScale: true }, [8, 4, 1]],
    [{ quantZero: true }, [6, 3, 2]],
    [{ quantZero: 'groups' }, [5, 1.58]],
    [{ quantScale: true, quantZero: true }, [4, 3]],
    [{ quantScale: true, quantZero: 'groups' }, [8, 2]],
  ];
  const cases = kinds.flatMap(([kind, widths], i) =>
    widths.map((bits, j) => ({ ...kind, bits, axis: ((i + j) % 2) as 0 | 1, dtype: (['f16', 'bf16', 'f32'] as const)[(i + j) % 3]! })),
  );

  it.each(cases)('$bits bits, axis $axis, $dtype, quantScale $quantScale, quantZero $quantZero', async ({ dtype, ...settings }) => {
    const out = join(dir, Object.values(settings).join('-'));
    const quantizer = hqq({ ...settings, groupSize: 32, optimize: settings.bits > 2 });
    await using source = await openCheckpoint(FLOAT);
    // One layer stays plain: both kinds may be in one folder.
    const rules = [{ match: 'model.layers.1.mlp.up_proj', use: hqq({ bits: 4 }) }];
    const report = await quantizeCheckpoint(source, { out, quantizer, rules, adapters: [llama], dtype });
    expect(report.plan.layout!.name).toBe('hqq-nested');
    expect(report.loadsIn[0]).toMatch(/^lowbit only/);
    await using result = await openCheckpoint(out);
    expect([result.layout, result.quantized.size]).toEqual(['hqq-nested', 14]);
    for (const path of ['model.layers.0.self_attn.k_proj', 'model.layers.1.mlp.down_proj', 'model.layers.1.mlp.up_proj']) {
      const made = await quantize(await source.tensor(`${path}.weight`), path.endsWith('up_proj') ? hqq({ bits: 4 }) : quantizer, {
        metaDtype: dtype,
      });
      const read = await result.linear(path);
      expect(Object.keys(read.parts).sort()).toEqual(Object.keys(made.parts).sort());
      for (const compute of ['f32', 'f16', 'bf16'] as const satisfies readonly DType[]) {
        expect(dequantize(read, { dtype: compute })).toEqual(dequantize(made, { dtype: compute }));
      }
    }
  });

  it('runs: logits are those of the dequantized weights', async () => {
    const out = join(dir, 'running');
    await using source = await openCheckpoint(FLOAT);
    await quantizeCheckpoint(source, {
      out,
      quantizer: hqq({ bits: 4, quantScale: true, quantZero: true }),
      adapters: [llama],
      dtype: 'f16',
    });
    await using result = await openCheckpoint(out);
    const expanded: Checkpoint = {
      ...result,
      async linear(path, options) {
        const q = await result.linear(path, options);
        if (q.format.kind === 'dense') return q;
        return { format: { kind: 'dense', dtype: 'f32' }, shape: q.shape, parts: { weight: dequantize(q) } };
      },
      [Symbol.asyncDispose]: async () => {},
    };
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using model = await loadModel(result, { runtime });
    await using dense = await loadModel(expanded, { runtime });
    const ids = [1, 17, 200, 31, 5];
    const [got, want] = [toFloat32(await model.logits(ids)), toFloat32(await dense.logits(ids))];
    expect(got.reduce((most, value, i) => Math.max(most, Math.abs(value - want[i]!)), 0)).toBeLessThan(1e-4);
  });

  it('is nothing that Python takes for its own', async () => {
    const out = join(dir, 'tagged');
    await using source = await openCheckpoint(FLOAT);
    await quantizeCheckpoint(source, { out, quantizer: hqq({ quantScale: true, quantZero: true }), adapters: [llama] });
    const config = JSON.parse(await readFile(join(out, 'config.json'), 'utf8')) as JsonObject;
    expect(config.quantization_config).toMatchObject({
      quant_method: 'lowbit',
      layout: 'hqq-nested',
      quant_config: {
        weight_quant_params: { nbits: 4, group_size: 64 },
        scale_quant_params: { nbits: 8, group_size: 128 },
        zero_quant_params: { nbits: 8, group_size: null },
      },
    });
    const { header } = await readSafetensorsHeader(join(out, 'model.safetensors'));
    expect([...header.metadata]).toEqual([['format', 'lowbit']]);
    expect([...header.tensors.keys()].filter((name) => name.endsWith('.lowbit_version'))).toHaveLength(14);
  });
});

/** A model folder of `layers` layers, those of the small float model over and over. */
async function deepModel(folder: string, layers: number): Promise<string> {
  await using source = await openCheckpoint(FLOAT);
  const tensors = new Map<string, HostTensor>();
  for (const name of source.source.entries.keys()) {
    const layer = /^model\.layers\.(\d)\./.exec(name)?.[1];
    if (layer === undefined) tensors.set(name, await source.tensor(name));
    for (let i = Number(layer); i < layers; i += 2) {
      tensors.set(name.replace(/layers\.\d/, `layers.${i}`), await source.tensor(name));
    }
  }
  await using sink = await createSafetensorsSink(folder, { fingerprint: 'deep' });
  await sink.reserve(tensors, PT_METADATA);
  for (const [name, { data }] of tensors) {
    await sink.write(name, 0, data);
    await sink.commit(name, null);
  }
  await sink.writeFile('config.json', Buffer.from(JSON.stringify({ ...source.config, num_hidden_layers: layers })));
  await sink.close();
  return folder;
}
