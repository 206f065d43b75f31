// Quantizing with the routines of the CUDA backend, in the emulator: the bytes and the reported errors of the TypeScript.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fp4, int8, nf4 } from '@lowbit/bnb';
import {
  createRuntime,
  float32Tensor,
  type HostTensor,
  type Importance,
  type QuantizeOptions,
  type Quantizer,
  quantize,
  toFloat32,
  type WeightError,
  writeFloat32,
} from '@lowbit/core';
import { type HiggsOptions, higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { cuda } from '@lowbit/kernels-cuda';
import { seeded } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import { needs } from '../fixtures/needs.ts';
import { digests, ensureBuilt, lowbitJson, TINY } from './cli-process.ts';

type Stored = 'f32' | 'f16' | 'bf16';

/** Bell-shaped weights with a few large ones, so that the shrinkage acts. */
function weightOf(out: number, inp: number, dtype: Stored): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

/** Channels that differ by a factor of a hundred thousand. */
function importanceOf(inp: number): Importance {
  const next = seeded(inp);
  const moments = Float32Array.from({ length: inp }, () => 10 ** (5 * next() - 3));
  return { kind: 'diagonal', moments: float32Tensor([inp], moments), rows: 7 };
}

/** Mostly zeros, and some numbers that 16 bits hold as subnormals or lose: groups of zeros, and groups whose scale is 0. */
function sparse(out: number, inp: number, dtype: Stored): HostTensor {
  const next = seeded(out + inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (i % 700 < 90 ? (next() - 0.5) * 10 ** -(i % 46) : 0));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');

const dir = mkdtempSync(join(tmpdir(), 'lowbit-cuda-quantize-'));
afterAll(() => rmSync(dir, { recursive: true }));
const log = join(dir, 'launches');

async function runtimeOf() {
  pretend({ log });
  const runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
  await runtime.backend('cuda'); // routines are those of opened backends
  return runtime;
}

async function same(
  quantizer: Quantizer,
  weight: HostTensor,
  { metaDtype = 'f32', importance }: { readonly metaDtype?: Stored; readonly importance?: Importance | undefined } = {},
): Promise<void> {
  const run = async (options: QuantizeOptions) => {
    let error: WeightError | undefined;
    const watched = {
      ...quantizer,
      quantize: async (...given: Parameters<Quantizer['quantize']>) => (error = await quantizer.quantize(...given)),
    };
    return { ...(await quantize(weight, watched, { metaDtype, importance, ...options })), error };
  };
  const expected = await run({}).catch((error: Error) => error);
  await using runtime = await runtimeOf();
  if (expected instanceof Error) {
    expect(await run({ runtime }).catch((error: Error) => error)).toEqual(expected); // refused with the same words
    return;
  }
  const { parts, ...rest } = await run({ runtime });
  expect(rest).toEqual({ format: expected.format, shape: expected.shape, error: expected.error });
  expect(Object.keys(parts)).toEqual(Object.keys(expected.parts));
  for (const [name, part] of Object.entries(expected.parts)) expect(Buffer.compare(parts[name]!.data, part.data), name).toBe(0);
}

describe('quantizing with routines on the GPU', () => {
  it.for([
    ['4 bits', { bits: 4 }, [96, 192], 'f32'],
    ['4 bits of bf16', { bits: 4 }, [48, 320], 'bf16'],
    ['4 bits, axis 0', { bits: 4, axis: 0 }, [192, 48], 'f16'],
    ['several tiles', { bits: 4, axis: 0 }, [512, 1040], 'bf16'],
    ['8 bits, a group per row', { bits: 8, groupSize: null }, [40, 100], 'f32'],
    ['3 bits', { bits: 3 }, [74, 128], 'f32'],
    ['2 bits in groups of 16', { bits: 2, groupSize: 16 }, [60, 80], 'f32'],
    ['1.58 bits', { bits: 1.58, groupSize: 64 }, [48, 192], 'f32'],
    ['without the solver', { bits: 4, optimize: false }, [64, 128], 'f32'],
    ['rules of 0.1.8', { bits: 4, release: '0.1.8' }, [64, 128], 'f32'],
    ['proximal-v2', { bits: 4, solver: 'proximal-v2' }, [64, 128], 'f32'],
  ] as const)('HQQ, %s', async ([, options, shape, dtype], context) => {
    here(context);
    await same(hqq(options as never), weightOf(shape[0], shape[1], dtype));
  });

  it.for([
    ['NF4', nf4(), [96, 320], 'f32'],
    ['NF4 of bf16', nf4(), [70, 900], 'bf16'],
    ['NF4, a short last block of an odd length', nf4({ blockSize: 128 }), [9, 101], 'f16'],
    ['NF4, less than a block', nf4(), [3, 5], 'f32'],
    ['NF4, double quantization', nf4({ doubleQuant: true }), [140, 300], 'f32'],
    ['NF4, double quantization, short', nf4({ doubleQuant: true }), [7, 11], 'bf16'],
    ['FP4', fp4({ blockSize: 4096 }), [130, 333], 'bf16'],
    ['LLM.int8', int8(), [70, 333], 'f32'],
    ['LLM.int8 of bf16', int8(), [40, 5000], 'bf16'],
    ['LLM.int8 of f16', int8(), [130, 131], 'f16'],
    ['LLM.int8, few weights', int8(), [9, 101], 'f32'],
    ['FP4 by the thresholds of CUDA', fp4({ thresholds: 'cuda', blockSize: 32 }), [33, 77], 'f32'],
  ] as const)('%s', async ([, quantizer, shape, dtype], context) => {
    here(context);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(quantizer, weight);
    await same(quantizer, { ...weight, data: new Uint8Array(weight.data.length) }); // zeros
    for (const factor of [1e-38, 1e-42]) {
      await same(quantizer, {
        ...weight,
        data: writeFloat32(
          dtype,
          toFloat32(weight).map((value) => value * factor),
        ),
      });
    }
  });

  it.for([
    ['4 bits', { bits: 4 }, [96, 192], 'f32', 'f32'],
    ['8 bits of f16', { bits: 8 }, [37, 192], 'f16', 'f16'],
    ['6 bits', { bits: 6, groupSize: 32 }, [20, 96], 'f32', 'bf16'],
    ['5 bits, a group a row', { bits: 5, groupSize: null }, [9, 1001], 'f32', 'f16'],
    ['3 bits of bf16', { bits: 3 }, [74, 128], 'bf16', 'f16'],
    ['3 bits, axis 0', { bits: 3, axis: 0 }, [128, 66], 'f32', 'f16'],
    ['2 bits in groups of 16', { bits: 2, groupSize: 16 }, [60, 80], 'f32', 'f16'],
    ['4 bits, axis 0', { bits: 4, axis: 0 }, [192, 48], 'f32', 'bf16'],
    ['one grid for all', { bits: 4, groupSize: null, axis: 0 }, [200, 8], 'bf16', 'f32'],
    ['groups that are not rounded', { bits: 8, groupSize: 2048 }, [2, 2048], 'f32', 'f32'],
    ['1.58 bits', { bits: 1.58, groupSize: 200 }, [64, 200], 'f32', 'f32'],
    ['1 bit', { bits: 1, groupSize: 8 }, [40, 24], 'f32', 'f16'],
    ['one alternation, several tiles', { bits: 2, axis: 0, solver: { name: 'least-squares', alternations: 1 } }, [64, 4200], 'bf16', 'f16'],
  ] as const)('HQQ by least squares, %s', async ([, options, shape, dtype, metaDtype], context) => {
    here(context);
    const quantizer = hqq({ solver: 'least-squares', ...options } as never);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(quantizer, weight, { metaDtype });
    await same(quantizer, weight, { metaDtype, importance: importanceOf(shape[1]) });
    await same(quantizer, sparse(shape[0], shape[1], dtype), { metaDtype, importance: importanceOf(shape[1]) });
  });

  it.for([
    ['axis 1', { bits: 3, axis: 1 }, [40, 192], 'f32'],
    ['axis 0', { bits: 4, axis: 0 }, [128, 66], 'bf16'],
  ] as const)('HQQ with a search of scales, %s', async ([, options, shape, dtype], context) => {
    here(context);
    const quantizer = hqq({ ...options, solver: { name: 'proximal-v2', scaleSearch: true } });
    await same(quantizer, weightOf(shape[0], shape[1], dtype));
    await same(quantizer, sparse(shape[0], shape[1], dtype));
  });

  it.for([
    ['NF4', nf4({ scale: 'search' }), [96, 320], 'f32'],
    ['NF4 of bf16, doubly quantized', nf4({ scale: 'search', doubleQuant: true }), [140, 300], 'bf16'],
    ['FP4, a short last block of an odd length', fp4({ scale: 'search', blockSize: 128 }), [9, 101], 'f16'],
    ['NF4, less than a block', nf4({ scale: 'search' }), [3, 5], 'f32'],
  ] as const)('searched scales, %s', async ([, quantizer, shape, dtype], context) => {
    here(context);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(quantizer, weight);
    await same(quantizer, weight, { importance: importanceOf(shape[1]) });
    await same(quantizer, sparse(shape[0], shape[1], dtype), { importance: importanceOf(shape[1]) });
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 3.4e38, -3e38]) {
      const values = toFloat32(weight).slice();
      values[values.length - 3] = value;
      await same(quantizer, float32Tensor([...shape], values));
    }
  });

  it.for([
    ['4 bits', {}, [6, 1024], 'f32', 'f32'],
    ['4 bits of bf16, rows that are filled up', { hadamardSize: 64, groupSize: 64 }, [17, 100], 'bf16', 'bf16'],
    ['3 bits, f16', { bits: 3, hadamardSize: 128, groupSize: 64 }, [9, 256], 'f16', 'f16'],
    ['2 bits of scalars', { bits: 2, p: 1, hadamardSize: 64, groupSize: 64 }, [12, 128], 'f32', 'bf16'],
    ['3 bits of scalars, FLUTE', { bits: 3, p: 1, hadamardSize: 64, groupSize: 64 }, [512, 70], 'f32', 'f16'],
    ['3 bits, two tiles of 64', { bits: 3, tile: 64, hadamardSize: 64, groupSize: 64 }, [2048, 64], 'bf16', 'f16'],
    ['2 bits in FLUTE', { bits: 2, hadamardSize: 32, groupSize: 32 }, [256, 33], 'f32', 'f16'],
    ['4 bits of scalars in FLUTE', { bits: 4, p: 1, hadamardSize: 32, groupSize: 32 }, [128, 64], 'f32', 'f16'],
    ['the smallest blocks', { hadamardSize: 8, groupSize: 2 }, [130, 77], 'f16', 'f16'],
    ['blocks of 8192', { hadamardSize: 8192, groupSize: 256 }, [2, 9000], 'bf16', 'f16'],
  ] as const)('HIGGS, %s', async ([, options, shape, dtype, metaDtype], context) => {
    here(context);
    const quantizer = higgs(options as HiggsOptions);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(quantizer, weight, { metaDtype });
    await same(quantizer, sparse(shape[0], shape[1], dtype), { metaDtype });
    for (const value of [Number.NaN, Number.NEGATIVE_INFINITY, 3e38, 1e8]) {
      const values = toFloat32(weight).slice();
      values[values.length - 3] = value;
      await same(quantizer, float32Tensor([...shape], values), { metaDtype });
    }
  });

  it.for([0, 0b01010101, 0b1111111111])(
    'several at once, their calls mixed, with streams %i early',
    { timeout: 60_000 },
    async (eager, context) => {
      here(context);
      pretend({ eager });
      await using runtime = await createRuntime({ backends: [cuda({ driver: FAKE_DRIVER })] });
      await runtime.backend('cuda');
      const work = [
        [hqq({ bits: 4, axis: 0 }), weightOf(64, 4500, 'bf16')],
        [nf4({ doubleQuant: true }), weightOf(1100, 260, 'f32')],
        [hqq({ bits: 3 }), weightOf(74, 128, 'f16')],
        [higgs({ hadamardSize: 64, groupSize: 64 }), weightOf(20, 96, 'f32')],
        [int8(), weightOf(130, 131, 'f16')],
      ] as const;
      const found = await Promise.all(work.map(([quantizer, weight]) => quantize(weight, quantizer, { runtime })));
      for (const [i, [quantizer, weight]] of work.entries()) {
        for (const [name, part] of Object.entries((await quantize(weight, quantizer)).parts)) {
          expect(Buffer.compare(found[i]!.parts[name]!.data, part.data), `${i} ${name}`).toBe(0);
        }
      }
    },
  );

  it('HIGGS blocks that do not fit a GPU are refused by name', async (context) => {
    here(context);
    await using runtime = await runtimeOf();
    const failing = quantize(weightOf(2, 20_000, 'f32'), higgs({ hadamardSize: 16_384 }), { runtime });
    await expect(failing).rejects.toMatchObject({ code: 'ERR_LIMIT', details: { block: 16_384, limit: 8192 } });
  });

  it('weights that are not finite are refused with the same words, or have the same bytes', async (context) => {
    here(context);
    for (const value of [Number.NaN, Number.NEGATIVE_INFINITY]) {
      for (const at of [0, 20 * 128 + 77, 33 * 128 - 1]) {
        const values = toFloat32(weightOf(33, 128, 'f32')).slice();
        values[at] = value;
        const weight: HostTensor = { dtype: 'f32', shape: [33, 128], data: writeFloat32('f32', values) };
        for (const quantizer of [nf4({ allowNonFinite: true }), nf4({ allowNonFinite: true, doubleQuant: true })])
          await same(quantizer, weight);
        await using runtime = await runtimeOf();
        for (const quantizer of [nf4(), hqq({ bits: 4 }), hqq({ bits: 4, solver: 'least-squares' })]) {
          const failure = async (options: QuantizeOptions) => quantize(weight, quantizer, options).catch((error: Error) => error);
          expect(await failure({ runtime })).toEqual(await failure({}));
          expect(await failure({ runtime })).toBeInstanceOf(Error);
        }
      }
    }
  });

  it('by the command, two linears at a time: the files of the reference, also after a stop', async (context) => {
    here(context);
    ensureBuilt();
    const on = (backend: string, out: string, ...more: string[]): string[] => [
      ...['quantize', TINY, '-o', join(dir, out), '-m', 'hqq', '--skip', 'model.layers.{1,2,3,4,5}.**', '--backend', backend, ...more],
    ];
    const env = { LOWBIT_CUDA_DRIVER: FAKE_DRIVER, LOWBIT_FAKE_CUDA: '' };
    const cwd = fileURLToPath(new URL('..', import.meta.url));
    const { code, stderr, json } = await lowbitJson<{ backend: { name: string; routines: string[] }; linears: { path: string }[] }>(
      on('@lowbit/kernels-cuda', 'gpu'),
      { env, cwd },
    );
    expect([code, stderr]).toEqual([0, '']);
    expect(json.backend).toMatchObject({ name: 'cuda', routines: ['hqq.held'] });
    const plain = await lowbitJson<{ linears: { path: string }[] }>(on('reference', 'plain', '--threads', '1'));
    expect(json.linears.map(({ path }) => path)).toEqual(plain.json.linears.map(({ path }) => path));
    expect(digests(join(dir, 'gpu'))).toEqual(digests(join(dir, 'plain')));
    // A failure of the device in the middle, with another linear under way: its work is kept, and what goes on from it has the same bytes.
    const failing = { ...env, LOWBIT_FAKE_CUDA: 'fail=cuLaunchKernel/700/40' };
    const stopped = await lowbitJson(on('@lowbit/kernels-cuda', 'again', '--resume'), { env: failing, cwd });
    expect(stopped.json.error).toMatchObject({ code: 'ERR_DEVICE' });
    const resumed = await lowbitJson<{ resumed: number }>(on('@lowbit/kernels-cuda', 'again', '--resume'), { env, cwd });
    expect(resumed.json.resumed).toBeGreaterThan(0);
    expect(digests(join(dir, 'again'))).toEqual(digests(join(dir, 'plain')));
  });

  it('has been done by the kernels', (context) => {
    here(context);
    const run = new Set(
      readFileSync(log, 'utf8')
        .split('\n')
        .map((line) => line.split(' ')[0]),
    );
    expect([...run].sort()).toEqual([
      '',
      'bnb_absmax',
      'bnb_clipped',
      'bnb_four_bit',
      'bnb_int8',
      'bnb_nested',
      'bnb_scale_search',
      'flute_pack',
      'higgs_code',
      'hqq_finish',
      'hqq_least_squares',
      'hqq_min_max',
      'hqq_pack',
      'hqq_proximal',
      'hqq_scale_search',
      'sum_columns',
    ]);
  });
});
