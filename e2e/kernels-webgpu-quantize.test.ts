// Quantizing with the routines of the WebGPU backend, on the adapter of this machine: the bytes and the reported errors of the TypeScript.
import { fp4, nf4 } from '@lowbit/bnb';
import {
  createRuntime,
  type HostTensor,
  type QuantizeOptions,
  type Quantizer,
  quantize,
  type Runtime,
  toFloat32,
  type WeightError,
  writeFloat32,
} from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { webgpu } from '@lowbit/kernels-webgpu';
import { seeded } from '@lowbit/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../fixtures/webgpu.ts';

type Stored = 'f32' | 'f16' | 'bf16';

/** Bell-shaped weights with a few large ones, so that the shrinkage acts. */
function weightOf(out: number, inp: number, dtype: Stored): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

const missing = await noWebGpu();
const here = (context: { skip(reason: string): void }): void => needs(context, 'webgpu', missing === undefined, missing ?? '');

let runtime: Runtime;
/** Names of the routines that were called. */
const called = new Set<string>();
beforeAll(async () => {
  if (missing !== undefined) return;
  runtime = await createRuntime({ backends: [webgpu(TEST_OPTIONS)] });
  await runtime.backend('webgpu'); // routines are those of opened backends
});
afterAll(() => runtime?.[Symbol.asyncDispose]());

const watched: Pick<Runtime, 'routine'> = {
  routine(name) {
    const routine = runtime.routine(name);
    if (!routine) return undefined;
    return async (...given) => {
      called.add(name);
      return routine(...given);
    };
  },
};

async function same(quantizer: Quantizer, weight: HostTensor, metaDtype: Stored = 'f32'): Promise<void> {
  const run = async (options: QuantizeOptions) => {
    let error: WeightError | undefined;
    const reporting = {
      ...quantizer,
      quantize: async (...given: Parameters<Quantizer['quantize']>) => (error = await quantizer.quantize(...given)),
    };
    return { ...(await quantize(weight, reporting, { metaDtype, ...options })), error };
  };
  const expected = await run({});
  const { parts, ...rest } = await run({ runtime: watched });
  expect(rest).toEqual({ format: expected.format, shape: expected.shape, error: expected.error });
  expect(Object.keys(parts)).toEqual(Object.keys(expected.parts));
  for (const [name, part] of Object.entries(expected.parts)) expect(Buffer.compare(parts[name]!.data, part.data), name).toBe(0);
}

/** The weight times a factor, as it is stored. */
function scaled(weight: HostTensor, factor: number): HostTensor {
  const values = toFloat32(weight).map((value) => value * factor);
  return { ...weight, data: writeFloat32(weight.dtype as Stored, values) };
}

describe('quantizing with routines on the GPU', () => {
  it.for([
    ['4 bits', { bits: 4 }, [48, 192], 'f32'],
    ['4 bits of bf16', { bits: 4 }, [24, 320], 'bf16'],
    ['4 bits, axis 0', { bits: 4, axis: 0 }, [192, 24], 'f16'],
    ['8 bits, a group per row', { bits: 8, groupSize: null }, [40, 100], 'f32'],
    ['3 bits', { bits: 3 }, [37, 128], 'f32'],
    ['2 bits in groups of 16', { bits: 2, groupSize: 16 }, [60, 80], 'f32'],
    ['1.58 bits', { bits: 1.58, groupSize: 64 }, [24, 192], 'f32'],
    ['without the solver', { bits: 4, optimize: false }, [64, 128], 'f32'],
    ['rules of 0.1.8', { bits: 4, release: '0.1.8' }, [32, 128], 'f32'],
    ['proximal-v2', { bits: 4, solver: 'proximal-v2' }, [32, 128], 'f32'],
  ] as const)('HQQ, %s', async ([, options, shape, dtype], context) => {
    here(context);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(hqq(options as never), weight);
    await same(hqq(options as never), { ...weight, data: new Uint8Array(weight.data.length) }); // zeros
    await same(hqq(options as never), scaled(weight, 1e-5));
  });

  it.for([
    ['NF4', nf4(), [96, 320], 'f32'],
    ['NF4 of bf16', nf4(), [70, 900], 'bf16'],
    ['NF4, a short last block of an odd length', nf4({ blockSize: 128 }), [9, 101], 'f16'],
    ['NF4, less than a block', nf4(), [3, 5], 'f32'],
    ['NF4, double quantization', nf4({ doubleQuant: true }), [140, 300], 'f32'],
    ['NF4, double quantization, short', nf4({ doubleQuant: true }), [7, 11], 'bf16'],
    ['FP4', fp4({ blockSize: 4096 }), [130, 333], 'bf16'],
    ['FP4 by the thresholds of CUDA', fp4({ thresholds: 'cuda', blockSize: 32 }), [33, 77], 'f32'],
  ] as const)('%s', async ([, quantizer, shape, dtype], context) => {
    here(context);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(quantizer, weight);
    await same(quantizer, { ...weight, data: new Uint8Array(weight.data.length) }); // zeros
    for (const factor of [1e-38, 1e-42]) await same(quantizer, scaled(weight, factor));
  });

  it.for([
    ['4 bits', higgs(), [6, 1024], 'f32', 'f32'],
    ['4 bits of bf16, rows that are filled up', higgs({ hadamardSize: 64, groupSize: 64 }), [17, 100], 'bf16', 'bf16'],
    ['3 bits, f16', higgs({ bits: 3, hadamardSize: 128, groupSize: 64 }), [9, 256], 'f16', 'f16'],
    ['2 bits of scalars', higgs({ bits: 2, p: 1, hadamardSize: 64, groupSize: 64 }), [12, 128], 'f32', 'bf16'],
  ] as const)('HIGGS, %s', async ([, quantizer, shape, dtype, meta], context) => {
    here(context);
    const weight = weightOf(shape[0], shape[1], dtype);
    await same(quantizer, weight, meta);
    await same(quantizer, { ...weight, data: new Uint8Array(weight.data.length) }, meta); // zeros
    for (const factor of [1e-3, 1e3]) await same(quantizer, scaled(weight, factor), meta);
  });

  it('weights that are not finite are refused with the same words, or have the same bytes', async (context) => {
    here(context);
    for (const [value, at] of [
      [Number.NaN, 3 * 128 + 77],
      [Number.NEGATIVE_INFINITY, 9 * 128 - 1],
    ] as const) {
      const values = toFloat32(weightOf(9, 128, 'f32')).slice();
      values[at] = value;
      const weight: HostTensor = { dtype: 'f32', shape: [9, 128], data: writeFloat32('f32', values) };
      for (const quantizer of [nf4({ allowNonFinite: true }), nf4({ allowNonFinite: true, doubleQuant: true })])
        await same(quantizer, weight);
      for (const quantizer of [nf4(), hqq({ bits: 4 }), higgs({ hadamardSize: 128, groupSize: 64 })]) {
        const failed = async (options: QuantizeOptions) => quantize(weight, quantizer, options).catch((error: Error) => error);
        const found = await failed({ runtime });
        expect(found).toBeInstanceOf(Error);
        expect(found).toEqual(await failed({}));
      }
    }
  });

  it('has been done by the kernels', (context) => {
    here(context);
    expect([...called].sort()).toEqual(['bnb.absmax', 'bnb.four-bit', 'higgs.code', 'hqq.min-max', 'hqq.proximal-steps']);
  });
});
