// The largest numbers of rows by a kernel: values and places to the bit, NaN and ties among them; what comes back is that and no more.
import { largestOfRows } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import type { CudaBinding, DeviceHandle } from './binding.ts';
import { cuda } from './cuda.ts';
import { addon } from './load.node.ts';
import { chosenOnDevice } from './readback.ts';

/** Of rows [rows, width] in device memory. */
async function chosen(native: CudaBinding, device: DeviceHandle, rows: Float32Array, width: number, largest: number): Promise<Uint8Array> {
  const buffer = native.createBuffer(device, rows.byteLength, false);
  native.writeBuffer(buffer, 0, new Uint8Array(rows.buffer));
  const plan = native.createPlan(device, {
    buffers: [buffer],
    widths: [width, 0, 0, 0, 0],
    tensors: [{ rows: 0, width, offset: 0 }],
    launches: [
      {
        kernel: 'scale',
        grid: [Math.ceil(width / 256), { rows: 0 }, 1],
        block: 256,
        arguments: [{ buffer: 0 }, { tensor: 0 }, { int: width }, { float: 1 }],
      },
    ],
  });
  const count = rows.length / width;
  const out = new Uint8Array(count * largest * 8);
  await native.runPlan(plan, [count, 0, 0, 0, 1], new Uint8Array(64), [{ tensor: 0, out, largest }]);
  native.freePlan(plan);
  native.freeBuffer(buffer);
  return out;
}

/** Numbers of few values, so that there are ties; deterministic. */
function ties(count: number, values: readonly number[]): Float32Array {
  let state = 12345;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return values[(state >>> 16) % values.length]!;
  });
}

describe('the largest numbers of a row', () => {
  it.for<readonly [string, number, Float32Array]>([
    ['ties', 5000, ties(10000, [1, 2, -0, 0, 3, Number.NEGATIVE_INFINITY])],
    ['a row of one number', 3000, new Float32Array(6000).fill(-7)],
    ['NaN in several parts, and nothing else in one of the rows', 4500, ties(9000, [1, 2, Number.NaN]).fill(Number.NaN, 4500)],
    ['infinities', 2100, ties(4200, [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 5])],
    ['all different, falling', 2049, Float32Array.from({ length: 2049 }, (_, i) => -i)],
    ['all different, rising', 6000, Float32Array.from({ length: 6000 }, (_, i) => i)],
    ['a row of one', 1, Float32Array.of(3, Number.NaN, -1)],
  ])('%s: as the reference', async ([, width, rows], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const native = addon.load();
    const device = await native.openDevice(FAKE_DRIVER, 0);
    for (const count of [1, 2, 40].map((n) => Math.min(n, width))) {
      const { values, ids } = largestOfRows(rows, width, count);
      const expected = Buffer.concat([new Uint8Array(values.buffer), new Uint8Array(ids.buffer)]);
      expect(Buffer.from(await chosen(native, device, rows, width, count)).equals(expected), `${count}`).toBe(true);
    }
    native.closeDevice(device);
  });

  it('more than a part has: the rest is none', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const native = addon.load();
    const device = await native.openDevice(FAKE_DRIVER, 0);
    const rows = ties(64, [1, Number.NaN, 4, 9, Number.NEGATIVE_INFINITY]);
    const { values, ids } = largestOfRows(rows, 64, 64);
    expect(ids.at(-1)).toBe(-1);
    const expected = Buffer.concat([new Uint8Array(values.buffer), new Uint8Array(ids.buffer)]);
    expect(Buffer.from(await chosen(native, device, rows, 64, 64)).equals(expected)).toBe(true);
    await expect(chosen(native, device, rows, 64, 65)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    native.closeDevice(device);
  });

  it('is chosen on the device where that is less than the rows are', () => {
    expect(chosenOnDevice({ largest: 0, width: 1000 })).toBe(false);
    expect(chosenOnDevice({ largest: 1, width: 4 })).toBe(true);
    expect(chosenOnDevice({ largest: 2, width: 4 })).toBe(false);
    expect(chosenOnDevice({ largest: 1000, width: 128256 })).toBe(true);
    expect(chosenOnDevice({ largest: 1100, width: 128256 })).toBe(false);
  });

  it('comes back in place of the rows: 8 bytes for each, and whole rows beside it', async (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const native = addon.load();
    const back: number[] = [];
    const binding: CudaBinding = {
      ...native,
      runPlan: (plan, rows, step, reads) => {
        back.push(...reads.map(({ out }) => out.byteLength));
        return native.runPlan(plan, rows, step, reads);
      },
    };
    await using backend = await cuda({ driver: FAKE_DRIVER, binding }).open();
    const b = new ProgramBuilder({ layers: 1 });
    b.layer = 0;
    const x = b.input('x', { width: 3000 });
    b.output('logits', b.scale(x, 2));
    b.output('raw', x);
    using executable = await backend.compile(b.build(), [], { contextLength: 16 });
    const id = executable.open();
    const values = ties(6000, [1, 2, 3, -4]);
    const inputs = { x: { dtype: 'f32', shape: [2, 3000], data: new Uint8Array(values.buffer) } } as const;
    const step = { id, tokens: new Uint32Array(2), wanted: Uint32Array.of(0, 1), inputs };
    const got = await executable.step([step], { largest: { logits: 3 } });
    expect(back).toEqual([2 * 3 * 8, 2 * 3000 * 4]);
    const expected = largestOfRows(
      values.map((value) => 2 * value),
      3000,
      3,
    );
    expect(got.logits).toEqual({ dtype: 'f32', shape: [2, 3], data: new Uint8Array(expected.values.buffer) });
    expect(got['logits.ids']).toEqual({ dtype: 'i32', shape: [2, 3], data: new Uint8Array(expected.ids.buffer) });
    expect(got.raw!.data).toEqual(new Uint8Array(values.buffer));
    expect(executable.memory().scratch).toBeGreaterThan(2 * 3 * 8);
  });
});
