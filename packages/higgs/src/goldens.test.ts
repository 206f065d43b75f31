// Outputs of transformers' own `quantize_with_higgs` (5.23.0) and FLUTE's packer (0.4.2), compared as their manifest says. Where it starts from stored codes and
// scales (dequantized numbers, results of layers), so do these tests.

import {
  type Codebook,
  createRuntime,
  dequantize,
  elements,
  float32Tensor,
  fluteName,
  fromBf16,
  fromF16,
  type HostTensor,
  hostTensor,
  type Matrix,
  packing,
  type QuantizedTensor,
  quantizationError,
  quantize,
  type Runtime,
  referenceBackend,
  rotatedBasis,
  toFloat32,
} from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../fixtures/golden.ts';
import { storedPoints } from './code-blocks.ts';
import { type Grid, gridOf, type HiggsBits, type HiggsDim } from './grid.ts';
import { higgs } from './higgs.ts';

interface Case {
  readonly name: string;
  readonly bits: HiggsBits;
  readonly p: HiggsDim;
  readonly group_size: number;
  readonly hadamard_size: number;
  readonly dtype: 'float16' | 'bfloat16';
  readonly out: number;
  readonly in: number;
  readonly padded_in: number;
  readonly tile_p: 32 | 64;
  readonly file: string;
  readonly relative_error_t2: number;
}

const { layers } = goldenJson<{ layers: Case[] }>('higgs/cases.json');

/** Scores of all points in float64, for a vector of a block. */
function scores({ points, size, dim }: Grid, vector: readonly number[]): number[] {
  return Array.from({ length: size }, (_, c) =>
    vector.reduce((sum, x, k) => sum + 2 * x * points[dim * c + k]! - points[dim * c + k]! ** 2, 0),
  );
}

/** The normalised, rotated numbers of a block in float64. */
function rotated(weights: Float32Array, row: number, block: number, { in: inp, hadamard_size: size }: Case): Float64Array {
  const values = Float64Array.from({ length: size }, (_, i) => (block * size + i < inp ? weights[row * inp + block * size + i]! : 0));
  const norm = Math.sqrt(values.reduce((sum, w) => sum + w * w, 0));
  for (let h = 1; h < size; h *= 2) {
    for (let i = 0; i < size; i++) {
      if (i & h) continue;
      const [a, b] = [values[i]!, values[i + h]!];
      values[i] = a + b;
      values[i + h] = a - b;
    }
  }
  return values.map((x) => x / norm);
}

function frobenius(a: Float32Array, b: Float32Array): number {
  const square = (x: Float32Array) => x.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(a.map((value, i) => value - b[i]!)) / square(b));
}

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

it('are all there', () => expect(layers.map(({ file }) => file).length).toBe(17));

describe.each(layers.map((c) => [c.name, c] as const))('%s', (name, c) => {
  const golden = goldenTensors(`higgs/${c.file}`);
  const tensor = (key: string): HostTensor => golden.get(key)!;
  const dtype = c.dtype === 'float16' ? 'f16' : 'bf16';
  const weight = tensor('weight');
  const shape: Matrix = [c.out, c.in];
  const quantizer = higgs({ bits: c.bits, p: c.p, groupSize: c.group_size, hadamardSize: c.hadamard_size, tile: c.tile_p });
  const format = quantizer.format(shape, dtype) as Codebook;
  const grid = gridOf(c.bits, c.p);
  /** The layer as Python stored it. */
  const stored: QuantizedTensor = {
    format: { ...format, packing: fluteName(c.bits, c.p, c.tile_p) },
    shape,
    parts: {
      codes: tensor('packed'),
      scale: { ...tensor('scales'), shape: [tensor('scales').shape[0]! * tensor('scales').shape[1]!] },
      table: hostTensor('f32', [grid.size, c.p], storedPoints(grid, dtype)),
    },
  };

  it('codes, but for near ties', async () => {
    const q = await quantize(weight, quantizer, { metaDtype: dtype });
    const columns = c.padded_in / c.p;
    const codes = packing(format.packing).unpack(q.parts.codes!.data, c.out, columns);
    const expected = tensor('codes').data;
    const ties = new Set(elements({ dtype: 'i32', data: tensor('near_ties').data }));
    const differing = [...codes.keys()].filter((i) => codes[i] !== expected[i]);
    expect(differing.filter((i) => !ties.has(i))).toEqual([]);
    const weights = toFloat32(weight);
    for (const i of differing) {
      const [row, column] = [Math.floor(i / columns), (i % columns) * c.p];
      const v = rotated(weights, row, Math.floor(column / c.hadamard_size), c);
      const all = scores(grid, [...v.slice(column % c.hadamard_size, (column % c.hadamard_size) + c.p)]);
      expect(Math.max(...all) - all[codes[i]!]!).toBeLessThan(2e-5);
    }
    if (differing.length === 0) expect(q.parts.codes!.data).toEqual(tensor('packed').data);

    const bits = (t: HostTensor) => elements({ dtype: 'u16', data: t.data });
    const [ours, theirs] = [bits(q.parts.scale!), bits(tensor('scales'))];
    expect(ours.length).toBe(theirs.length);
    const off = ours.map((word, i) => Math.abs(word - theirs[i]!));
    expect(Math.max(...off)).toBeLessThanOrEqual(1);
    expect(off.filter((units) => units > 0).length).toBeLessThanOrEqual(0.01 * off.length);

    if (name.includes('edge')) return; // the figure of these is for orientation
    const { mse } = quantizationError(weight, q);
    const norm = weights.reduce((sum, w) => sum + w * w, 0);
    expect((mse * c.out * c.in) / norm / c.relative_error_t2).toBeCloseTo(1, 5);
  });

  it('tables', () => {
    const pair = elements({ dtype: 'u16', data: tensor('tables2').data });
    const widen = dtype === 'f16' ? fromF16 : fromBf16;
    const points = toFloat32(stored.parts.table!);
    const of = (code: number, k: number) =>
      c.p === 2 ? points[2 * code + k]! : points[k === 0 ? code >> c.bits : code & (2 ** c.bits - 1)]!;
    expect([...pair].map(widen)).toEqual(Array.from(pair, (_, i) => of(i >> 1, i & 1)));
  });

  it('dequantized', () => {
    const rows = tensor('dequant').shape[0]!;
    const r = dequantize(rotatedBasis(stored as QuantizedTensor<Codebook>), { dtype, to: rows });
    const zeros = (t: HostTensor) => toFloat32(t).map((x) => (x === 0 ? 0 : x));
    expect(zeros(r)).toEqual(zeros(tensor('dequant_rotated')));
    const [w, expected] = [toFloat32(dequantize(stored, { to: rows })), toFloat32(tensor('dequant'))];
    for (let row = 0; row < rows; row++) {
      const line = expected.subarray(row * c.in, (row + 1) * c.in);
      const bound = 2e-6 * line.reduce((most, x) => Math.max(most, Math.abs(x)), 0) + 1e-12;
      const worst = line.reduce((most, x, i) => Math.max(most, Math.abs(x - w[row * c.in + i]!)), 0);
      expect(worst).toBeLessThanOrEqual(bound);
    }
  });

  it('results of the layer', async () => {
    const bias = golden.has('bias') ? float32Tensor([c.out], toFloat32(tensor('bias'))) : undefined;
    const backend = await runtime.backend('reference');
    using linear = await backend.prepare(stored, { bias });
    const x = toFloat32(tensor('x'));
    const tokens = tensor('x').shape[0]!;
    const input = backend.alloc({ dtype: 'f32', shape: [tokens, c.in] });
    const output = backend.alloc({ dtype: 'f32', shape: [tokens, c.out] });
    backend.write(input, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
    linear.forward(input, output);
    const y = toFloat32(await backend.read(output));
    expect(frobenius(y, toFloat32(tensor('y')))).toBeLessThanOrEqual(1e-5);
    backend.free(input);
    backend.free(output);
  });
});
