// Arithmetic in whole numbers on the GPU against that of JavaScript, bit by bit: numbers of all magnitudes, ties, subnormals, and those that are not finite.
import { roundTo, toFloat32 } from '@lowbit/core';
import { seeded } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../../fixtures/webgpu.ts';
import { findAdapter, findGpu, requestDevice } from '../adapter.ts';
import { Machine } from '../device.ts';
import { power } from '../routines/power.ts';
import { runTasks } from '../routines/work.ts';
import { exactKernel } from './quantize.ts';
import { POWER } from './quantize-hqq.ts';

const missing = await noWebGpu();
const COUNT = 4096;

const bits32 = new Uint32Array(1);
const float32 = new Float32Array(bits32.buffer);
const floatOf = (bits: number): number => {
  bits32[0] = bits;
  return float32[0]!;
};

/** Pairs of f32: any bits; near one another; small integers and their halves, where ties are; subnormals; special ones. */
function pairs(): Float32Array {
  const next = seeded(17);
  const special = [
    0,
    -0,
    1,
    -1,
    0.5,
    1.5,
    2.5,
    2 ** -149,
    -(2 ** -126),
    2 ** 127,
    3.4028234663852886e38,
    Number.POSITIVE_INFINITY,
    Number.NaN,
    3,
    7,
  ];
  const values = new Float32Array(2 * COUNT);
  for (let i = 0; i < COUNT; i++) {
    const any = (): number => floatOf(Math.floor(next() * 2 ** 32));
    const kind = i % 5;
    const a =
      kind < 2
        ? any()
        : kind === 2
          ? (Math.floor(next() * 64) - 32) / 4
          : kind === 3
            ? floatOf(Math.floor(next() * 2 ** 24))
            : special[i % special.length]!;
    const b =
      kind === 0
        ? any()
        : kind === 1
          ? a * (1 + (next() - 0.5) * 2 ** -20)
          : kind === 2
            ? (Math.floor(next() * 64) - 32) / 4
            : kind === 3
              ? next()
              : special[Math.floor(i / 7) % special.length]!;
    values.set([a, kind === 1 && i % 2 ? -b : b], 2 * i);
  }
  return values;
}

/** Words that an expression of a and b (bits of f32) gives, for all pairs. */
async function computed(values: Float32Array, expression: string, declarations = ''): Promise<Uint32Array> {
  const device = await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
  const machine = new Machine(device, 'test', { own: true });
  const kernel = exactKernel(
    `test ${expression}`,
    ['begin', 'to'],
    declarations,
    `
  let a = step[P.begin + 2u * n];
  let b = step[P.begin + 2u * n + 1u];
  let result: vec2<u32> = ${expression};
  kv[P.to + 2u * n] = result.x;
  kv[P.to + 2u * n + 1u] = result.y;`,
  );
  const count = values.length / 2;
  const [out] = await runTasks(machine, [new Uint8Array(values.buffer)], { outputs: [8 * count] }, ({ inputs, outputs }) => [
    { kernel, values: { count, begin: inputs[0]!, to: outputs[0]! } },
  ]);
  expect(machine.counts).toMatchObject({ buffers: 0, bytes: 0 });
  machine.close('test');
  return new Uint32Array(out!.buffer);
}

async function compare(
  expression: string,
  expected: (a: number, b: number) => number,
  take: (a: number, b: number) => boolean = () => true,
): Promise<void> {
  const values = pairs();
  const got = toFloat32({
    dtype: 'f32',
    shape: [2 * COUNT],
    data: new Uint8Array((await computed(values, `vec2<u32>(${expression}, 0u)`)).buffer),
  });
  let seen = 0;
  for (let i = 0; i < COUNT; i++) {
    const [a, b] = [values[2 * i]!, values[2 * i + 1]!];
    if (!take(a, b)) continue;
    seen++;
    const want = Math.fround(expected(a, b));
    if (!Object.is(got[2 * i], want)) throw new Error(`${expression} of ${a} and ${b}: ${got[2 * i]}, not ${want}`);
  }
  expect(seen).toBeGreaterThan(COUNT / 3);
}

const finite = (a: number, b: number): boolean => Number.isFinite(a) && Number.isFinite(b);

describe('exact arithmetic', () => {
  it.for<readonly [string, string, (a: number, b: number) => number, ((a: number, b: number) => boolean)?]>([
    ['sums', 'f_add(a, b)', (a, b) => a + b, finite],
    ['differences', 'f_sub(a, b)', (a, b) => a - b, finite],
    ['products', 'f_mul(a, b)', (a, b) => a * b],
    ['quotients', 'f_div(a, b)', (a, b) => a / b],
    ['order', 'f_int(u32(above(a, b)))', (a, b) => (a > b ? 1 : 0)],
    ['equality', 'f_int(u32(same(a, b)))', (a, b) => (a === b ? 1 : 0)],
    ['f16', 'to_f16(a)', (a) => roundTo('f16', a), finite],
    ['bf16', 'to_bf16(a)', (a) => roundTo('bf16', a), finite],
    ['codes', 'f_int(f_code(a, 15u))', (a) => Math.min(Math.max(Math.fround(a) + 6755399441055744 - 6755399441055744, 0), 15), finite],
  ])('%s of f32', async ([, expression, expected, take], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await compare(expression, expected, take);
  });

  it.for<readonly [string, string, (x: number, y: number) => number]>([
    ['sums', 'd_add(x, y)', (x, y) => x + y],
    ['differences', 'd_sub(x, y)', (x, y) => x - y],
    ['products', 'd_mul(x, y)', (x, y) => x * y],
    ['quotients', 'd_div(x, y)', (x, y) => x / y],
    ['roots', 'd_sqrt(d_mul(x, x))', (x) => Math.sqrt(x * x)],
    ['roots of odd powers', 'd_sqrt(D(0u, x.e, x.hi, x.lo))', (x) => Math.sqrt(Math.abs(x))],
    [
      'whole numbers below',
      'd_int(d_floor(D(x.neg, x.e % 12, x.hi, x.lo)))',
      (x) => Math.floor(x * 2 ** ((exponent(x) % 12) - exponent(x))) + 0,
    ],
  ])('%s of f64', async ([, expression, expected], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    // Quotients of f32 have all the bits of f64.
    const values = pairs().map((value) => (Number.isFinite(value) && value !== 0 ? value : 3));
    const made = `fn made(a: u32, b: u32) -> vec2<u32> {
  let x = d_div(d_of(a), d_of(b));
  let y = d_div(d_of(b), d_int(3));
  return d_to64(${expression});
}`;
    const got = new DataView((await computed(values, 'made(a, b)', made)).buffer);
    for (let i = 0; i < COUNT; i++) {
      const [a, b] = [values[2 * i]!, values[2 * i + 1]!];
      const want = expected(a / b, b / 3);
      const high = got.getUint32(8 * i, true);
      const low = got.getUint32(8 * i + 4, true);
      const bits = new DataView(new ArrayBuffer(8));
      bits.setUint32(0, high);
      bits.setUint32(4, low);
      if (!Object.is(bits.getFloat64(0), want))
        throw new Error(`${expression} of ${a} / ${b} and ${b} / 3: ${bits.getFloat64(0)}, not ${want}`);
    }
  });

  it('powers are those of the solver', async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const values = pairs().map((value, i) => (i % 2 === 0 ? Math.abs(Number.isFinite(value) && value !== 0 ? value : 0.3) : Math.sin(i)));
    const made = `fn reciprocal(k: u32) -> D { return d_div(d_int(1), d_int(i32(k))); }${POWER}\nfn made(a: u32, b: u32) -> vec2<u32> { return d_to64(power(d_of(a), d_of(b))); }`;
    const got = await computed(values.subarray(0, 512).slice(), 'made(a, b)', made);
    for (let i = 0; i < 256; i++) {
      const bits = new DataView(new ArrayBuffer(8));
      bits.setUint32(0, got[2 * i]!);
      bits.setUint32(4, got[2 * i + 1]!);
      expect(bits.getFloat64(0)).toBe(power(values[2 * i]!, values[2 * i + 1]!));
    }
  });
});

function exponent(x: number): number {
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, x);
  return ((bits.getUint32(0) >>> 20) & 0x7ff) - 1023;
}
