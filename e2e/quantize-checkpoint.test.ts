// quantizeCheckpoint against folders that transformers and hqq wrote: the same float model, quantized there and here.

import { createHash } from 'node:crypto';
import { cp, mkdtemp, readdir, readFile, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { elements, type HostTensor, type JsonObject, type Rule, toFloat32 } from '@lowbit/core';
import { type HqqBits, hqq } from '@lowbit/hqq';
import { openCheckpoint, planQuantization, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../fixtures/golden.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

interface Params {
  nbits: HqqBits;
  group_size: number;
  axis: 0 | 1;
  round_zero: boolean;
  optimize: boolean;
}

function quantizerOf(block: JsonObject) {
  const p = block.weight_quant_params as unknown as Params;
  return hqq({ bits: p.nbits, groupSize: p.group_size, axis: p.axis, roundZero: p.round_zero, optimize: p.optimize });
}

const FLOAT = goldenPath('bnb/checkpoints/float');

describe.each([
  { name: 'uniform-b4-g64', dtype: 'f16' as const },
  { name: 'per-tag', dtype: 'bf16' as const },
])('transformers 4.57.6, $name', ({ name, dtype }) => {
  const expected = goldenTensors(`hqq/checkpoints-hf4/${name}/model.safetensors`);
  const config = goldenJson<{ quantization_config: { quant_config: JsonObject } }>(`hqq/checkpoints-hf4/${name}/config.json`);
  const { quant_config: block } = config.quantization_config;
  const uniform = 'weight_quant_params' in block;
  const rules: Rule[] = uniform ? [] : Object.entries(block).map(([tag, entry]) => ({ match: tag, use: quantizerOf(entry as JsonObject) }));
  const options = { quantizer: uniform ? quantizerOf(block) : hqq(), rules, adapters: [llama], dtype };
  let out: string;

  beforeAll(async () => {
    out = join(dir, name);
    await using source = await openCheckpoint(FLOAT);
    await quantizeCheckpoint(source, { ...options, out });
  });

  it('has the same tensors, byte for byte but for the summation order of the zeros', async () => {
    await using result = await openCheckpoint(out);
    expect([...result.source.entries.keys()].toSorted()).toEqual([...expected.keys()].toSorted());
    for (const [tensor, want] of expected) {
      const got = await result.tensor(tensor);
      expect({ dtype: got.dtype, shape: got.shape }, tensor).toEqual({ dtype: want.dtype, shape: want.shape });
      if (tensor.endsWith('.zero')) closeZeros(tensor, got, want);
      else expect(Buffer.compare(got.data, want.data), tensor).toBe(0);
    }
  });

  it('has the same quantization_config and the same header', async () => {
    const written = JSON.parse(await readFile(join(out, 'config.json'), 'utf8')) as JsonObject;
    expect(written.quantization_config).toEqual(config.quantization_config);
    const header = async (path: string) => {
      const bytes = await readFile(path);
      return bytes.subarray(0, 8 + Number(bytes.readBigUInt64LE(0))).toString('latin1');
    };
    expect(await header(join(out, 'model.safetensors'))).toBe(await header(goldenPath(`hqq/checkpoints-hf4/${name}/model.safetensors`)));
  });

  it('is planned to the byte', async () => {
    await using source = await openCheckpoint(FLOAT);
    const { files } = await planQuantization(source, options);
    const names = await readdir(out);
    expect(files.map((file) => file.name).toSorted()).toEqual(names.toSorted());
    for (const file of files) expect((await stat(join(out, file.name))).size, file.name).toBe(file.bytes);
  });
});

describe('tiny-llama', () => {
  const TINY = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
  const run = async (out: string, more = {}) => {
    await using source = await openCheckpoint(TINY);
    return await quantizeCheckpoint(source, { out, quantizer: hqq(), adapters: [llama], ...more });
  };
  const digest = async (folder: string) => {
    const hash = createHash('sha256');
    for (const name of (await readdir(folder)).toSorted()) hash.update(name).update(await readFile(join(folder, name)));
    return hash.digest('hex');
  };

  it('gives the same folder for 1 and 4 linears at a time', async () => {
    await run(join(dir, 'one'));
    await run(join(dir, 'four'), { concurrency: 4, maxMemory: 128 << 20 });
    expect(await digest(join(dir, 'four'))).toBe(await digest(join(dir, 'one')));
    expect(await readdir(join(dir, 'one'))).not.toContain('README.md');
  });

  it('never takes the place of its source', async () => {
    const copy = join(dir, 'home', 'copy');
    await cp(TINY, copy, { recursive: true });
    await symlink(copy, join(dir, 'link'));
    await using source = await openCheckpoint(join(dir, 'link'));
    for (const out of [copy, join(dir, 'link'), join(dir, 'home')]) {
      const attempt = quantizeCheckpoint(source, { out, quantizer: hqq(), adapters: [llama], overwrite: true });
      await expect(attempt).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('the source') });
    }
    expect(await readdir(copy)).toContain('eval.txt');
  });

  it('resumes no work that other solver settings have begun', async () => {
    const out = join(dir, 'mixed');
    const controller = new AbortController();
    const stop = {
      resume: true,
      signal: controller.signal,
      onProgress: ({ done, total }: { done: number; total: number }) => done > total / 2 && controller.abort(),
    };
    await expect(run(out, { ...stop, quantizer: hqq({ solver: { name: 'hqq', iterations: 1 } }) })).rejects.toBeDefined();
    await expect(run(out, { resume: true })).rejects.toMatchObject({ code: 'ERR_JOURNAL_MISMATCH' });
    await rm(`${out}.partial`, { recursive: true });
  });
});

describe('settings that the Python library does not have', () => {
  it('least squares writes the files that hqq writes, numbers apart, with a smaller error', async () => {
    await using source = await openCheckpoint(FLOAT);
    const reports = [];
    for (const solver of ['hqq', 'least-squares'] as const) {
      reports.push(await quantizeCheckpoint(source, { out: join(dir, solver), quantizer: hqq({ solver }), adapters: [llama] }));
    }
    expect(await readFile(join(dir, 'least-squares', 'config.json'), 'utf8')).toBe(await readFile(join(dir, 'hqq', 'config.json'), 'utf8'));
    await using original = await openCheckpoint(join(dir, 'hqq'));
    await using fitted = await openCheckpoint(join(dir, 'least-squares'));
    expect([...fitted.source.entries]).toEqual([...original.source.entries]);
    for (const name of original.source.entries.keys()) {
      if (/\.(W_q|scale|zero)$/.test(name)) continue;
      expect((await fitted.tensor(name)).data, name).toEqual((await original.tensor(name)).data);
    }
    expect(reports[1]!.weightError / reports[0]!.weightError).toBeLessThan(0.92);
  });

  it('quantized scales and zeros are refused by the layouts that Python reads, by name, before anything is written', async () => {
    await using source = await openCheckpoint(FLOAT);
    const options = { quantizer: hqq({ quantZero: true }), adapters: [llama], layout: 'hqq' };
    await expect(planQuantization(source, options)).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: 'the layout hqq does not store these settings; hqq-nested does',
      hint: 'Choose hqq-nested, or no layout by name.',
    });
  });
});

/** Zeros may differ by 1e-5 before they are rounded to 16 bits: at most to the neighbouring value, and seldom. */
function closeZeros(name: string, got: HostTensor, want: HostTensor): void {
  const [a, b] = [elements({ dtype: 'u16', data: got.data }), elements({ dtype: 'u16', data: want.data })];
  const [x, y] = [toFloat32(got), toFloat32(want)];
  let different = 0;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i]) continue;
    different++;
    expect(Math.abs(a[i]! - b[i]!), `${name}[${i}]: ${x[i]} and ${y[i]}`).toBe(1);
  }
  expect(different, name).toBeLessThanOrEqual(Math.ceil(a.length / 50));
}

it('refuses options that there are not, before anything is written', async () => {
  await using source = await openCheckpoint(FLOAT);
  const options = { quantizer: hqq(), adapters: [llama], skip: ['lm_head'] };
  await expect(planQuantization(source, options)).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    message: 'planQuantization: there is no option skip',
  });
  const out = join(dir, 'misspelt');
  await expect(quantizeCheckpoint(source, { quantizer: hqq(), adapters: [llama], out, max_memory: 1e9 } as never)).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    message: 'quantizeCheckpoint: there is no option max_memory',
    hint: expect.stringMatching(/^Did you mean maxMemory\?/),
  });
  await expect(stat(`${out}.partial`)).rejects.toMatchObject({ code: 'ENOENT' });
});
