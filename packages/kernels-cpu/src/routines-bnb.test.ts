// The native routines against those of @lowbit/bnb: e2e/kernels-cpu-quantize.test.ts quantizes with both. Here is what a routine refuses.
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

describe('routines of bnb', () => {
  it('refuse weights, blocks and tables that cannot be, and a backend that is gone', async (context) => {
    needs(context, 'kernels-cpu', reason === '', reason);
    const backend = await cpu({ threads: 2 }).open();
    const weights = float32Tensor([99], new Float32Array(99).fill(0.5));
    const params = { size: 64, shortBlock: 'divide' };
    const absmax = backend.routines!.get('bnb.absmax')!;
    const fourBit = backend.routines!.get('bnb.four-bit')!;
    const bad = { code: 'ERR_BAD_ARGUMENT' };
    expect([...new Float32Array((await absmax([weights], params))[0]!.data.buffer)]).toEqual([0.5, 0.5]);
    await expect(absmax([], params)).rejects.toMatchObject(bad);
    await expect(absmax([hostTensor('i32', [99], new Int32Array(99))], params)).rejects.toMatchObject(bad);
    await expect(absmax([{ ...weights, shape: [9, 11] }], params)).rejects.toMatchObject(bad);
    await expect(absmax([{ ...weights, shape: [100] }], params)).rejects.toMatchObject(bad);
    for (const size of [0, 1, 63, -64, Number.NaN])
      await expect(absmax([weights], { ...params, size }), `${size}`).rejects.toMatchObject(bad);
    const cuts = float32Tensor(
      [15],
      Array.from({ length: 15 }, (_, i) => (i - 7) / 8),
    );
    const values = float32Tensor(
      [16],
      Array.from({ length: 16 }, (_, i) => (i - 7.5) / 8),
    );
    const codes = hostTensor('u8', [16], new Uint8Array(16).fill(15));
    const [packed] = await fourBit([weights, cuts, codes, values], params);
    expect([...packed!.data]).toEqual(new Array(50).fill(255));
    const short = float32Tensor([3], [1, 2, 3]);
    await expect(fourBit([weights, short, codes, values], params)).rejects.toMatchObject(bad);
    await expect(fourBit([weights, cuts, codes, short], params)).rejects.toMatchObject(bad);
    await expect(fourBit([weights, cuts, hostTensor('u8', [16], new Uint8Array(16).fill(16)), values], params)).rejects.toMatchObject(bad);
    const nested = { first: 5, blocks: 7, offset: 0.25 };
    const map = float32Tensor(
      [256],
      Array.from({ length: 256 }, (_, i) => (i - 127) / 128),
    );
    const one = float32Tensor([1], [0.25]);
    const inputs = [weights, cuts, codes, values, one, map, map];
    const outputs = await fourBit(inputs, { ...params, nested });
    expect([[...outputs[3]!.data], [...new Float32Array(outputs[4]!.data.buffer)]]).toEqual([
      [255, 255],
      [0.5, 0.5],
    ]);
    for (const change of [{ blocks: 6 }, { first: 8 }, { first: -1 }, { first: 600, blocks: 602 }]) {
      await expect(fourBit(inputs, { ...params, nested: { ...nested, ...change } }), JSON.stringify(change)).rejects.toMatchObject(bad);
    }
    await expect(fourBit([...inputs.slice(0, 5), one, map], { ...params, nested })).rejects.toMatchObject(bad);
    await expect(fourBit([...inputs.slice(0, 6), one], { ...params, nested })).rejects.toMatchObject(bad);
    await expect(fourBit(inputs.slice(0, 5), { ...params, nested })).rejects.toMatchObject(bad);
    const int8 = backend.routines!.get('bnb.int8')!;
    const rows = { few: true, narrow: false };
    expect([...(await int8([{ ...weights, shape: [9, 11] }], rows))[1]!.data]).toEqual(new Array(99).fill(127));
    for (const shape of [[10, 10], [99], [9, 0], [2 ** 50, 8]]) {
      await expect(int8([{ ...weights, shape }], rows), `${shape}`).rejects.toMatchObject(bad);
    }
    await expect(int8([hostTensor('i32', [9, 11], new Int32Array(99))], rows)).rejects.toMatchObject(bad);
    await backend[Symbol.asyncDispose]();
    await expect(absmax([weights], params)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });
});
