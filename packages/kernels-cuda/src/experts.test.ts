// Mixtures of experts in every format that has a way of its own, against the reference.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Backend, type Format, type QuantizedTensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { cuda } from './cuda.ts';

async function logits(backend: Backend, { program, weights }: TinyDecoder): Promise<Float32Array> {
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  using executable = await backend.compile(program, linears, { contextLength: 32 });
  const id = executable.open();
  const tokens = Uint32Array.of(3, 14, 15, 9, 26);
  const { logits: rows } = await executable.step([{ id, tokens, wanted: Uint32Array.of(0, 1, 2, 3, 4) }]);
  return toFloat32(rows!);
}

const affine = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const rotated = { kind: 'codebook', bits: 4, dim: 2, group: 64, table: 't', scale: 'f32', packing: 'u8' } as const;
const single = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 't', scale: 'f32', packing: 'row_bits4' } as const;
const nf4 = { kind: 'codebook', bits: 4, dim: 1, group: 32, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' } as const;
const int8: Format = { kind: 'int8', threshold: 0 };

describe('experts', () => {
  it.for<readonly [string, Format, number]>([
    ['affine', affine, 1e-3],
    ['rotated', { ...rotated, rotate: { kind: 'hadamard', block: 32 } }, 1e-3],
    ['rotated, in a basis of their own for each 64', { ...rotated, scale: 'f16', rotate: { kind: 'hadamard', block: 64 } }, 1e-3],
    ['rotated, of single codes of 4 bits', { ...single, rotate: { kind: 'hadamard', block: 64 } }, 1e-3],
    ['affine of 3 bits', { ...affine, levels: 8, packing: '3bit_32' }, 1e-3],
    ['NF4', nf4, 1e-3],
    ['groups of 8, which no fast product takes', { ...affine, group: 8 }, 1e-3],
    ['int8', int8, 1e-3],
  ])('%s', async ([, format, tolerance], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using reference = await referenceBackend().open();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const decoder = tinyDecoder(format, { experts: 5 });
    const [got, expected] = [await logits(backend, decoder), await logits(reference, decoder)];
    const largest = Math.max(...expected.map(Math.abs));
    for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(tolerance * largest);
  });

  it('of formats that read their input in different ways are refused', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const decoder = tinyDecoder(affine, { experts: 3 });
    const weights = decoder.weights.map((weight, i) => (i === 6 ? sampleWeight(int8, weight.shape) : weight));
    await expect(logits(backend, { ...decoder, weights })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
  });
});

const EXPERTS = 5;
const WIDTH = 64;

/** Two products of experts whose router is an input, [tokens, 5]: 64 to 80 numbers, and back. */
function mixture(format: Format): TinyDecoder {
  const b = new ProgramBuilder({ layers: 1 });
  const weights: QuantizedTensor[] = [];
  const list = (name: string, shape: readonly [number, number]): number[] =>
    Array.from({ length: EXPERTS }, (_, i) => {
      weights.push(sampleWeight(format, shape, 20 + weights.length));
      return b.addLinear(`${i}.${name}`, shape, { use: 'linear' });
    });
  b.layer = 0;
  const all = b.input('x', { width: WIDTH + EXPERTS });
  const [x, logits] = [b.slice(all, { offset: 0, width: WIDTH }), b.slice(all, { offset: WIDTH, width: EXPERTS })];
  const { ids, weights: shares } = b.route(logits, { topK: 2, scoring: 'softmax', normalize: true });
  const up = b.activate(b.expertLinear(x, ids, list('up', [96, WIDTH])), 'relu');
  b.output('out', b.combine(b.expertLinear(up, ids, list('down', [WIDTH, 96])), shares));
  return { program: b.build(), weights };
}

/** Of a router that prefers for token t experts first(t) and second(t). */
function routed(tokens: number, [first, second]: readonly [(t: number) => number, (t: number) => number]): Float32Array {
  const x = toFloat32(seededTensor(11, [tokens, WIDTH + EXPERTS], 1)).slice();
  for (let t = 0; t < tokens; t++) {
    for (let e = 0; e < EXPERTS; e++) x[t * (WIDTH + EXPERTS) + WIDTH + e] = e === first(t) ? 3 : e === second(t) ? 2 : -1;
    // Outliers, in columns of their own.
    if (t % 3 === 0) x[t * (WIDTH + EXPERTS) + ((7 * t) % WIDTH)] = 9;
  }
  return x;
}

async function mixed(
  backend: Backend,
  { program, weights }: TinyDecoder,
  ...steps: readonly Float32Array[]
): Promise<readonly Float32Array[]> {
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  using executable = await backend.compile(program, linears, { contextLength: 256 });
  const results: Float32Array[] = [];
  for (const x of steps) {
    const tokens = x.length / (WIDTH + EXPERTS);
    const id = executable.open();
    const inputs = { x: { dtype: 'f32', shape: [tokens, WIDTH + EXPERTS], data: new Uint8Array(x.slice().buffer) } as const };
    const { out } = await executable.step([{ id, tokens: new Uint32Array(tokens), inputs }]);
    executable.close(id);
    results.push(toFloat32(out!).slice());
  }
  return results;
}

describe('experts of a prompt', () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-experts-'));
  afterAll(() => rmSync(dir, { recursive: true }));

  it.for<readonly [string, Format, string]>([
    ['affine', affine, 'mma_experts'],
    ['affine of 3 bits', { ...affine, levels: 8, packing: '3bit_32' }, 'mma_experts'],
    ['NF4', nf4, 'mma_experts'],
    ['pairs, rotated', { ...rotated, scale: 'f16', group: 32, rotate: { kind: 'hadamard', block: 32 } }, 'wide_experts'],
    ['single codes, rotated and filled up', { ...single, rotate: { kind: 'hadamard', block: 128 } }, 'wide_experts'],
    ['groups along columns', { ...affine, axis: 0 }, 'wide_experts'],
    ['dense bf16', { kind: 'dense', dtype: 'bf16' }, 'wide_experts'],
    ['dense f32', { kind: 'dense', dtype: 'f32' }, 'wide_experts'],
    ['int8', int8, 'int8_experts'],
    ['int8 with outliers', { kind: 'int8', threshold: 6 }, 'int8_experts'],
    ['groups of 4, which no tensor core takes', { ...affine, group: 4 }, 'expert_product'],
  ])('%s: odd numbers of rows, experts that none reaches, all on one', async ([, format, kernel], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    const log = join(dir, 'launches');
    rmSync(log, { force: true });
    pretend({ log });
    await using reference = await referenceBackend().open();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const of = mixture(format);
    const spread = routed(37, [(t) => (3 * t + (t >> 2)) % 5, (t) => (3 * t + (t >> 2) + 1 + (t % 2)) % 5]);
    const one = routed(35, [() => 3, () => 1]);
    const width = WIDTH + EXPERTS;
    const steps = [spread, one, spread.slice(5 * width, 8 * width), one.slice(0, width), spread.slice(0, 2 * width), spread];
    const [got, expected] = [await mixed(backend, of, ...steps), await mixed(reference, of, ...steps)];
    for (const [s, rows] of expected.entries()) {
      const largest = Math.max(...rows.map(Math.abs));
      // A code of int8's activations is one of 255: the second product rounds what the first leaves.
      const tolerance = format.kind === 'int8' ? 1e-2 : 2e-5;
      for (const [i, value] of rows.entries()) expect(Math.abs(got[s]![i]! - value), `step ${s}, ${i}`).toBeLessThan(tolerance * largest);
    }
    // The bytes of a row are the same whatever the rows beside it, and in every run.
    expect(got[2]).toEqual(got[0]!.slice(5 * WIDTH, 8 * WIDTH));
    expect(got[5]).toEqual(got[0]);
    const launches = readFileSync(log, 'utf8').split('\n');
    const [tiles, each] = [kernel, 'group_rows'].map((name) => launches.filter((line) => line.startsWith(`${name} `)).length);
    if (kernel === 'expert_product') expect([tiles, each]).toEqual([12, 0]);
    // Four steps of more than two tokens: rows are put in order for both products, which read them in different ways.
    else expect([tiles, each]).toEqual([8, 8]);
  });

  it('of different widths of codes: each by what takes them all', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    await using reference = await referenceBackend().open();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const of = mixture(affine);
    const weights = of.weights.map((weight, i) =>
      i % 3 === 0 ? sampleWeight({ ...affine, levels: 256, packing: '8bit_u8' }, weight.shape, i) : weight,
    );
    const x = routed(9, [(t) => t % 5, (t) => (t + 2) % 5]);
    const [[got], [expected]] = [await mixed(backend, { ...of, weights }, x), await mixed(reference, { ...of, weights }, x)];
    const largest = Math.max(...expected!.map(Math.abs));
    for (const [i, value] of expected!.entries()) expect(Math.abs(got![i]! - value)).toBeLessThan(2e-5 * largest);
  });
});
