// The native routines against those of @lowbit/higgs: e2e/kernels-cpu-quantize.test.ts quantizes with both. Here is what they refuse.
import { float32Tensor, hostTensor } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { cpu } from './cpu.ts';
import { addon } from './load.node.ts';

let reason = '';
try {
  addon.load();
} catch (error) {
  reason = (error as Error).message;
}

describe('routines of higgs', () => {
  it('refuse weights, blocks, grids and packings that cannot be, and a backend that is gone', async (context) => {
    needs(context, 'kernels-cpu', reason === '', reason);
    const backend = await cpu({ threads: 2 }).open();
    const weights = float32Tensor([30], new Float32Array(30).fill(0.5));
    const points = float32Tensor([2, 1], [-1, 1]);
    const norms = float32Tensor([2], [1, 1]);
    const run = { block: 16, group: 8, dtype: 'bf16', inp: 15, first: 0, blocks: 2 };
    const code = backend.routines!.get('higgs.code')!;
    const bad = { code: 'ERR_BAD_ARGUMENT' };
    const [codes, scales] = await code([weights, points, norms, points], run);
    expect([codes!.data.length, scales!.shape]).toEqual([32, [4]]);
    for (const change of [
      { block: 12 },
      { block: 4, group: 4 },
      { block: 65536, group: 8 },
      { group: 0 },
      { group: 3 },
      { inp: 0 },
      { inp: 31 },
      { blocks: 0 },
      { blocks: 3 },
      { blocks: 2 ** 40 },
      { first: -1 },
      { first: 2 ** 53 },
      { dtype: 'f64' },
    ]) {
      await expect(code([weights, points, norms, points], { ...run, ...change }), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    const many = float32Tensor([257, 1], new Float32Array(257));
    await expect(code([weights, many, float32Tensor([257], new Float32Array(257)), many], run)).rejects.toMatchObject(bad);
    await expect(code([weights, points, float32Tensor([1], [1]), points], run)).rejects.toMatchObject(bad);
    await expect(code([weights, points, norms, norms], { ...run, inp: 2 ** 41 })).rejects.toMatchObject(bad);
    await expect(code([weights, { ...points, shape: [2, 3] }, norms, points], run)).rejects.toMatchObject(bad);
    await expect(code([weights], run)).rejects.toMatchObject(bad);
    await expect(code([{ ...weights, shape: [5, 6] }, points, norms, points], run)).rejects.toMatchObject(bad);
    await expect(code([hostTensor('i32', [30], new Int32Array(30)), points, norms, points], run)).rejects.toMatchObject(bad);
    const pack = backend.routines!.get('higgs.pack')!;
    const codes4 = hostTensor('u8', [128, 6], new Uint8Array(768).fill(3));
    expect((await pack([codes4], { packing: 'flute4_p1_t32' }))[0]!.data).toEqual(new Uint8Array(384).fill(51));
    for (const [shape, name] of [
      [[128, 6], 'flute2_p1_t32'],
      [[128, 6], 'row_bits4'],
      [[128, 5], 'flute4_p1_t32'],
      [[128, 7], 'flute4_p2_t32'],
      [[128, 0], 'flute4_p2_t32'],
    ] as const) {
      await expect(pack([{ ...codes4, shape }], { packing: name }), `${shape} ${name}`).rejects.toMatchObject(bad);
    }
    await expect(pack([codes4], { packing: 'flute5_p1_t32' })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
    await backend[Symbol.asyncDispose]();
    await expect(code([weights, points, norms, points], run)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });
});
