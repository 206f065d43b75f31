// Quantizing with the routines of the CUDA backend, in the emulator: the bytes and the reported errors of the TypeScript.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fp4, int8, nf4 } from '@lowbit/bnb';
import {
  createRuntime,
  type HostTensor,
  type QuantizeOptions,
  type Quantizer,
  quantize,
  toFloat32,
  type WeightError,
  writeFloat32,
} from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { cuda } from '@lowbit/kernels-cuda';
import { seeded } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import { needs } from '../fixtures/needs.ts';

type Stored = 'f32' | 'f16' | 'bf16';

/** Bell-shaped weights with a few large ones, so that the shrinkage acts. */
function weightOf(out: number, inp: number, dtype: Stored): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
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

async function same(quantizer: Quantizer, weight: HostTensor): Promise<void> {
  const run = async (options: QuantizeOptions) => {
    let error: WeightError | undefined;
    const watched = {
      ...quantizer,
      quantize: async (...given: Parameters<Quantizer['quantize']>) => (error = await quantizer.quantize(...given)),
    };
    return { ...(await quantize(weight, watched, { metaDtype: 'f32', ...options })), error };
  };
  const expected = await run({});
  await using runtime = await runtimeOf();
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
  ] as const)('HQQ, %s', { timeout: 60_000 }, async ([, options, shape, dtype], context) => {
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
  ] as const)('%s', { timeout: 60_000 }, async ([, quantizer, shape, dtype], context) => {
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

  it('weights that are not finite are refused with the same words, or have the same bytes', { timeout: 60_000 }, async (context) => {
    here(context);
    for (const value of [Number.NaN, Number.NEGATIVE_INFINITY]) {
      for (const at of [0, 20 * 128 + 77, 33 * 128 - 1]) {
        const values = toFloat32(weightOf(33, 128, 'f32')).slice();
        values[at] = value;
        const weight: HostTensor = { dtype: 'f32', shape: [33, 128], data: writeFloat32('f32', values) };
        for (const quantizer of [nf4({ allowNonFinite: true }), nf4({ allowNonFinite: true, doubleQuant: true })])
          await same(quantizer, weight);
        await using runtime = await runtimeOf();
        for (const quantizer of [nf4(), hqq({ bits: 4 })]) {
          const failure = async (options: QuantizeOptions) => quantize(weight, quantizer, options).catch((error: Error) => error);
          expect(await failure({ runtime })).toEqual(await failure({}));
          expect(await failure({ runtime })).toBeInstanceOf(Error);
        }
      }
    }
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
      'bnb_four_bit',
      'bnb_int8',
      'bnb_nested',
      'hqq_error_sums',
      'hqq_finish',
      'hqq_min_max',
      'hqq_pack',
      'hqq_proximal',
      'sum_columns',
    ]);
  });
});
