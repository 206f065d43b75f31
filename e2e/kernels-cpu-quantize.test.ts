// Quantizing with the routines of the native CPU backend: the bytes and the reported errors of the TypeScript, on every instruction set and with 1 to 3
// threads.
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
import { cpu, type Isa } from '@lowbit/kernels-cpu';
import { seeded } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

/** Instruction sets of this machine, each with another number of threads. */
const machines: (readonly [Isa, number])[] = [];
for (const isa of ['avx512', 'avx2', 'scalar'] as const) {
  if ((await cpu({ isa }).probe()).ok) machines.push([isa, 3 - machines.length]);
}

/** Bell-shaped weights with a few large ones, so that the shrinkage acts. */
function weightOf(out: number, inp: number, dtype: 'f32' | 'f16' | 'bf16'): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

/** Channels that differ by a factor of a hundred thousand. */
function importanceOf(inp: number): Importance {
  const next = seeded(inp);
  return {
    kind: 'diagonal',
    moments: float32Tensor(
      [inp],
      Float32Array.from({ length: inp }, () => 10 ** (5 * next() - 3)),
    ),
    rows: 7,
  };
}

/** Mostly zeros, and some numbers that 16 bits hold as subnormals or lose: blocks of zeros, and blocks whose scale is 0. */
function sparse(out: number, inp: number, dtype: 'f32' | 'f16' | 'bf16'): HostTensor {
  const next = seeded(out + inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (i % 700 < 90 ? (next() - 0.5) * 10 ** -(i % 46) : 0));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

describe('quantizing with native routines', () => {
  const runtimeOf = async (isa: Isa | 'auto', threads: number) => {
    const runtime = await createRuntime({ backends: [cpu({ isa, threads })] });
    await runtime.backend('cpu'); // routines are those of opened backends
    return runtime;
  };

  const sameEverywhere = async (
    quantizer: Quantizer,
    weight: HostTensor,
    metaDtype: 'f32' | 'f16' | 'bf16' = 'f32',
    importance?: Importance,
  ): Promise<void> => {
    const run = async (options: QuantizeOptions) => {
      let error: WeightError | undefined;
      const watched = {
        ...quantizer,
        quantize: async (...given: Parameters<Quantizer['quantize']>) => (error = await quantizer.quantize(...given)),
      };
      return { ...(await quantize(weight, watched, { metaDtype, importance, ...options })), error };
    };
    const expected = await run({}).catch((error: Error) => error);
    if (expected instanceof Error) {
      // What no scale fits is refused, with the same words.
      for (const [isa, threads] of machines) {
        await using runtime = await runtimeOf(isa, threads);
        expect(await run({ runtime }).catch((error: Error) => error)).toEqual(expected);
      }
      return;
    }
    for (const [isa, threads] of machines) {
      await using runtime = await runtimeOf(isa, threads);
      const { parts, ...rest } = await run({ runtime });
      expect(rest).toEqual({ format: expected.format, shape: expected.shape, error: expected.error });
      expect(Object.keys(parts)).toEqual(Object.keys(expected.parts));
      for (const [name, part] of Object.entries(expected.parts)) {
        expect(Buffer.compare(parts[name]!.data, part.data), `${name}, ${isa}, ${threads} threads`).toBe(0);
      }
    }
  };

  it.for([
    ['4 bits', { bits: 4 }, [640, 1088], 'f32'],
    ['4 bits of bf16', { bits: 4 }, [96, 320], 'bf16'],
    ['4 bits, axis 0', { bits: 4, axis: 0 }, [192, 144], 'f16'],
    ['4 bits, axis 0, several tiles', { bits: 4, axis: 0 }, [512, 1040], 'bf16'],
    ['one grid for all', { bits: 8, groupSize: null, axis: 0 }, [200, 8], 'bf16'],
    ['8 bits, a group per row', { bits: 8, groupSize: null }, [40, 100], 'f32'],
    ['3 bits', { bits: 3 }, [74, 128], 'f32'],
    ['3 bits, axis 0', { bits: 3, axis: 0 }, [128, 66], 'f32'],
    ['2 bits in groups of 16', { bits: 2, groupSize: 16 }, [60, 80], 'f32'],
    ['1.58 bits', { bits: 1.58, groupSize: 64 }, [48, 192], 'f32'],
    ['1 bit in groups of 200', { bits: 1, groupSize: 200 }, [64, 200], 'f32'],
    ['without the solver', { bits: 4, optimize: false }, [64, 128], 'f32'],
    ['rules of 0.1.8', { bits: 4, release: '0.1.8' }, [64, 128], 'f32'],
    ['proximal-v2', { bits: 4, solver: 'proximal-v2' }, [64, 128], 'f32'],
    ['least squares', { bits: 4, solver: 'least-squares' }, [640, 1088], 'f32'],
    ['least squares, 8 bits of f16', { bits: 8, solver: 'least-squares' }, [37, 192], 'f16'],
    ['least squares, 3 bits of bf16', { bits: 3, solver: 'least-squares' }, [74, 128], 'bf16'],
    ['least squares, 2 bits in groups of 16', { bits: 2, groupSize: 16, solver: 'least-squares' }, [60, 80], 'f32'],
    ['least squares, 4 bits in groups of 32, axis 0', { bits: 4, groupSize: 32, axis: 0, solver: 'least-squares' }, [64, 1040], 'bf16'],
    ['least squares, 4 bits, axis 0', { bits: 4, axis: 0, solver: 'least-squares' }, [192, 144], 'f32'],
    ['least squares, one grid for all', { bits: 4, groupSize: null, axis: 0, solver: 'least-squares' }, [200, 8], 'bf16'],
    ['least squares, a group a row', { bits: 5, groupSize: null, solver: 'least-squares' }, [9, 4001], 'f32'],
    ['least squares, 1 bit', { bits: 1, groupSize: 8, solver: 'least-squares' }, [40, 24], 'f32'],
    ['least squares, 1.58 bits', { bits: 1.58, groupSize: 200, solver: 'least-squares' }, [64, 200], 'f32'],
    ['least squares, three alternations', { bits: 4, solver: { name: 'least-squares', alternations: 3 } }, [64, 128], 'f32'],
  ] as const)('%s: the bytes of the TypeScript', async ([, options, shape, dtype], context) => {
    addon(context);
    const quantizer = hqq(options as never);
    await sameEverywhere(quantizer, weightOf(shape[0], shape[1], dtype));
    if (!quantizer.usesImportance) return;
    for (const metaDtype of ['f16', 'bf16'] as const) {
      await sameEverywhere(quantizer, weightOf(shape[0], shape[1], dtype), metaDtype, importanceOf(shape[1]));
      await sameEverywhere(quantizer, sparse(shape[0], shape[1], dtype), metaDtype, importanceOf(shape[1]));
    }
  });

  it('least squares, any weights: the same bytes and errors', async (context) => {
    addon(context);
    const number = fc.oneof(
      fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 }),
      fc.constantFrom(0, -0, 1e-38, -(2 ** -149), 1, 0.5, -0.25, 3e38, -1e9),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(number, { minLength: 8, maxLength: 720 }),
        fc.constantFrom(8, 5, 4, 3, 2, 1.58, 1),
        fc.constantFrom(8, 24, 240),
        fc.constantFrom(0, 1),
        fc.constantFrom('f32', 'f16', 'bf16'),
        fc.boolean(),
        async (numbers, bits, groupSize, axis, metaDtype, weighed) => {
          const count = Math.floor(numbers.length / groupSize) * groupSize;
          if (count === 0) return;
          const quantizer = hqq({ bits, groupSize, axis, solver: 'least-squares' } as never);
          const weight = float32Tensor([count / 8, 8], Float32Array.from(numbers.slice(0, count)));
          await sameEverywhere(quantizer, weight, metaDtype, weighed ? importanceOf(8) : undefined);
        },
      ),
      { numRuns: 150 },
    );
  });

  it.for([
    ['NF4', nf4(), [96, 320], 'f32'],
    ['NF4 of bf16', nf4(), [700, 900], 'bf16'],
    ['NF4, a short last block of an odd length', nf4({ blockSize: 128 }), [9, 101], 'f16'],
    ['NF4, less than a block', nf4(), [3, 5], 'f32'],
    ['NF4, double quantization', nf4({ doubleQuant: true }), [700, 900], 'f32'],
    ['NF4, double quantization, short', nf4({ doubleQuant: true }), [7, 11], 'bf16'],
    ['FP4', fp4({ blockSize: 4096 }), [130, 333], 'bf16'],
    ['FP4 by the thresholds of CUDA', fp4({ thresholds: 'cuda', blockSize: 32 }), [33, 77], 'f32'],
  ] as const)('%s: the bytes and the error of the TypeScript', async ([, quantizer, shape, dtype], context) => {
    addon(context);
    await sameEverywhere(quantizer, weightOf(shape[0], shape[1], dtype));
    await sameEverywhere(quantizer, { dtype, shape, data: new Uint8Array(weightOf(shape[0], shape[1], dtype).data.length) }); // zeros
  });

  it.for([
    ['rows of several spans', [37, 9001], 'f32'],
    ['bf16', [300, 1100], 'bf16'],
    ['f16, several pieces', [700, 900], 'f16'],
    ['a row longer than a piece', [2, 300_001], 'f32'],
    ['rows of three weights', [9000, 3], 'f32'],
    ['few weights', [16, 100], 'f32'],
    ['one weight', [1, 1], 'bf16'],
  ] as const)('LLM.int8, %s: the bytes and the error of the TypeScript', async ([, shape, dtype], context) => {
    addon(context);
    const weight = weightOf(shape[0], shape[1], dtype);
    await sameEverywhere(int8(), weight);
    await sameEverywhere(int8(), sparse(shape[0], shape[1], dtype));
    for (const factor of [1e-5, 3e-6, 1e-40]) {
      const small = toFloat32(weight).map((value) => value * factor); // rows whose magnitude is a subnormal float16, or none
      await sameEverywhere(int8(), { ...weight, data: writeFloat32(dtype, small) });
    }
  });

  it('LLM.int8: rows that float16 does not have are refused with the same words, or the same bytes', async (context) => {
    addon(context);
    await using runtime = await runtimeOf('auto', 2);
    for (const value of [Number.NaN, -Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 65519, 65520, -1e6]) {
      for (const at of [0, 1100 * 250 + 77, 1100 * 300 - 1]) {
        for (const dtype of ['f32', 'bf16'] as const) {
          const values = toFloat32(weightOf(300, 1100, 'f32')).slice();
          values[at] = value;
          values[1100 * 299] = 1e9; // another failure, in the last row
          const weight = { dtype, shape: [300, 1100], data: writeFloat32(dtype, values) };
          await sameEverywhere(int8({ allowNonFinite: true }), weight);
          const failure = async (options: object) => quantize(weight, int8(), options).catch((error: Error) => error);
          expect(await failure({ runtime })).toEqual(await failure({}));
          expect(await failure({ runtime })).toBeInstanceOf(Error);
        }
      }
    }
  });

  it.for([
    ['4 bits', {}, [128, 1024], 'f32', 'f16'],
    ['4 bits of bf16, several runs', {}, [640, 1100], 'bf16', 'bf16'],
    ['4 bits of f16, rows shorter than a block', {}, [12, 500], 'f16', 'f16'],
    ['4 bits, scalars', { p: 1 }, [128, 600], 'f32', 'bf16'],
    ['3 bits', { bits: 3 }, [512, 320], 'bf16', 'bf16'],
    ['3 bits, scalars, scales of f32', { bits: 3, p: 1 }, [9, 700], 'f32', 'f32'],
    ['2 bits', { bits: 2 }, [256, 512], 'f32', 'f32'],
    ['2 bits, scalars', { bits: 2, p: 1, packing: 'portable' }, [3, 5], 'f32', 'f16'],
    ['3 bits, two tiles of 64', { bits: 3, tile: 64 }, [2048, 64], 'f32', 'f16'],
    ['3 bits, scalars in tiles of 32', { bits: 3, p: 1 }, [1024, 64], 'f32', 'f16'],
    ['2 bits, scalars in tiles of 64', { bits: 2, p: 1, tile: 64 }, [512, 70], 'f32', 'f16'],
    ['2 bits, pairs in tiles of 64', { bits: 2, tile: 64 }, [1024, 70], 'bf16', 'bf16'],
    ['the smallest blocks', { hadamardSize: 8, groupSize: 2 }, [130, 77], 'f16', 'f16'],
    ['blocks of 16', { hadamardSize: 16, groupSize: 16, p: 1 }, [37, 40], 'f32', 'bf16'],
    ['the largest blocks', { hadamardSize: 32768, groupSize: 32768 }, [19, 40_000], 'f32', 'f16'],
  ] as const)('HIGGS, %s: the bytes and the error of the TypeScript', async ([, options, shape, dtype, metaDtype], context) => {
    addon(context);
    const quantizer = higgs(options as HiggsOptions);
    await sameEverywhere(quantizer, weightOf(shape[0], shape[1], dtype), metaDtype);
    await sameEverywhere(quantizer, sparse(shape[0], shape[1], dtype), metaDtype);
  });

  it('HIGGS: weights that no scale fits, and those that are not finite, are refused with the same words', async (context) => {
    addon(context);
    await using runtime = await runtimeOf('auto', 2);
    const failure = async (weight: HostTensor, quantizer: Quantizer, options: QuantizeOptions) =>
      quantize(weight, quantizer, { metaDtype: 'f16', ...options }).catch((error: Error) => error);
    const refused = [
      [Number.NaN, 'ERR_NON_FINITE'],
      [Number.NEGATIVE_INFINITY, 'ERR_NON_FINITE'],
      [3e38, 'ERR_DTYPE_OVERFLOW'],
      [1e8, 'ERR_DTYPE_OVERFLOW'],
    ] as const;
    for (const [value, code] of refused) {
      for (const at of [0, 1100 * 500 + 700, 1100 * 640 - 1]) {
        const values = toFloat32(weightOf(640, 1100, 'f32')).slice();
        values[at] = value;
        values[1100 * 639] = 2e38; // another failure, in the last run
        const weight = float32Tensor([640, 1100], values);
        const found = await failure(weight, higgs(), { runtime });
        expect(found).toEqual(await failure(weight, higgs(), {}));
        expect(found).toMatchObject({ code });
      }
    }
  });

  it('HIGGS, any weights: the same bytes and errors', async (context) => {
    addon(context);
    const number = fc.oneof(
      fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 }),
      fc.constantFrom(0, -0, 1e-38, -(2 ** -149), 1, 0.5, -0.25),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(number, { minLength: 1, maxLength: 700 }),
        fc.constantFrom(2, 3, 4),
        fc.constantFrom(1, 2),
        fc.constantFrom(8, 32, 512),
        fc.constantFrom('f32', 'f16', 'bf16'),
        async (numbers, bits, p, hadamardSize, metaDtype) => {
          const quantizer = higgs({ bits, p, hadamardSize, groupSize: 8 } as HiggsOptions);
          await sameEverywhere(quantizer, float32Tensor([1, numbers.length], Float32Array.from(numbers)), metaDtype);
        },
      ),
      { numRuns: 100 },
    );
  });

  it('NaN and infinity: refused with the same words, or the same bytes', async (context) => {
    addon(context);
    for (const doubleQuant of [false, true]) {
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        for (const at of [0, 77, 64 * 40, 2999]) {
          const values = toFloat32(weightOf(30, 100, 'f32')).slice();
          values[at] = value;
          for (const dtype of ['f32', 'f16', 'bf16'] as const) {
            const weight = { dtype, shape: [30, 100], data: writeFloat32(dtype, values) };
            await sameEverywhere(nf4({ doubleQuant, allowNonFinite: true }), weight);
            await using runtime = await runtimeOf('auto', 2);
            for (const quantizer of [
              nf4({ doubleQuant }),
              hqq({ groupSize: 20 }),
              hqq({ groupSize: 30, axis: 0, optimize: false }),
              hqq({ groupSize: 20, solver: 'least-squares' }),
              hqq({ groupSize: 60, bits: 4, solver: 'least-squares' }),
            ]) {
              const failure = async (options: object) => quantize(weight, quantizer, options).catch((error: Error) => error);
              expect(await failure({ runtime })).toEqual(await failure({}));
              expect(await failure({ runtime })).toMatchObject({ code: 'ERR_NON_FINITE' });
            }
          }
        }
      }
    }
  });

  it('any weights: the same bytes and errors', async (context) => {
    addon(context);
    const number = fc.oneof(
      fc.float({ noNaN: true, noDefaultInfinity: true, min: -1000, max: 1000 }),
      fc.constantFrom(0, -0, 1e-38, -(2 ** -149), 1, 0.5, -0.25),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(number, { minLength: 1, maxLength: 700 }),
        fc.constantFrom(...[nf4({ blockSize: 32 }), fp4(), fp4({ thresholds: 'cuda' }), nf4({ doubleQuant: true, blockSize: 32 })]),
        async (numbers, quantizer) => {
          await sameEverywhere(quantizer, float32Tensor([1, numbers.length], Float32Array.from(numbers)));
        },
      ),
      { numRuns: 60 },
    );
  });

  it('gives the event loop its turns, stops when it is told to, and a backend that is disposed meanwhile ends it', async (context) => {
    addon(context);
    const weight = weightOf(2048, 1024, 'f32'); // eight pieces, three under way
    for (const quantizer of [hqq(), hqq({ solver: 'least-squares' }), nf4(), int8(), higgs()]) {
      const controller = new AbortController();
      await using runtime = await runtimeOf('auto', 2);
      let pieces = 0;
      const onProgress = () => {
        if (++pieces === 2) controller.abort(new Error('enough'));
      };
      await expect(quantize(weight, quantizer, { runtime, signal: controller.signal, onProgress })).rejects.toThrow('enough');
      expect(pieces).toBeLessThan(8);
      const gone = quantize(weight, quantizer, { runtime });
      const backend = await runtime.backend('cpu');
      setImmediate(() => void backend[Symbol.asyncDispose]());
      await expect(gone).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    }
  });

  it('calls them', async (context) => {
    addon(context);
    await using runtime = await runtimeOf('auto', 2);
    const called = new Set<string>();
    const watched = {
      routine: (name: string) => {
        const found = runtime.routine(name);
        if (found) called.add(name);
        return found;
      },
    };
    await quantize(weightOf(64, 128, 'f32'), hqq(), { runtime: watched });
    await quantize(weightOf(64, 128, 'f32'), hqq({ solver: 'least-squares' }), { runtime: watched });
    await quantize(weightOf(128, 128, 'f32'), higgs(), { runtime: watched });
    await quantize(weightOf(64, 128, 'f32'), int8(), { runtime: watched });
    expect([...called].sort()).toEqual([
      'bnb.int8',
      'higgs.code',
      'higgs.pack',
      'hqq.finish',
      'hqq.least-squares',
      'hqq.min-max',
      'hqq.proximal-steps',
    ]);
  });
});
