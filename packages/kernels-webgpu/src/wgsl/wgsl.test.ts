// The WGSL of some kernels as it is handed to a device, to be read in reviews: a fused product, products of a row that is rotated or rounded on the way in, attention in a window, keys into a cache; and what they, a
// product of many rows and the choice of the largest numbers are on a device with more than the core of WebGPU.
import { expect, it } from 'vitest';
import { planLayout } from '../layout.ts';
import { attentionKernel } from './attention.ts';
import { ACTIVATED } from './floats.ts';
import { gemmKernel } from './gemm.ts';
import { int8RowsKernel } from './int8.ts';
import { CORE, type Kernel, type Variant } from './kernel.ts';
import { stretchKernel } from './largest.ts';
import { productKernel } from './product.ts';
import { exactKernel } from './quantize.ts';
import { appendKernel } from './rope.ts';
import { stagedKernel } from './staged-product.ts';
import { kindOf, roundedQuad } from './weight.ts';

const affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const limits = { binding: 2 ** 27, workgroup: 16384 };
const weight = kindOf(planLayout(affine, [64, 128], [], limits), { bias: false });

const gateUp = productKernel({
  rows: 1,
  weights: [weight, weight],
  norm: { kind: 'rms', weight: true, bias: false },
  end: { gate: 'silu' },
});
const rotating = { kind: 'codebook', bits: 4, dim: 2, group: 256, table: 'sample', scale: 'f16', packing: 'u8' } as const;
const pairs = kindOf(planLayout({ ...rotating, rotate: { kind: 'hadamard', block: 512 } }, [64, 512], [], limits), { bias: false });
const rms = { kind: 'rms', weight: true, bias: false } as const;
const rotated = stagedKernel({ stage: { kind: 'rotate', run: 512 }, weights: [pairs, pairs, pairs], norm: rms, end: 'store' });
const bytes = kindOf(planLayout({ kind: 'int8', threshold: 6 }, [64, 128], [], limits), { bias: true });
const int8 = stagedKernel({ stage: { kind: 'int8', outliers: true }, weights: [bytes], end: 'add' });
const attention = attentionKernel({ keyDim: 64, valueDim: 64, cache: 'f16', causal: true, window: true, softcap: true, bias: 'none' });
const fresh = attentionKernel({
  ...{ keyDim: 64, valueDim: 64, cache: 'f16', causal: true, window: false, softcap: false, bias: 'none' },
  fresh: { q: 'half', k: 'half' },
});
const subgroups = { subgroups: true, f16: false };
const f16 = { subgroups: false, f16: true };

it.for<readonly [string, Kernel, Variant]>([
  ['gate-up', gateUp, CORE],
  ['gate-up.subgroups', gateUp, subgroups],
  ['gate-up.f16', gateUp, f16],
  ['attention', attention, CORE],
  ['attention.subgroups', attention, subgroups],
  ['attention.fresh', fresh, CORE],
  ['rotated', rotated, CORE],
  ['int8', int8, CORE],
  ['append', appendKernel({ dtype: 'f16', q: 'half', k: 'half' }), CORE],
  ['gemm.f16', gemmKernel(weight, { end: 'store' }), f16],
  ['largest.subgroups', stretchKernel(), subgroups],
])('%s', async ([name, kernel, variant]) => {
  await expect(kernel.code(variant)).toMatchFileSnapshot(`./snapshots/${name}.wgsl`);
});

it('a feature is asked for where code uses it, not where a comment names it', () => {
  const exact = exactKernel('exact', [], '', 'let half = to_f16(0u);');
  expect(exact.code()).toContain('// Rounded to f16');
  for (const variant of [CORE, subgroups, f16]) expect(exact.code(variant)).not.toMatch(/^enable /m);
  expect(gateUp.code(f16)).toMatch(/^enable f16;/m);
  expect(gateUp.code(CORE)).not.toMatch(/^enable /m);
});

it('NaN is found by bits: that a number is not itself may be taken for false, and so may what follows from an order', () => {
  for (const kernel of [int8, rotated, int8RowsKernel({ outliers: true, shared: true })])
    expect(kernel.code()).not.toMatch(/\b(\w+) != \1\b/);
  for (const dtype of ['f16', 'bf16'] as const) expect(roundedQuad(0, dtype)).not.toMatch(/ [<>]=? (?!vec4<i32>)/);
  for (const activated of Object.values(ACTIVATED)) expect(activated).not.toMatch(/\b(\w+) != \1\b/);
});
