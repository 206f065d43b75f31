import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { int8Codec } from '../codecs/int8.ts';
import { elements, toFloat32 } from '../dtype.ts';
import type { QuantizedTensor } from '../spec/format.ts';
import type { HostTensor, Matrix } from '../spec/tensor.ts';
import { float32Tensor } from '../tensor.ts';
import { referenceBackend } from './backend.ts';
import { quantizeInt8Rows } from './int8.ts';

interface Case {
  name: string;
  method: string;
  config: { threshold: number; role?: string; rows?: number };
  tensors: Record<string, string>;
}

const tensors = goldenTensors('bnb/int8.safetensors');
const all = goldenJson<{ cases: Case[] }>('bnb/cases.json').cases;
const golden = (c: Case, name: string): HostTensor | undefined => tensors.get(c.tensors[name] ?? '');
const int8s = (t: HostTensor) => elements({ dtype: 'i8', data: t.data });

const weights = all.filter((c) => c.method === 'bnb.int8_vectorwise_quant' && c.config.role === 'weight');
const activations = all.filter((c) => c.method === 'bnb.int8_vectorwise_quant' && c.config.role === 'activation');
const linears = all.filter((c) => c.method.startsWith('bnb.nn.Linear8bitLt'));

function weightOf(c: Case, codes: string, scale: string, threshold: number): QuantizedTensor {
  const [q, s] = [golden(c, codes)!, golden(c, scale)!];
  return { format: { kind: 'int8', threshold }, shape: q.shape as Matrix, parts: { codes: q, scale: { ...s, shape: [q.shape[0]!] } } };
}

async function forward(weight: QuantizedTensor, x: HostTensor, bias: HostTensor | undefined) {
  await using backend = await referenceBackend().open();
  using linear = await backend.prepare(weight, { bias });
  const rows = x.shape[0]!;
  const input = backend.alloc({ dtype: 'f32', shape: [rows, weight.shape[1]] });
  const output = backend.alloc({ dtype: 'f32', shape: [rows, weight.shape[0]] });
  backend.write(input, float32Tensor([rows, weight.shape[1]], toFloat32(x)).data);
  linear.forward(input, output);
  return { y: toFloat32(await backend.read(output)).slice(), outliers: { ...linear.outliers } };
}

describe('LLM.int8 as bitsandbytes 0.50.2 computes it', () => {
  it('has cases of all kinds', () => {
    expect([weights.length, activations.length, linears.length]).toEqual([11, 15, 26]);
  });

  it.each(weights.map((c) => [c.name, c] as const))('%s: weights', (_, c) => {
    const numbers = int8Codec.dequantize(weightOf(c, 'expected.CB', 'expected.SCB', 0) as Parameters<typeof int8Codec.dequantize>[0]);
    expect(toFloat32(numbers)).toEqual(toFloat32(golden(c, 'expected.dequantized_f32')!));
  });

  it.each(activations.map((c) => [c.name, c] as const))('%s: rows of activations', (_, c) => {
    const x = golden(c, 'x')!;
    const rows = quantizeInt8Rows(toFloat32(x), x.shape[1]!, c.config.threshold);
    expect(rows.codes).toEqual(int8s(golden(c, 'expected.CA')!));
    expect(rows.scale).toEqual(toFloat32(golden(c, 'expected.SCA')!));
    const columns = golden(c, 'expected.outlier_cols');
    expect([...rows.outliers]).toEqual(columns ? [...toFloat32(columns)] : []);
  });

  it.each(linears.map((c) => [c.name, c] as const))('%s: products', async (_, c) => {
    const x = golden(c, 'x')!;
    const weight = weightOf(c, 'state_dict/weight', 'state_dict/SCB', c.config.threshold);
    const rows = quantizeInt8Rows(toFloat32(x), x.shape[1]!, c.config.threshold);
    expect(rows.codes).toEqual(int8s(golden(c, 'expected.CA')!));

    const { y, outliers } = await forward(weight, x, golden(c, 'bias'));
    expect(outliers).toEqual({ products: 1, columns: rows.outliers.length });
    const expected = toFloat32(golden(c, 'derived.output_f64')!);
    // A Python module in 16 bits rounds the weights of outlier columns to its dtype; sums here are of f32 weights.
    const tolerance = x.dtype === 'f32' || rows.outliers.length === 0 ? 2e-6 : x.dtype === 'f16' ? 1e-3 : 8e-3;
    for (const [i, value] of expected.entries()) expect(Math.abs(y[i]! - value)).toBeLessThanOrEqual(tolerance * (1 + Math.abs(value)));
    const python = toFloat32(golden(c, 'expected.output')!);
    const rounding = x.dtype === 'f32' ? 3e-5 : x.dtype === 'f16' ? 2e-3 : 1.6e-2;
    for (const [i, value] of python.entries()) expect(Math.abs(y[i]! - value)).toBeLessThanOrEqual(rounding * (1 + Math.abs(value)));
  });
});

it('gives the product of the paper by hand', async () => {
  // Threshold 6: the column of 8 is computed in floating point; the row beside it has a 0 there in its codes, too.
  const x = float32Tensor([2, 4], [1, -2, 8, 0.5, 0.25, 4, -1, 3]);
  const rows = quantizeInt8Rows(toFloat32(x), 4, 6);
  expect([...rows.outliers]).toEqual([2]);
  expect([...rows.scale]).toEqual([2, 4]);
  expect([...rows.codes]).toEqual([64, -127, 0, 32, 8, 127, 0, 95]);
  const weight: QuantizedTensor = {
    format: { kind: 'int8', threshold: 6 },
    shape: [2, 4],
    parts: {
      codes: { dtype: 'i8', shape: [2, 4], data: new Uint8Array(Int8Array.of(64, -32, 16, 127, -127, 95, 38, -25).buffer) },
      scale: float32Tensor([2], [1, 1]),
    },
  };
  const { y } = await forward(weight, x, undefined);
  const column = [16 / 127, 38 / 127];
  const sums = [12224, -20993, 8513, 8674].map((sum, i) => (sum * (i < 2 ? 2 : 4)) / 16129 + (i < 2 ? 8 : -1) * column[i % 2]!);
  for (const [i, value] of sums.entries()) expect(Math.abs(y[i]! - value)).toBeLessThan(1e-6);
});

it('does not hide what is not a number', async () => {
  const x = float32Tensor([2, 2], [Number.NaN, 1, 1, 1]);
  const weight: QuantizedTensor = {
    format: { kind: 'int8', threshold: 6 },
    shape: [1, 2],
    parts: { codes: { dtype: 'i8', shape: [1, 2], data: Uint8Array.of(1, 2) }, scale: float32Tensor([1], [1]) },
  };
  const { y } = await forward(weight, x, undefined);
  expect(Number.isNaN(y[0])).toBe(true);
  expect(y[1]).toBeCloseTo(3 / 127, 6);
});
