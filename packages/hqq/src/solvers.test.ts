// The solvers and rules of the Python library besides its default, against what it computed.

import {
  codecFor,
  elements,
  float32Tensor,
  type HostTensor,
  type Matrix,
  memoryReader,
  memoryWriter,
  quantize,
  toFloat32,
} from '@lowbit/core';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../fixtures/golden.ts';
import { hqq } from './hqq.ts';
import { openLayer } from './layer.ts';
import { type HqqBits, type HqqOptions, settings } from './options.ts';
import type { HqqSolver, SolverName } from './solver-options.ts';
import { solveHqq } from './solvers/hqq.ts';
import { searchBlock } from './solvers/search-block.ts';

interface Case {
  name: string;
  method: string;
  file?: string;
  shape: Matrix;
  config: { nbits: HqqBits; group_size: number; axis: 0 | 1; round_zero: boolean };
  tensors: Record<string, string>;
  solver_steps?: number;
}

function suite(manifest: string, file: string): (Case & { get(name: string): HostTensor })[] {
  const tensors = goldenTensors(`${manifest.replace(/[^/]*$/, '')}${file}`);
  const cases = goldenJson<{ cases: Case[] }>(manifest).cases.filter((c) => c.file === file);
  return cases.map((c) => ({ ...c, get: (name: string) => tensors.get(c.tensors[name]!)! }));
}

const optionsOf = ({ config: c }: Case): HqqOptions => ({ bits: c.nbits, groupSize: c.group_size, axis: c.axis, roundZero: c.round_zero });
const bits = (t: HostTensor) => elements({ dtype: 'u32', data: t.data });

function closeTo(actual: HostTensor, expected: HostTensor, tolerance: (value: number) => number): void {
  const want = toFloat32(expected);
  expect(actual.shape).toEqual(expected.shape);
  for (const [i, value] of toFloat32(actual).entries())
    expect(Math.abs(value - want[i]!)).toBeLessThanOrEqual(tolerance(Math.abs(want[i]!)));
}

describe('v2 and slow of hqq 0.2.8.post1', () => {
  const cases = suite('hqq/cases.json', 'solvers.safetensors');
  it('six of them', () => expect(cases.length).toBe(6));
  it.each(cases)('$name', async (c) => {
    const solver = c.method.replace('hqq optimize_weights_', '').replace('_', '-') as SolverName;
    const q = await quantize(c.get('weight'), hqq({ ...optionsOf(c), solver }));
    expect(q.parts.codes!.data).toEqual(c.get('expected.W_q').data);
    expect(bits(q.parts.scale!)).toEqual(bits(c.get('expected.scale')));
    closeTo(q.parts.zero!, c.get('expected.zero'), (zero) => 1e-4 * Math.max(1, zero));
  });

  it('v2 takes a step that was none back, hqq does not', async () => {
    const c = cases.find((one) => one.name === 'v2-b4-a1-normal')!;
    const one = async (solver: HqqSolver) => (await quantize(c.get('weight'), hqq({ ...optionsOf(c), solver }))).parts.zero!;
    expect(await one('proximal-v2')).not.toEqual(await one('proximal-slow'));
    expect(await one({ name: 'proximal-v2', earlyStop: false, iterations: 100 })).toEqual(await one('proximal-slow'));
    // A step must gain more than the tolerance: with an endless one even the first does not, and the starting zeros are rounded at 4 bits.
    const start = toFloat32(await one({ name: 'proximal-v2', tolerance: 1e9 }));
    expect(start.every(Number.isInteger)).toBe(true);
  });
});

describe('hqq 0.1.8', () => {
  const cases = suite('hqq/old-0.1.8/cases.json', 'kappa.safetensors');
  it('eight of them', () => expect(cases.length).toBe(8));
  it.each(cases)('$name', async (c) => {
    const quantizer = hqq({ ...optionsOf(c), release: '0.1.8' });
    const q = await quantize(c.get('weight'), quantizer);
    expect(q.parts.codes!.data).toEqual(c.get('expected.W_q').data);
    expect(bits(q.parts.scale!)).toEqual(bits(c.get('expected.scale')));
    closeTo(q.parts.zero!, c.get('expected.zero'), (zero) => Math.max(1e-5 * zero, 1e-5));
    const s = settings({ ...optionsOf(c), release: '0.1.8' });
    const format = quantizer.format(c.shape, 'f32');
    if (format.kind !== 'affine' || s.solver.name !== 'hqq') throw new Error('unexpected');
    await using layer = await openLayer(memoryReader('w', c.get('weight')), format, { budget: Number.POSITIVE_INFINITY }, 'hqq.min-max');
    const { errors } = await solveHqq(s, s.solver, layer, {});
    expect(errors.length).toBe(c.solver_steps);
  });

  it('has no rule for small ranges', async () => {
    const weight = float32Tensor([2, 8], [...new Float32Array(8).fill(2), ...Array.from({ length: 8 }, (_, i) => 1 + i * 1e-5)]);
    const scales = async (release: '0.1.8' | '0.2.8') =>
      toFloat32((await quantize(weight, hqq({ groupSize: 8, optimize: false, release }))).parts.scale!);
    expect([...(await scales('0.2.8'))]).toEqual([1, 1]);
    expect([...(await scales('0.1.8'))]).toEqual([Math.fround(5e-5), Math.fround(5e-5)]);
    const q = await quantize(weight, hqq({ groupSize: 8, optimize: false, release: '0.1.8' }));
    expect(toFloat32(q.parts.zero!)[0]).toBe(-40000); // within f16 here, infinity in Python's NaN of dropbox/hqq#159
  });
});

describe('scale search', () => {
  it('takes the best of the candidates, the own scale among them', () => {
    const size = 16;
    const weights = seededFloats(4, 8 * size, 0.1);
    const inverse = Float32Array.from({ length: 8 }, (_, i) => 20 + i);
    const zero = new Float32Array(8).fill(1.5);
    const found = inverse.slice();
    searchBlock({ weights, groups: 8, size }, 4, 1.25, found, zero);
    const error = (g: number, own: number, s: number) => {
      let sum = 0;
      for (const w of weights.subarray(g * size, (g + 1) * size)) {
        const q = Math.min(Math.max(Math.round(w * own + zero[g]!), 0), 3);
        sum += Math.abs(w - (q - zero[g]!) / s);
      }
      return sum;
    };
    for (const [g, own] of inverse.entries()) {
      const all = Array.from({ length: 129 }, (_, i) => error(g, own, own + ((i - 64) / 64) * 1.25));
      expect(error(g, own, found[g]!)).toBeCloseTo(Math.min(...all), 5);
      expect(error(g, own, found[g]!)).toBeLessThanOrEqual(error(g, own, own) + 1e-6);
    }
  });

  it('works on both axes', async () => {
    const weight = float32Tensor([32, 64], seededFloats(9, 2048, 0.1));
    for (const axis of [0, 1] as const) {
      const q = await quantize(weight, hqq({ bits: 2, axis, groupSize: 32, solver: { name: 'proximal-v2', scaleSearch: true } }));
      const plain = await quantize(weight, hqq({ bits: 2, axis, groupSize: 32, solver: 'proximal-v2' }));
      expect(q.parts.scale).not.toEqual(plain.parts.scale);
    }
  });
});

describe('every solver gives the same bytes without room to keep the weight', () => {
  // 2.1 M weights: two tiles or more on either axis
  const shape: Matrix = [1040, 2048];
  const weight = float32Tensor(shape, seededFloats(1, shape[0] * shape[1], 0.05));
  const names: readonly SolverName[] = ['proximal-v2', 'least-squares'];
  const options = names.flatMap((solver) => [0, 1].map((axis): HqqOptions => ({ bits: 2, groupSize: 16, axis: axis as 0 | 1, solver })));
  it.each([...options, { ...options[3], quantScale: true, quantZero: true }])('%o', async (one) => {
    const quantizer = hqq(one);
    const whole = await quantize(weight, quantizer);
    const { writer, parts } = memoryWriter(whole.parts);
    await quantizer.quantize(memoryReader('w', weight), quantizer.format(shape, 'f32'), writer, { budget: 1 << 20 });
    for (const [name, part] of Object.entries(whole.parts)) expect(Buffer.compare(part.data, parts[name]!.data), name).toBe(0);
  });

  it.each([
    ['least-squares', 1],
    [undefined, 1],
    ['proximal-v2', 3],
  ] as const)('%s without room to keep the weight: passes over it, %d at least', async (solver, passes) => {
    const quantizer = hqq({ axis: 0, groupSize: 16, ...(solver ? { solver } : { optimize: false }) });
    const reader = memoryReader('w', weight);
    let read = 0;
    const counted: typeof reader = {
      ...reader,
      read(from, to, into, at) {
        read += to - from;
        return reader.read(from, to, into, at);
      },
    };
    const format = quantizer.format(shape, 'f16');
    const { writer } = memoryWriter(codecFor(format).parts(format, shape));
    await quantizer.quantize(counted, format, writer, { budget: 1 << 20 });
    const times = read / (shape[0] * shape[1]);
    if (passes === 1) expect(times).toBe(1);
    else expect(times).toBeGreaterThanOrEqual(passes);
  });
});
