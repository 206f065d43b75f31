// What routines refuse: e2e/kernels-cuda-quantize.test.ts quantizes with them.
import { float32Tensor, type HostTensor, hostTensor } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

describe('routines on the GPU', () => {
  it('refuse weights, blocks, grids and tables that cannot be, give all memory back, and end with the backend', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const backend = await cuda({ driver: FAKE_DRIVER }).open();
    const routine = (name: string) => backend.routines!.get(name)!;
    const bad = { code: 'ERR_BAD_ARGUMENT' };
    const weights = float32Tensor(
      [4, 16],
      Float32Array.from({ length: 64 }, (_, i) => Math.sin(i)),
    );
    const rules = { levels: 16, roundZero: false, smallRange: true };
    expect((await routine('hqq.min-max')([weights], rules)).map(({ shape }) => shape)).toEqual([[4], [4]]);
    for (const shape of [[5, 16], [64], [0, 16], [4, 0], [2 ** 40, 16]]) {
      await expect(routine('hqq.min-max')([{ ...weights, shape }], rules), `${shape}`).rejects.toMatchObject(bad);
    }
    await expect(routine('hqq.min-max')([hostTensor('i32', [4, 16], new Int32Array(64))], rules)).rejects.toMatchObject(bad);
    await expect(routine('hqq.min-max')([], rules)).rejects.toMatchObject(bad);
    await expect(routine('hqq.min-max')([weights], { ...rules, levels: 300 })).rejects.toMatchObject(bad);

    const ones = float32Tensor([4], [1, 1, 1, 1]);
    const settled = hostTensor('u8', [4], new Uint8Array(4));
    const steps = { levels: 16, norm: 0.7, betas: [10, 11], lastBeta: 11 };
    const proximal = routine('hqq.proximal-steps');
    expect((await proximal([weights, ones, ones, settled], steps)).map(({ shape }) => shape)).toEqual([[2, 4], [4], [2, 3]]);
    expect(settled.data).toEqual(new Uint8Array(4));
    await expect(proximal([weights, float32Tensor([3], [1, 1, 1]), ones, settled], steps)).rejects.toMatchObject(bad);
    await expect(proximal([weights, ones, ones], steps)).rejects.toMatchObject(bad);
    await expect(proximal([weights, ones, ones, settled], { ...steps, norm: Number.NaN })).rejects.toMatchObject(bad);

    const finish = routine('hqq.finish');
    const [groups, size] = weights.shape as [number, number];
    const tile = { packing: '4bit_u8', axis: 1, size, wordRows: groups / 2, extent: groups / 2, laneGroups: [groups / 2, groups / 2] };
    const [packed, sums] = await finish([weights, ones, ones], { levels: 16, tile });
    expect([packed!.data.length, sums!.shape]).toEqual([(groups * size) / 2, [3]]);
    for (const change of [
      { laneGroups: [2, 3] },
      { laneGroups: [3, 1] },
      { laneGroups: [4] },
      { extent: 2 ** 40 },
      { axis: 0, extent: 3 },
      { axis: 0, wordRows: 1, extent: groups },
    ]) {
      const given = { levels: 16, tile: { ...tile, ...change } };
      await expect(finish([weights, ones, ones], given), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    // The last lane of ten would begin at a row beyond 32 bits.
    const far = { packing: '3bit_32', axis: 0, size: 64, wordRows: 2 ** 28, extent: 1, laneGroups: [] };
    const one = float32Tensor([1], [1]);
    await expect(finish([{ ...weights, shape: [1, 64] }, one, one], { levels: 8, tile: far })).rejects.toMatchObject(bad);
    await expect(finish([weights, ones], { levels: 16, tile })).rejects.toMatchObject(bad);
    await expect(finish([weights, ones, ones], { levels: 300, tile })).rejects.toMatchObject(bad);
    const unpacked = { levels: 16, tile: { ...tile, packing: 'u8' } };
    await expect(finish([weights, ones, ones], unpacked)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });

    const run = float32Tensor([99], new Float32Array(99).fill(0.5));
    const blocks = { size: 64, shortBlock: 'divide' };
    expect([...new Float32Array((await routine('bnb.absmax')([run], blocks))[0]!.data.buffer)]).toEqual([0.5, 0.5]);
    for (const size of [0, 1, 63, -64, Number.NaN]) {
      await expect(routine('bnb.absmax')([run], { ...blocks, size }), `${size}`).rejects.toMatchObject(bad);
    }
    const cells = [
      float32Tensor([15], Array(15).fill(0)),
      hostTensor('u8', [16], new Uint8Array(16)),
      float32Tensor([16], Array(16).fill(1)),
    ];
    const tables = [float32Tensor([1], [1]), float32Tensor([256], Array(256).fill(0)), float32Tensor([255], Array(255).fill(0))];
    const nested = { first: 0, blocks: 2, offset: 0.5 };
    expect(await routine('bnb.four-bit')([run, ...cells, ...tables], { ...blocks, nested })).toHaveLength(5);
    await expect(routine('bnb.four-bit')([run, ...cells, ...tables], { ...blocks, nested: { ...nested, first: 1 } })).rejects.toMatchObject(
      bad,
    );
    await expect(routine('bnb.four-bit')([run, ...cells, ...tables.slice(1)], { ...blocks, nested })).rejects.toMatchObject(bad);
    await expect(
      routine('bnb.four-bit')([run, cells[0]!, hostTensor('u8', [16], new Uint8Array(16).fill(16)), cells[2]!], blocks),
    ).rejects.toMatchObject(bad);
    const search = { size: 64, from: 64, channels: 0 };
    const [cuts, codes, values] = cells as [HostTensor, HostTensor, HostTensor];
    expect(await routine('bnb.scale-search')([run, cuts, values], search)).toHaveLength(1);
    expect(await routine('bnb.searched')([run, cuts, codes, values, ...tables], { ...search, nested })).toHaveLength(5);
    for (const change of [{ size: 63 }, { from: -1 }, { from: 2 ** 60 }, { channels: 3 }, { channels: -1 }]) {
      await expect(
        routine('bnb.scale-search')([run, cuts, values], { ...search, ...change }),
        JSON.stringify(change),
      ).rejects.toMatchObject(bad);
    }

    const fit = { levels: 16, alternations: 2, dtype: { scale: 'f16', zero: 'f16' } };
    const channels = hostTensor('f64', [8], new Float64Array(8).fill(1));
    const weighed = { axis: 1, size, columns: size, runs: [{ from: 0, to: groups }] };
    const squares = routine('hqq.least-squares');
    expect((await squares([weights, channels], { ...fit, tile: weighed })).map(({ shape }) => shape)).toEqual([[4], [4]]);
    for (const change of [{ alternations: -1 }, { alternations: 1.5 }, { levels: 1 }, { dtype: { scale: 'f64', zero: 'f16' } }]) {
      await expect(squares([weights], { ...fit, ...change }), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    for (const change of [{ size: 8 }, { runs: [] }, { runs: [{ from: 4, to: 0 }] }, { runs: [{ from: 0.5, to: 4.5 }] }, { columns: -1 }]) {
      const tile = { ...weighed, ...change };
      await expect(squares([weights, channels], { ...fit, tile }), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    await expect(squares([weights], { ...fit, tile: weighed })).rejects.toMatchObject(bad);
    await expect(routine('hqq.scale-search')([weights, ones, ones], { levels: 16, range: Number.NaN })).rejects.toMatchObject(bad);
    await expect(routine('hqq.scale-search')([weights, ones], { levels: 16, range: 1 })).rejects.toMatchObject(bad);

    const points = [float32Tensor([2, 2], [0, 0, 1, 1]), float32Tensor([2], [0, 2]), float32Tensor([2, 2], [0, 0, 1, 1])];
    const blocksOf99 = { block: 16, group: 8, dtype: 'f16', inp: 33, first: 0, blocks: 9 };
    const higgs = routine('higgs.code');
    expect((await higgs([run, ...points], blocksOf99)).map(({ shape }) => shape)).toEqual([[72], [18], [3]]);
    for (const change of [
      { block: 24 },
      { group: 5 },
      { blocks: 8 },
      { inp: 0 },
      { dtype: 'f64' },
      { blocks: 2 ** 40 },
      { block: Number.NaN },
    ]) {
      await expect(higgs([run, ...points], { ...blocksOf99, ...change }), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    await expect(higgs([run, points[0]!, points[1]!], blocksOf99)).rejects.toMatchObject(bad);
    await expect(higgs([run, float32Tensor([1, 3], [0, 0, 0]), ...points.slice(1)], blocksOf99)).rejects.toMatchObject(bad);
    await expect(higgs([run, ...points], { ...blocksOf99, unbiased: true })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
    const tileOf4 = hostTensor('u8', [128, 2], new Uint8Array(256));
    expect((await routine('higgs.pack')([tileOf4], { packing: 'flute4_p2_t32' }))[0]!.data).toHaveLength(256);
    for (const packing of ['flute4_p2_t64', 'u8']) {
      await expect(routine('higgs.pack')([tileOf4], { packing }), packing).rejects.toMatchObject(bad);
    }
    expect(backend.allocated()).toBeGreaterThan(0);
    expect(backend.allocated()).toBeLessThanOrEqual(3 << 20);
    const dense = { format: { kind: 'dense', dtype: 'f32' }, shape: [4, 16], parts: { weight: weights } } as const;
    const linear = await backend.prepare(dense);
    expect(backend.allocated()).toBe(linear.bytes); // the routines' room has gone
    linear[Symbol.dispose]();
    expect(backend.allocated()).toBe(0);
    await backend[Symbol.asyncDispose]();
    await expect(routine('bnb.absmax')([run], blocks)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });

  it('that find no memory say so, and can be called again', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend({ fail: 'cuMemAlloc/2/1' });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const run = float32Tensor([99], new Float32Array(99).fill(0.5));
    const absmax = backend.routines!.get('bnb.absmax')!;
    const blocks = { size: 64, shortBlock: 'multiply' };
    await expect(absmax([run], blocks)).rejects.toMatchObject({ code: 'ERR_LIMIT', details: { reason: 'OUT_OF_MEMORY' } });
    expect(await absmax([run], blocks)).toHaveLength(1);
  });
});
