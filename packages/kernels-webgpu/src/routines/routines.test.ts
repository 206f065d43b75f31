// What routines refuse: e2e/kernels-webgpu-quantize.test.ts quantizes with them.
import { float32Tensor, hostTensor } from '@lowbit/core';
import { expect, it } from 'vitest';
import { needs } from '../../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../../fixtures/webgpu.ts';
import { webgpu } from '../webgpu.ts';

const missing = await noWebGpu();

it('refuse weights, blocks, grids and tables that cannot be, give all memory back, and end with the backend', {
  timeout: 120_000,
}, async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const backend = await webgpu(TEST_OPTIONS).open();
  const routine = (name: string) => backend.routines!.get(name)!;
  const bad = { code: 'ERR_BAD_ARGUMENT' };
  const values = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  const weights = float32Tensor([4, 16], values);
  const rules = { levels: 16, roundZero: false, smallRange: true };
  expect((await routine('hqq.min-max')([weights], rules)).map(({ shape }) => shape)).toEqual([[4], [4]]);
  for (const shape of [[5, 16], [64], [0, 16], [4, 0], [2 ** 40, 16], [4, 16, 1]]) {
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
  // What whole numbers cannot compute as the TypeScript does is refused, never given as other bytes.
  const range = { code: 'ERR_LIMIT', details: { reason: 'RANGE' } };
  await expect(proximal([weights, float32Tensor([4], [1, 0, 1, 1]), ones, settled], steps)).rejects.toMatchObject(range);
  const huge = float32Tensor(
    [4, 16],
    values.map((x, i) => (i === 37 ? 2e30 : x)),
  );
  await expect(proximal([huge, ones, ones, settled], steps)).rejects.toMatchObject(range);

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
  const four = routine('bnb.four-bit');
  expect(await four([run, ...cells, ...tables], { ...blocks, nested })).toHaveLength(5);
  await expect(four([run, ...cells, ...tables], { ...blocks, nested: { ...nested, first: 1 } })).rejects.toMatchObject(bad);
  await expect(four([run, ...cells, ...tables.slice(1)], { ...blocks, nested })).rejects.toMatchObject(bad);
  const codes = hostTensor('u8', [16], new Uint8Array(16).fill(16));
  await expect(four([run, cells[0]!, codes, cells[2]!], blocks)).rejects.toMatchObject(bad);

  const grid = [float32Tensor([2, 1], [-1, 1]), float32Tensor([2], [1, 1]), float32Tensor([2, 1], [-1, 1])];
  const block = { block: 16, group: 8, dtype: 'bf16', inp: 15, first: 0, blocks: 2 };
  const thirty = float32Tensor([30], new Float32Array(30).fill(0.5));
  const higgs = routine('higgs.code');
  expect((await higgs([thirty, ...grid], block)).map(({ shape }) => shape)).toEqual([[32], [4], [3]]);
  for (const change of [
    { block: 12 },
    { group: 0 },
    { group: 3 },
    { inp: 0 },
    { inp: 31 },
    { blocks: 0 },
    { blocks: 3 },
    { first: -1 },
    { dtype: 'f64' },
  ]) {
    await expect(higgs([thirty, ...grid], { ...block, ...change }), JSON.stringify(change)).rejects.toMatchObject(bad);
  }
  await expect(higgs([thirty, ...grid], { ...block, block: 8192, group: 8 })).rejects.toMatchObject({
    code: 'ERR_LIMIT',
    details: { limit: 4096 },
  });
  await expect(higgs([thirty], block)).rejects.toMatchObject(bad);

  expect(backend.allocated()).toBe(0);
  await backend[Symbol.asyncDispose]();
  await expect(routine('bnb.absmax')([run], blocks)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
});
