// Every text of a kernel that depends on what a device has, compiled by Tint for a device that has all of it. Dawn's null backend computes nothing: whether
// the numbers are right, the conformance kit says (conformance*.test.ts).
import type { Format } from '@lowbit/core';
import { expect, it } from 'vitest';
import { needs } from '../../../../fixtures/needs.ts';
import { findAdapter, findGpu, requestDevice } from '../adapter.ts';
import { planLayout } from '../layout.ts';
import { attentionKernel } from './attention.ts';
import { gemmKernel } from './gemm.ts';
import { int8ProductKernel, int8RowsKernel } from './int8.ts';
import { CORE, type Kernel, type Variant } from './kernel.ts';
import { mergeKernel, stretchKernel } from './largest.ts';
import { lookUpKernel } from './look-up.ts';
import { normKernel } from './norm.ts';
import { productKernel } from './product.ts';
import { STAGED, type Stage, stagedKernel } from './staged-product.ts';
import { kindOf, type WeightKind } from './weight.ts';

const affine = (levels: number, packing: string, group: number | null, axis: 0 | 1 = 1): Format =>
  ({ kind: 'affine', levels, group, axis, scale: 'f16', zero: 'f16', packing }) as Format;
const FORMATS: Readonly<Record<string, Format>> = {
  'affine 8': affine(256, '8bit_u8', 64),
  'affine 4': affine(16, '4bit_u8', 64),
  'affine 4, short groups': affine(16, '4bit_u8', 16),
  'affine 4, axis 0': affine(16, '4bit_u8', 64, 0),
  'affine 3': affine(8, '3bit_32', 64),
  'affine 2': affine(4, '2bit_u8', 64),
  'affine 1': affine(2, '1bit_u8', 64),
  higgs: {
    ...{ kind: 'codebook', bits: 4, dim: 2, group: 16, table: 'sample', scale: 'f16', packing: 'u8' },
    rotate: { kind: 'hadamard', block: 16 },
  } as Format,
  nf4: { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' },
  int8: { kind: 'int8', threshold: 6 },
  f32: { kind: 'dense', dtype: 'f32' },
  f16: { kind: 'dense', dtype: 'f16' },
  bf16: { kind: 'dense', dtype: 'bf16' },
};
const VARIANTS: readonly Variant[] = [
  CORE,
  { subgroups: true, f16: false },
  { subgroups: false, f16: true },
  { subgroups: true, f16: true },
];

function* kernelsOf(weight: WeightKind): Generator<Kernel> {
  if (weight.kind === 'int8') {
    for (const outliers of [false, true]) {
      yield int8RowsKernel({ outliers, shared: outliers });
      for (const experts of [false, true]) yield int8ProductKernel(weight, { outliers, experts });
      yield* stagedKernels({ kind: 'int8', outliers }, weight);
    }
    return;
  }
  if (weight.table > 0) for (const run of [4, 512, STAGED.piece]) yield* stagedKernels({ kind: 'rotate', run }, weight);
  for (const end of ['store', 'add'] as const) {
    yield gemmKernel(weight, { end });
    for (const rows of [1, 4]) yield productKernel({ rows, weights: [weight], end });
  }
  yield lookUpKernel(weight);
  yield productKernel({ rows: 1, weights: [weight], end: 'store', experts: true });
  yield productKernel({ rows: 4, weights: [weight, weight], norm: { kind: 'layer', weight: true, bias: true }, end: { gate: 'silu' } });
  yield productKernel({ rows: 1, weights: [weight, weight, weight], norm: { kind: 'rms', weight: true, bias: false }, end: 'store' });
}

function* stagedKernels(stage: Stage, weight: WeightKind): Generator<Kernel> {
  const norm = { kind: 'layer', weight: true, bias: true } as const;
  yield stagedKernel({ stage, weights: [weight, weight, weight], norm: { ...norm, kind: 'rms' }, end: 'store' });
  yield stagedKernel({ stage, weights: [weight, weight], norm, end: { gate: 'silu' } });
  yield stagedKernel({ stage, weights: [weight], end: 'add' });
  yield stagedKernel({ stage, weights: [weight], end: 'store', experts: true });
}

function* others(): Generator<Kernel> {
  const plain = { keyDim: 64, valueDim: 80, cache: 'f16', causal: true, window: true, softcap: true, bias: 'none' } as const;
  for (const split of [false, true]) {
    yield attentionKernel({ ...plain, split });
    for (const cache of ['f32', 'f16', 'bf16'] as const)
      yield attentionKernel({ ...plain, cache, split, fresh: { q: 'half', k: 'interleaved' } });
  }
  yield normKernel({ kind: 'layer', weight: 'row', bias: 'row', add: true });
  yield stretchKernel();
  yield mergeKernel();
}

const gpu = await findGpu(['backend=null']).catch((error: unknown) => String(error));

it.for([...Object.entries(FORMATS), ['no weight', undefined] as const])('%s', async ([name, format], context) => {
  needs(context, 'webgpu', typeof gpu !== 'string', `${gpu}`);
  if (typeof gpu === 'string') return;
  const device = await requestDevice(await findAdapter(gpu, { software: true }));
  expect(device.features.has('subgroups') && device.features.has('shader-f16')).toBe(true);
  const list = format ? weightsOf(format).flatMap((weight) => [...kernelsOf(weight)]) : [...others()];
  expect(list.length).toBeGreaterThan(4);
  const texts = { halves: 0, subgroups: 0 };
  for (const kernel of list) {
    for (const variant of VARIANTS) {
      const code = kernel.code(variant);
      if (/\bf16[>(]/.test(code)) texts.halves++;
      if (code.includes('subgroupAdd(') || code.includes('subgroupMax(')) texts.subgroups++;
      expect(!variant.f16 && code.includes('enable f16'), kernel.name).toBe(false);
      expect(!variant.subgroups && code.includes('enable subgroups'), kernel.name).toBe(false);
      device.pushErrorScope('validation');
      const module = device.createShaderModule({ label: kernel.name, code });
      const layout = 'auto' as unknown as object;
      device.createComputePipeline({ label: kernel.name, layout, compute: { module, entryPoint: 'main' } });
      const error = await device.popErrorScope();
      if (error) throw new Error(`${kernel.name} ${JSON.stringify(variant)}: ${error.message}`);
    }
  }
  expect(texts.halves > 0, name).toBe(name.startsWith('affine') || name === 'f16');
  expect(texts.subgroups).toBeGreaterThan(0);
  device.destroy();
});

/** Rows that end with a whole chunk; rows that do not, with a bias. */
function weightsOf(format: Format): readonly WeightKind[] {
  return [128, 160 + 16].map((inp) => {
    const layout = planLayout(format, [64, inp], [], { binding: 2 ** 27, workgroup: 16384 });
    return kindOf(layout, { bias: inp !== 128 });
  });
}
