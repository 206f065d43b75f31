// A folder that transformers 5.23.0 saved with its HIGGS and FLUTE 0.4.2: its logits, and the same codes stored in other ways.

import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import {
  type BackendProvider,
  type Codebook,
  castFloat,
  codecFor,
  createRuntime,
  dequantize,
  elements,
  type HostTensor,
  isLowbitError,
  type JsonObject,
  type LowbitError,
  referenceBackend,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import { type ConvertCheckpointOptions, convertCheckpoint, openCheckpoint, planConversion } from '@lowbit/hub';
import { planFile } from '@lowbit/hub/safetensors';
import { cpu } from '@lowbit/kernels-cpu';
import { higgsGrid } from '@lowbit/layouts';
import { llama, loadModel } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';

type Tensors = ReadonlyMap<string, HostTensor>;

const GOLDEN = goldenPath('higgs/tiny-llama');
const expected = goldenTensors('higgs/tiny-llama/expected.safetensors');
const tensors: Tensors = goldenTensors('higgs/tiny-llama/model.safetensors');
const config = goldenJson<JsonObject>('higgs/tiny-llama/config.json');
const firstGeneration = goldenJson<JsonObject>('higgs/tiny-llama/config-first-generation.json');
const probe = await cpu().probe();
const Q = 'model.layers.0.self_attn.q_proj';

let work: string;
let made = 0;
beforeAll(async () => {
  work = await mkdtemp(join(tmpdir(), 'lowbit-higgs-'));
});
afterAll(() => rm(work, { recursive: true, force: true }));

const fresh = (): string => join(work, String(made++));

/** A model folder. */
async function folderOf(contents: Tensors, ofConfig: JsonObject): Promise<string> {
  const folder = fresh();
  await mkdir(folder);
  const { header } = planFile([...contents], { format: 'pt' });
  const ordered = [...planFile([...contents], { format: 'pt' }).tensors].sort(([, a], [, b]) => a.start - b.start);
  await writeFile(join(folder, 'model.safetensors'), Buffer.concat([header, ...ordered.map(([name]) => contents.get(name)!.data)]));
  await writeFile(join(folder, 'config.json'), JSON.stringify(ofConfig));
  return folder;
}

async function contentsOf(folder: string): Promise<Tensors> {
  await using checkpoint = await openCheckpoint(folder);
  const read = [...checkpoint.source.entries.keys()].map(async (name) => [name, await checkpoint.tensor(name)] as const);
  return new Map(await Promise.all(read));
}

async function configOf(folder: string): Promise<JsonObject> {
  return JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as JsonObject;
}

async function convert(folder: string, flute: ConvertCheckpointOptions['flute'], options: Partial<ConvertCheckpointOptions> = {}) {
  await using source = await openCheckpoint(folder);
  return await convertCheckpoint(source, { out: fresh(), adapters: [llama], flute, ...options });
}

async function failure(promise: Promise<unknown>): Promise<LowbitError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (isLowbitError(error)) return error;
  throw error ?? new Error('it was expected to fail');
}

/** Same names, dtypes, shapes and bytes. */
function expectSame(got: Tensors, want: Tensors): void {
  expect([...got.keys()].sort()).toEqual([...want.keys()].sort());
  for (const [name, { dtype, shape, data }] of want) {
    expect({ dtype: got.get(name)!.dtype, shape: got.get(name)!.shape }, name).toEqual({ dtype, shape });
    expect(Buffer.compare(got.get(name)!.data, data), name).toBe(0);
  }
}

async function logitsOf(folder: string, backend: BackendProvider = referenceBackend()): Promise<Float32Array> {
  const ids = Array.from(elements({ dtype: 'i64', data: expected.get('input_ids')!.data }), Number);
  await using checkpoint = await openCheckpoint(folder);
  await using runtime = await createRuntime({ backends: [backend] });
  await using model = await loadModel(checkpoint, { runtime });
  return Float32Array.from([...toFloat32(await model.logits(ids.slice(0, 12))), ...toFloat32(await model.logits(ids.slice(12)))]);
}

describe('the golden folder', () => {
  it.for(['reference', 'native'])("has Python's logits, by the %s backend", async (backend, context) => {
    if (backend === 'native') needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
    const got = await logitsOf(GOLDEN, backend === 'native' ? cpu({ threads: 2 }) : referenceBackend());
    const want = toFloat32(expected.get('logits')!);
    let [squares, norm] = [0, 0];
    for (const [i, value] of want.entries()) {
      expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(2e-3);
      squares += (got[i]! - value) ** 2;
      norm += value ** 2;
    }
    expect(Math.sqrt(squares / norm)).toBeLessThanOrEqual(2e-4);
    for (let row = 0; row < 24; row++) {
      const [g, w] = [got, want].map((logits) => Array.from(logits.subarray(320 * row, 320 * (row + 1))));
      const [first, second] = w!.toSorted((a, b) => b - a);
      if (first! - second! > 5e-3) expect(g!.indexOf(Math.max(...g!))).toBe(w!.indexOf(first!));
    }
  });

  it('is written again as it is: the same tensors and quantization_config', async () => {
    const { out, loadsIn } = await convert(GOLDEN, 32);
    expectSame(await contentsOf(out), tensors);
    expect(await configOf(out)).toEqual(config);
    expect(await readFile(join(out, 'config.json'), 'utf8')).toBe(await readFile(join(GOLDEN, 'config.json'), 'utf8'));
    expect(loadsIn.join('\n')).toMatch(/^Python: transformers 4\.49 to 4\.57 and 5/m);
  });

  it('makes the round through tiles of 64 and the portable form, in shards and without an adapter, too', async () => {
    const wide = await convert(GOLDEN, 64, { shardSize: 500_000 });
    expect((await readdir(wide.out)).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(3);
    const block = (await configOf(wide.out)).quantization_config as JsonObject;
    expect((block.tune_metadata as Record<string, JsonObject>)[Q]).toMatchObject({ num_sms: 1, template_id: 4 });
    const portable = await convert(wide.out, 'portable', { adapters: [] });
    const names = [...(await contentsOf(portable.out)).keys()].filter((name) => name.startsWith(Q));
    expect(names.sort()).toEqual([`${Q}.codes`, `${Q}.grid`, `${Q}.scales`]);
    expect((await configOf(portable.out)).quantization_config).toMatchObject({ tune_metadata: {}, modules_to_not_convert: ['lm_head'] });
    expect(portable.loadsIn.join('\n')).toMatch(/portable form, which lowbit alone reads. FLUTE could pack them/);
    const back = await convert(portable.out, 32, { maxMemory: 32 << 20 });
    expectSame(await contentsOf(back.out), tensors);
    for (const folder of [wide.out, portable.out]) expect(await logitsOf(folder)).toEqual(await logitsOf(GOLDEN));
  });

  it('is planned to the byte, and what is written is what was planned', async () => {
    await using source = await openCheckpoint(GOLDEN);
    const { files } = await planConversion(source, { flute: 'portable', adapters: [llama] });
    const { out, files: written } = await convert(GOLDEN, 'portable');
    expect(written).toEqual(files);
    for (const { name, bytes } of files) expect((await readFile(join(out, name))).byteLength, name).toBe(bytes);
  });

  it('is not converted with an option that nobody knows', async () => {
    await using source = await openCheckpoint(GOLDEN);
    const options = { flute: 'portable', adapter: [llama] } as const;
    const planned = await failure(planConversion(source, options));
    expect(planned.code).toBe('ERR_BAD_ARGUMENT');
    expect(planned.message).toBe('planConversion: there is no option adapter');
    expect(planned.hint).toMatch(/Did you mean adapters/);
    const out = fresh();
    const converted = await failure(convertCheckpoint(source, { ...options, out }));
    expect([converted.code, converted.message]).toEqual(['ERR_BAD_ARGUMENT', 'convertCheckpoint: there is no option adapter']);
    await expect(readdir(out)).rejects.toThrow(/ENOENT/);
  });

  it('goes on after an interruption, with the same bytes', async () => {
    await using source = await openCheckpoint(GOLDEN);
    const out = fresh();
    const controller = new AbortController();
    const options = { out, flute: 'portable', adapters: [llama], resume: true } as const;
    const stop = convertCheckpoint(source, {
      ...options,
      signal: controller.signal,
      onProgress: ({ done, total }) => done > total / 2 && controller.abort(),
    });
    await expect(stop).rejects.toThrow(/abort/);
    const report = await convertCheckpoint(source, options);
    expect(report.resumed).toBeGreaterThan(0);
    expectSame(await contentsOf(out), await contentsOf((await convert(GOLDEN, 'portable')).out));
  });
});

describe('first-generation folders', () => {
  const extra = goldenTensors('higgs/tiny-llama/first-generation-extra.safetensors');

  it('are read, and become second-generation ones', async () => {
    const folder = await folderOf(new Map([...tensors, ...extra]), firstGeneration);
    expect(await logitsOf(folder)).toEqual(await logitsOf(GOLDEN));
    const { out } = await convert(folder, 32);
    expectSame(await contentsOf(out), tensors);
    const metadata = ((await configOf(out)).quantization_config as JsonObject).tune_metadata as Record<string, JsonObject>;
    expect(Object.keys(metadata).sort()).toEqual(Object.keys((config.quantization_config as JsonObject).tune_metadata as object).sort());
    expect(metadata[Q]).toEqual({
      K: 512,
      M: 1,
      N: 512,
      device: 'cuda:0',
      dtype: 'torch.float16',
      group_size: 256,
      num_bits: 4,
      num_sms: 1,
      template_id: 36,
    });
  });
});

describe('bfloat16', () => {
  /** The golden folder with everything in bf16; `tables2` keeps its label, or is what transformers makes of it by loading and saving. */
  async function folder(tables2: 'as saved' | 'saved again'): Promise<string> {
    const table = writeFloat32('bf16', higgsGrid(2, 256));
    const contents = new Map<string, HostTensor>();
    for (const [name, tensor] of tensors) {
      if (tensor.dtype !== 'f16') contents.set(name, tensor);
      else if (!name.endsWith('.tables2')) contents.set(name, castFloat(tensor, 'bf16'));
      else {
        const label = { dtype: 'f16', shape: tensor.shape, data: table } as const;
        contents.set(name, tables2 === 'as saved' ? label : castFloat(label, 'bf16'));
      }
    }
    const block = config.quantization_config as JsonObject;
    const tuned = Object.entries(block.tune_metadata as Record<string, JsonObject>).map(([path, metadata]) => [
      path,
      { ...metadata, dtype: 'torch.bfloat16' },
    ]);
    const own = { ...block, tune_metadata: Object.fromEntries(tuned) };
    return folderOf(contents, { ...config, dtype: 'bfloat16', quantization_config: own });
  }

  it('is read and written, and a table that transformers damaged is mended, which is said', async () => {
    const [saved, again] = [await folder('as saved'), await folder('saved again')];
    await using damaged = await openCheckpoint(again);
    expect(damaged.notes).toEqual([
      expect.stringMatching(/^model\.layers\.0\.mlp\.down_proj, .* and 11 more: its tables2 was damaged by transformers/),
    ]);
    await using whole = await openCheckpoint(saved);
    expect(whole.notes).toEqual([]);
    expect(await logitsOf(again)).toEqual(await logitsOf(saved));
    const [mended, copied] = [await convert(again, 32), await convert(saved, 32)];
    expectSame(await contentsOf(mended.out), await contentsOf(saved));
    expectSame(await contentsOf(copied.out), await contentsOf(saved));
    expect(await configOf(mended.out)).toEqual(await configOf(saved));
    expect(mended.loadsIn.join('\n')).toMatch(/bfloat16 loads with wrong weights there/);
  });
});

describe('rows that were filled up', () => {
  // hidden 512 is no multiple of 1024: half of each stored row is filling. Made by hand of the golden codes.
  async function padded(): Promise<string> {
    const contents = new Map(tensors);
    const block = config.quantization_config as JsonObject;
    const tuned: Record<string, JsonObject> = {};
    for (const [path, metadata] of Object.entries(block.tune_metadata as Record<string, JsonObject>)) {
      tuned[path] = { ...metadata, K: 1024 };
      if (metadata.K === 1024) continue;
      for (const name of ['weight', 'scales']) {
        const { dtype, shape, data } = contents.get(`${path}.${name}`)!;
        const row = data.byteLength / shape[0]!;
        const wide = new Uint8Array(2 * data.byteLength);
        for (let i = 0; i < shape[0]!; i++)
          for (const half of [0, 1]) wide.set(data.subarray(i * row, (i + 1) * row), (2 * i + half) * row);
        contents.set(`${path}.${name}`, { dtype, shape: [shape[0]!, 2 * shape[1]!], data: wide });
      }
    }
    return folderOf(contents, { ...config, quantization_config: { ...block, hadamard_size: 1024, tune_metadata: tuned } });
  }

  it('are cut to the in_features of the model, which a conversion writes down', async () => {
    const folder = await padded();
    await using source = await openCheckpoint(folder);
    expect(source.quantized.get(Q)).toMatchObject({ shape: [512, 1024], format: { rotate: { block: 1024 } } });
    const logits = await logitsOf(folder);
    expect(logits.every(Number.isFinite)).toBe(true);
    const { out, loadsIn } = await convert(folder, 'portable');
    await using copy = await openCheckpoint(out);
    expect(copy.quantized.get(Q)!.shape).toEqual([512, 512]);
    const { lowbit } = (await configOf(out)).quantization_config as JsonObject;
    const modules = (lowbit as JsonObject).modules as Record<string, JsonObject>;
    expect(modules[Q]).toEqual({ in_features: 512 });
    expect(Object.keys(modules).some((path) => path.endsWith('down_proj'))).toBe(false);
    expect(await logitsOf(out)).toEqual(logits);
    expect(loadsIn.join('\n')).toMatch(/Not transformers: it loads no rows that were filled up: in_features of model\.layers\.0/);
    const [whole, cut] = [await source.linear(Q), await copy.linear(Q)];
    const rows = toFloat32(dequantize(whole));
    expect(toFloat32(dequantize(cut)).subarray(0, 512)).toEqual(rows.subarray(0, 512));
    expect(codecFor(cut.format).unpackRows(cut, 0, 512).data).toEqual(codecFor(whole.format).unpackRows(whole, 0, 512).data);
    expect((cut.format as Codebook).packing).toBe('row_bits8');
  });

  it('are refused where the model has another width', async () => {
    const folder = await padded();
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...(await configOf(folder)), hidden_size: 1536, head_dim: 64 }));
    const error = await failure(convert(folder, 'portable'));
    expect(error).toMatchObject({ code: 'ERR_TENSOR_MISMATCH', message: expect.stringContaining('config.json says [512, 1536]') });
    expect(await failure(logitsOf(folder))).toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
  });
});

describe('conversions that cannot be', () => {
  it('name the layers that FLUTE does not pack, the rule and the way out, and leave nothing behind', async () => {
    const portable = await convert(GOLDEN, 'portable');
    const contents = new Map(await contentsOf(portable.out));
    const head = 'lm_head'; // as a quantized layer of 320 outputs
    const { data } = contents.get(`${Q}.codes`)!;
    contents.delete(`${head}.weight`);
    contents.set(`${head}.codes`, { dtype: 'u8', shape: [320, 256], data: data.subarray(0, 320 * 256) });
    contents.set(`${head}.scales`, { dtype: 'f16', shape: [320, 2], data: contents.get(`${Q}.scales`)!.data.subarray(0, 320 * 4) });
    contents.set(`${head}.grid`, contents.get(`${Q}.grid`)!);
    const folder = await folderOf(contents, await configOf(portable.out));
    const out = fresh();
    const error = await failure(convert(folder, 32, { out }));
    expect(error).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: '"lm_head": flute4_p2_t32 needs out_features that are a multiple of 128, got 320',
      hint: expect.stringContaining('--flute portable'),
      details: { layers: ['lm_head'] },
    });
    expect((await readdir(work)).filter((name) => name.startsWith(basename(out)))).toEqual([]);
    // `auto` packs the others, as `quantize` would have.
    const auto = await contentsOf((await convert(folder, 'auto')).out);
    expect(auto.get(`${Q}.weight`)!.data).toEqual(tensors.get(`${Q}.weight`)!.data);
    expect(auto.get(`${head}.codes`)!.data).toEqual(contents.get(`${head}.codes`)!.data);
    const again = await convert(folder, 'portable');
    expect(again.loadsIn.join('\n')).toMatch(/FLUTE needs out_features that are a multiple of 128 with 4 bits\./);
    expect((await configOf(again.out)).quantization_config).toMatchObject({ modules_to_not_convert: [] });
  });

  it('name a layer of which tensors are missing, before anything is written', async () => {
    const portable = await convert(GOLDEN, 'portable');
    const { [`${Q}.grid`]: _, ...rest } = Object.fromEntries(await contentsOf(portable.out));
    const folder = await folderOf(new Map(Object.entries(rest)), await configOf(portable.out));
    const out = fresh();
    expect(await failure(convert(folder, 32, { out }))).toMatchObject({ code: 'ERR_TENSOR_MISMATCH', message: expect.stringContaining(Q) });
    expect((await readdir(work)).filter((name) => name.startsWith(basename(out)))).toEqual([]);
  });

  it('leave out entries of modules_to_not_convert that cannot be followed', async () => {
    const block = config.quantization_config as JsonObject;
    const strange = ['lm_head', '', 'model\\.layers\\.(7|8)\\.mlp'];
    const folder = await folderOf(tensors, { ...config, quantization_config: { ...block, modules_to_not_convert: strange } });
    const { out } = await convert(folder, 'portable');
    expect((await configOf(out)).quantization_config).toMatchObject({ modules_to_not_convert: ['lm_head'] });
  });

  it('are said before anything is written', async () => {
    expect(await failure(convert(goldenPath('bnb/checkpoints/nf4'), 32))).toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: expect.stringContaining('layout bitsandbytes'),
    });
    expect(await failure(convert(goldenPath('bnb/checkpoints/float'), 32))).toMatchObject({
      message: expect.stringContaining('not quantized'),
    });
    expect(await failure(convert(GOLDEN, 16 as 32))).toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: 'flute cannot be 16' });
    expect(await failure(convert(GOLDEN, 32, { out: GOLDEN }))).toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    expect(await failure(convert(GOLDEN, 32, { maxMemory: 1 << 20 }))).toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
  });
});
