// The native routines against those of @lowbit/hqq: e2e/kernels-cpu.test.ts quantizes with both. Here is what a routine refuses.
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

describe('routines of hqq', () => {
  it('refuse tiles and packings that do not fit, and a backend that is gone', async (context) => {
    needs(context, 'kernels-cpu', reason === '', reason);
    const backend = await cpu({ threads: 2 }).open();
    const weights = float32Tensor(
      [4, 16],
      Float32Array.from({ length: 64 }, (_, i) => Math.sin(i)),
    );
    const ones = float32Tensor([4], [1, 1, 1, 1]);
    const rules = { levels: 16, roundZero: false, smallRange: true };
    const minMax = backend.routines!.get('hqq.min-max')!;
    const finish = backend.routines!.get('hqq.finish')!;
    const bad = { code: 'ERR_BAD_ARGUMENT' };
    await expect(minMax([hostTensor('i32', [4, 16], new Int32Array(64))], rules)).rejects.toMatchObject(bad);
    await expect(minMax([{ ...weights, shape: [5, 16] }], rules)).rejects.toMatchObject(bad);
    await expect(minMax([weights], { ...rules, levels: 300 })).rejects.toMatchObject(bad);
    const tile = { packing: '4bit_u8', axis: 1, size: 16, wordRows: 2, extent: 2, laneGroups: [2, 2] };
    expect((await finish([weights, ones, ones], { levels: 16, tile }))[0]!.data.length).toBe(32);
    for (const change of [
      { laneGroups: [2, 3] },
      { laneGroups: [3, 1] },
      { laneGroups: [4] },
      { axis: 0, extent: 3 },
      { axis: 0, wordRows: 7, extent: 4 },
    ]) {
      await expect(
        finish([weights, ones, ones], { levels: 16, tile: { ...tile, ...change } }),
        JSON.stringify(change),
      ).rejects.toMatchObject(bad);
    }
    await expect(finish([weights, ones], { levels: 16, tile })).rejects.toMatchObject(bad);
    await expect(finish([weights, ones, ones], { levels: 16, tile: { ...tile, packing: 'u8' } })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
    });
    const fit = backend.routines!.get('hqq.least-squares')!;
    const settings = { levels: 16, alternations: 8, dtype: { scale: 'f32', zero: 'f16' } };
    const channels = hostTensor('f64', [8], new Float64Array(8).fill(2));
    const weighed = {
      axis: 1,
      size: 16,
      columns: 16,
      runs: [
        { from: 0, to: 3 },
        { from: 9, to: 10 },
      ],
    };
    const fitted = await fit([weights, channels], { ...settings, tile: weighed });
    expect(fitted).toEqual(await fit([weights], settings)); // channels that are alike
    for (const change of [
      { levels: 1 },
      { levels: 257 },
      { dtype: { scale: 'i8', zero: 'f16' } },
      { tile: { ...weighed, axis: 2 } },
      { tile: { ...weighed, runs: [{ from: 0, to: 3 }] } },
      { tile: { ...weighed, runs: [{ from: 0, to: 5 }] } },
      { tile: { ...weighed, runs: [{ from: 4, to: 0 }] } },
      { tile: { ...weighed, runs: [{ from: 2 ** 53 - 4, to: 2 ** 53 }] } },
      { tile: { ...weighed, columns: -1 } },
    ]) {
      await expect(fit([weights, channels], { ...settings, tile: weighed, ...change }), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    await expect(fit([weights, hostTensor('f64', [0], new Float64Array(0))], { ...settings, tile: weighed })).rejects.toMatchObject(bad);
    await expect(fit([], settings)).rejects.toMatchObject(bad);

    await backend[Symbol.asyncDispose]();
    await expect(minMax([weights], rules)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });
});
