// The WGSL of some kernels as it is handed to a device, to be read in reviews: a fused product, attention in a window, keys into a cache.
import { expect, it } from 'vitest';
import { planLayout } from '../layout.ts';
import { attentionKernel } from './attention.ts';
import type { Kernel } from './kernel.ts';
import { productKernel } from './product.ts';
import { appendKernel } from './rope.ts';
import { kindOf } from './weight.ts';

const affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const limits = { binding: 2 ** 27, workgroup: 16384 };
const weight = kindOf(planLayout(affine, [64, 128], [], limits), { bias: false });

it.for<readonly [string, Kernel]>([
  [
    'gate-up',
    productKernel({ rows: 1, weights: [weight, weight], norm: { kind: 'rms', weight: true, bias: false }, end: { gate: 'silu' } }),
  ],
  ['attention', attentionKernel({ keyDim: 64, valueDim: 64, cache: 'f16', causal: true, window: true, softcap: true, bias: 'none' })],
  ['append', appendKernel({ dtype: 'f16', q: 'half', k: 'half' })],
])('%s', async ([name, { code }]) => {
  await expect(code).toMatchFileSnapshot(`./snapshots/${name}.wgsl`);
});
