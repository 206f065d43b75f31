import {
  dequantize,
  elements,
  float32Tensor,
  type HostTensor,
  isLowbitError,
  type Matrix,
  memoryReader,
  memoryWriter,
  quantizationError,
  quantize,
  type Routine,
  toFloat32,
} from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../fixtures/golden.ts';
import { hqq } from './hqq.ts';
import { openLayer } from './layer.ts';
import { type HqqBits, type HqqOptions, settings } from './options.ts';
import { callHere, type RoutineName } from './routines.ts';
import { solveHqq } from './solvers/hqq.ts';

interface Case {
  name: string;
  method: string;
  shape: Matrix;
  config: { nbits: HqqBits; group_size: number | null; axis: 0 | 1; optimize: boolean; round_zero: boolean; channel_wise?: boolean };
  tensors: Record<string, string>;
  solver_steps?: number;
  stop_margin?: number;
}

const all = goldenJson<{ cases: Case[] }>('hqq/cases.json').cases.filter(
  (c) => c.method === 'hqq.Quantizer.quantize' && c.tensors?.['expected.codes'],
);
const cases = all.filter((c) => c.config.channel_wise !== false);
/** One grid for the whole tensor, without the solver. Published 3-bit bytes pad by weight rows, and the library cannot read them back. */
const tensorWise = all.filter((c) => c.config.channel_wise === false && c.config.nbits !== 3);
const tensors = goldenTensors('hqq/quantize.safetensors');
const golden = (c: Case, name: string): HostTensor | undefined => tensors.get(c.tensors[name] ?? '');
const words = (t: HostTensor) => elements({ dtype: 'u32', data: t.data });

function optionsOf({ config }: Case): HqqOptions {
  return { bits: config.nbits, groupSize: config.group_size, axis: config.axis, optimize: config.optimize, roundZero: config.round_zero };
}

/** Deterministic bell-shaped weights. */
function bell(count: number, seed = 1): Float32Array {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
  return Float32Array.from({ length: count }, () => (uniform() + uniform() + uniform()) * 0.02);
}

describe('goldens of hqq 0.2.8.post1', () => {
  it('covers every bit width', () => {
    expect(new Set(cases.map((c) => c.config.nbits))).toEqual(new Set([8, 6, 5, 4, 3, 2, 1.58, 1]));
  });

  it.each(cases.map((c) => [c.name, c] as const))('%s', async (_, c) => {
    const q = await quantize(golden(c, 'weight')!, hqq(optionsOf(c)));
    expect(q.parts.codes!.data).toEqual(golden(c, 'expected.W_q')!.data);
    expect(words(q.parts.scale!)).toEqual(words(golden(c, 'expected.scale')!));
    const zero = toFloat32(q.parts.zero!);
    const expected = toFloat32(golden(c, 'expected.zero')!);
    expect(zero.length).toBe(expected.length);
    for (const [i, z] of zero.entries()) {
      const tolerance = c.config.optimize ? Math.max(1e-5 * Math.abs(expected[i]!), 1e-5) : 0;
      expect(Math.abs(z - expected[i]!)).toBeLessThanOrEqual(tolerance);
    }
  });

  it.each(tensorWise.map((c) => [c.name, c] as const))('%s', async (_, c) => {
    const q = await quantize(golden(c, 'weight')!, hqq({ ...optionsOf(c), channelWise: false }));
    expect(q.parts.codes!.data).toEqual(golden(c, 'expected.W_q')!.data);
    expect(words(q.parts.scale!)).toEqual(words(golden(c, 'expected.scale')!));
    expect(words(q.parts.zero!)).toEqual(words(golden(c, 'expected.zero')!));
    for (const dtype of ['f32', 'f16'] as const) {
      expect(dequantize(q, { dtype }).data).toEqual(golden(c, `expected.dequantized_${dtype}`)!.data);
    }
  });

  const solved = cases.filter((c) => c.tensors['solver.errors']);
  it.each(solved.map((c) => [c.name, c] as const))('%s takes the same steps', async (_, c) => {
    const s = settings(optionsOf(c));
    const weight = golden(c, 'weight')!;
    const format = hqq(optionsOf(c)).format(c.shape, 'f32');
    if (format.kind !== 'affine') throw new Error('not affine');
    await using layer = await openLayer(memoryReader('w', weight), format, { budget: Number.POSITIVE_INFINITY }, 'hqq.min-max');
    if (s.solver.name !== 'hqq') throw new Error('another solver');
    const { errors } = await solveHqq(s, s.solver, layer, {});
    const expected = toFloat32(golden(c, 'solver.errors')!);
    expect(errors.length).toBe(c.solver_steps);
    for (const [i, error] of errors.entries()) expect(Math.abs(error - expected[i]!)).toBeLessThanOrEqual(1e-5 * expected[i]!);
  });
});

describe('the table of the specification', () => {
  const shape: Matrix = [8, 16];
  const weight = float32Tensor(
    shape,
    Array.from({ length: 128 }, (_, i) => (((37 * i + 11) % 101) - 50) / 256),
  );
  const scaled = float32Tensor(
    shape,
    toFloat32(weight).map((x) => x * 16),
  );
  const hex = (t: HostTensor) => Buffer.from(t.data).toString('hex');

  it('4 bits, axis 1', async () => {
    const q = await quantize(weight, hqq({ bits: 4, groupSize: 8 }));
    expect(hex(q.parts.codes!)).toBe(
      '097fd52b80f64ca2076dd2288ff43aa0f54ba0066dc2288ff54ca0076ec2198fe53c90f75db2096fc3097fe52b90f64cc0067dd1289ff34a90f75db2096fc42a',
    );
    const zero = [6.995535, 7.995535, 7.001374, 8.03022, 7.978023, 6.982143];
    for (const [i, z] of zero.entries()) expect(Math.abs(toFloat32(q.parts.zero!)[i]! - z)).toBeLessThan(1e-5);
  });

  it('4 bits, axis 0', async () => {
    const q = await quantize(weight, hqq({ bits: 4, groupSize: 8, axis: 0 }));
    expect(hex(q.parts.codes!)).toBe(
      '088fe42a90f55ca0084cc23b7ff53aa0f65dc2077fc32a8ff52a90085dc2087fd33b90f55ca0085dd3077ff62aa0f55da1087fc32a8ff53ba1f55cd3087fd33a',
    );
  });

  it('shrinkage acts on large weights, and kappa then matters', async () => {
    const zeros = async (kappa: number) => {
      const q = await quantize(scaled, hqq({ bits: 2, groupSize: 8, solver: { name: 'hqq', kappa } }));
      return [...toFloat32(q.parts.zero!)].slice(0, 4);
    };
    const close = (got: number[], want: number[]) => {
      for (const [i, w] of want.entries()) expect(Math.abs(got[i]! - w)).toBeLessThan(1e-5);
    };
    close(await zeros(1.01), [1.399973, 1.649973, 1.387965, 1.618734]);
    close(await zeros(1), [1.400061, 1.650061, 1.387791, 1.61856]);
  });
});

describe('streaming', () => {
  // 2.4 M weights: three tiles on either axis
  const shape: Matrix = [1200, 2048];
  const weight = float32Tensor(shape, bell(shape[0] * shape[1]));

  it.each([
    { bits: 4, axis: 1 },
    { bits: 4, axis: 0 },
    { bits: 8, axis: 1 },
    { bits: 3, axis: 1 },
  ] as const)('gives the same bytes without room to keep the weight: %o', async (options) => {
    const quantizer = hqq(options);
    const whole = await quantize(weight, quantizer);
    const reader = memoryReader('w', weight);
    const format = quantizer.format(shape, 'f32');
    const specs = Object.fromEntries(Object.entries(whole.parts).map(([name, { dtype, shape: s }]) => [name, { dtype, shape: s }]));
    const { writer, parts } = memoryWriter(specs);
    let largest = 0;
    let seen = 0;
    const count = (n: number) => {
      seen += n;
    };
    const narrow: typeof reader = {
      ...reader,
      read(from, to, into, at) {
        largest = Math.max(largest, to - from);
        return reader.read(from, to, into, at);
      },
    };
    const error = await quantizer.quantize(narrow, format, writer, { budget: 1 << 20, onWeights: count });
    for (const [name, part] of Object.entries(whole.parts)) expect(Buffer.compare(part.data, parts[name]!.data), name).toBe(0);
    expect(largest).toBeLessThanOrEqual(1 << 20);
    expect(seen).toBe(shape[0] * shape[1]);
    const measured = quantizationError(weight, { format, shape, parts });
    expect(error.squaredError / (shape[0] * shape[1]) / measured.mse).toBeCloseTo(1, 9);
    expect(error.maxAbs).toBe(measured.maxAbs);
  });

  it('lets timers run, so that one can abort it', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    setTimeout(() => controller.abort(reason), 5);
    await expect(quantize(weight, hqq(), { signal: controller.signal })).rejects.toBe(reason);
  });

  it('lets timers run between many short calls, too', async () => {
    const small = float32Tensor([64, 64], bell(4096));
    const signal = AbortSignal.timeout(20);
    const many = async () => {
      for (let i = 0; i < 20_000; i++) await quantize(small, hqq(), { signal });
    };
    await expect(many()).rejects.toMatchObject({ name: 'TimeoutError' });
  });

  it('can be aborted between tiles', async () => {
    const reason = new Error('enough');
    await expect(quantize(weight, hqq(), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('error of what is stored', () => {
  it('counts the rounding of scales to f16', async () => {
    const weight = float32Tensor([64, 256], bell(64 * 256, 7));
    const quantizer = hqq({ bits: 8 });
    const q = await quantize(weight, quantizer, { metaDtype: 'f16' });
    const { writer } = memoryWriter(q.parts);
    const error = await quantizer.quantize(memoryReader('w', weight), q.format, writer, { budget: 1 << 30 });
    const got = quantizationError(weight, q);
    expect(error.maxAbs).toBe(got.maxAbs);
    expect(got.mse).toBeGreaterThan(quantizationError(weight, await quantize(weight, quantizer)).mse);
  });

  it('is at most half a step and a bit, for any weights', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.float({ min: -4, max: 4, noNaN: true }), { minLength: 64, maxLength: 64 }),
        fc.constantFrom(0, 1),
        async (values, axis) => {
          const weight = float32Tensor([4, 16], values);
          const q = await quantize(weight, hqq({ bits: 8, groupSize: 8, axis: axis as 0 | 1, optimize: false }));
          const back = toFloat32(dequantize(q));
          const scales = toFloat32(q.parts.scale!);
          const largest = Math.max(...scales);
          for (const [i, v] of values.entries())
            expect(Math.abs(v - back[i]!)).toBeLessThanOrEqual(Math.max(0.51 * Math.min(largest, 1), 1.1e-4));
        },
      ),
    );
  });
});

describe('a backend may take over routines', () => {
  it('is asked for each by name, and the result is the same', async () => {
    const weight = float32Tensor([64, 128], bell(64 * 128, 3));
    const calls = new Map<string, number>();
    const routine = (name: string): Routine | undefined => {
      if (name === 'hqq.finish') return undefined; // this backend has no version of them
      return async (inputs, params) => {
        calls.set(name, (calls.get(name) ?? 0) + 1);
        return callHere(name as RoutineName, inputs, params);
      };
    };
    const accelerated = await quantize(weight, hqq(), { runtime: { routine } });
    expect([...calls.keys()]).toEqual(['hqq.min-max', 'hqq.proximal-steps']);
    expect(calls.get('hqq.proximal-steps')).toBeGreaterThan(1);
    expect(accelerated).toEqual(await quantize(weight, hqq()));
  });
});

describe('bad input', () => {
  const code = async (run: () => Promise<unknown>) => {
    try {
      await run();
    } catch (error) {
      return isLowbitError(error) ? `${error.code} ${error.message}` : error;
    }
    return 'no error';
  };
  const weight = float32Tensor([6, 20], bell(120));

  it.each([{ group: 32 }, { bit: 8 }, null, 4, [], 'hqq', new Map([['bits', 2]])])('options %j', async (options) => {
    expect(await code(async () => hqq(options as never))).toMatch(
      /^ERR_BAD_ARGUMENT hqq: (there is no option (group|bit)|options must be)/,
    );
  });

  it.each([
    [{ bits: 7 }, 'bits'],
    [{ groupSize: 0 }, 'groupSize'],
    [{ groupSize: 1.5 }, 'groupSize'],
    [{ axis: 2 }, 'axis'],
    [{ solver: { name: 'hqq', iterations: 0 } }, 'solver.iterations'],
    [{ solver: { name: 'hqq', norm: 1.2 } }, 'solver.norm'],
    [{ solver: { name: 'hqq', beta: -1 } }, 'solver.beta'],
    [{ solver: { name: 'hqq', kappa: 0.5 } }, 'solver.kappa'],
    [{ solver: 'sgd' }, 'solver'],
    [{ solver: { kappa: 1.01 } }, 'solver'],
    [{ solver: { name: 'proximal-v2', kappa: 1 } }, 'solver.kappa'],
    [{ solver: { name: 'proximal-v2', tolerance: -1 } }, 'solver.tolerance'],
    [{ solver: { name: 'proximal-slow', iterations: 1 } }, 'solver.iterations'],
    [{ solver: { name: 'least-squares', alternations: 0 } }, 'solver.alternations'],
    [{ release: '0.3' }, 'release'],
    [{ quantScale: 1 }, 'quantScale'],
    [{ bits: '4' }, 'bits'],
    [{ groupSize: '64' }, 'groupSize'],
    [{ optimize: 'false' }, 'optimize'],
    [{ roundZero: 0 }, 'roundZero'],
    [{ channelWise: null }, 'channelWise'],
    [{ channelWise: false, bits: 3 }, 'channelWise'],
    [{ channelWise: false, quantZero: true }, 'channelWise'],
    [{ viewAsFloat: 'f16' }, 'viewAsFloat'],
    [{ solver: null }, 'solver'],
    [{ solver: [] }, 'solver'],
    [{ solver: 'toString' }, 'solver'],
    [{ solver: { name: 'hqq', norm: '0.5' } }, 'solver.norm'],
    [{ solver: { name: 'hqq', beta: '10' } }, 'solver.beta'],
    [{ solver: { name: 'hqq', kappa: true } }, 'solver.kappa'],
    [{ solver: { name: 'hqq', iterations: '20' } }, 'solver.iterations'],
    [{ solver: { name: 'proximal-v2', earlyStop: 1 } }, 'solver.earlyStop'],
    [{ solver: { name: 'proximal-v2', scaleSearch: 'no' } }, 'solver.scaleSearch'],
    [{ solver: { name: 'proximal-v2', tolerance: '0' } }, 'solver.tolerance'],
  ])('%o', async (options, name) => {
    expect(await code(async () => hqq(options as HqqOptions))).toMatch(new RegExp(`^ERR_BAD_ARGUMENT hqq: ${name} cannot be`));
  });

  it.each([
    [{ name: 'hqq', iteration: 5 }, 'iteration'],
    [{ name: 'hqq', tolerance: 0 }, 'tolerance'],
    [{ name: 'proximal-v2', alternations: 8 }, 'alternations'],
    [{ name: 'least-squares', norm: 0.7 }, 'norm'],
  ])('options of solver %o', async (solver, name) => {
    expect(await code(async () => hqq({ solver } as HqqOptions))).toBe(`ERR_BAD_ARGUMENT hqq: there is no option solver.${name}`);
  });

  it('shapes that groups or packing do not divide', async () => {
    expect(await code(() => quantize(weight, hqq({ groupSize: 64 })))).toMatch(/^ERR_UNSUPPORTED_FORMAT.*groups of 64 do not divide/);
    expect(await code(() => quantize(float32Tensor([3, 20], bell(60)), hqq({ groupSize: 20 })))).toMatch(/^ERR_UNSUPPORTED_FORMAT 4bit_u8/);
    expect(await code(() => quantize(weight, hqq({ groupSize: 5, axis: 0 })))).toMatch(/^ERR_UNSUPPORTED_FORMAT 4bit_u8/);
    expect(await code(() => quantize(float32Tensor([3, 20], bell(60)), hqq({ channelWise: false })))).toMatch(
      /^ERR_UNSUPPORTED_FORMAT 4bit_u8/,
    );
    expect(await code(() => quantize(float32Tensor([4], [1, 2, 3, 4]), hqq()))).toMatch(/^ERR_TENSOR_MISMATCH/);
  });

  it('a group that does not fit the budget', async () => {
    const size = 3 << 19;
    const reader = { ...memoryReader('w', float32Tensor([4, 4], bell(16))), shape: [2, size] as const };
    const quantizer = hqq({ bits: 8, groupSize: size });
    const attempt = () => quantizer.quantize(reader, quantizer.format([2, size], 'f32'), { write: async () => {} }, { budget: 1 << 22 });
    expect(await code(attempt)).toMatch(/^ERR_LIMIT w: a group of 1572864 weights/);
  });

  it('NaN, infinity, and scales that do not fit', async () => {
    const broken = toFloat32(weight).slice();
    broken[37] = Number.NaN;
    expect(await code(() => quantize(float32Tensor([6, 20], broken), hqq({ groupSize: 20 })))).toMatch(
      /^ERR_NON_FINITE weight: element 37 is NaN/,
    );
    const narrow = float32Tensor(
      [4, 16],
      Array.from({ length: 64 }, (_, i) => 100 + i * 1e-4),
    );
    expect(await code(() => quantize(narrow, hqq({ groupSize: 16 }), { metaDtype: 'f16' }))).toMatch(
      /^ERR_DTYPE_OVERFLOW weight: a zero of -?\d/,
    );
    expect(await code(() => quantize(narrow, hqq({ groupSize: 16 })))).toBe('no error');
  });
});
