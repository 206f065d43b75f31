// The addon as it was built, beside the types that are written by hand.
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { BINDING_ABI, BINDING_FUNCTIONS, type CudaBinding, type DeviceHandle, type Launch } from './binding.ts';
import { addon } from './load.node.ts';

async function opened(context: { skip(reason: string): void }): Promise<readonly [CudaBinding, DeviceHandle]> {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  pretend();
  const native = addon.load();
  return [native, await native.openDevice(FAKE_DRIVER, 0)];
}

describe('the addon', () => {
  it('exports what the types say and nothing else', async (context) => {
    const [native, device] = await opened(context);
    expect(Object.keys(native).sort()).toEqual(['abi', ...BINDING_FUNCTIONS].sort());
    expect(native.abi).toBe(BINDING_ABI);
    native.closeDevice(device);
  });

  it('keeps bytes, and refuses what lies outside of them and handles that are gone', async (context) => {
    const [native, device] = await opened(context);
    const a = native.createBuffer(device, 100, false);
    const b = native.createBuffer(device, 60, false);
    expect(native.memoryInfo(device)).toEqual([8 * 2 ** 30 - 160, 8 * 2 ** 30]);
    native.writeBuffer(
      a,
      40,
      Uint8Array.from({ length: 60 }, (_, i) => i),
    );
    native.copyBuffer(b, 10, a, 90, 10);
    const out = new Uint8Array(5);
    await native.readBuffer(b, 15, out);
    expect([...out]).toEqual([55, 56, 57, 58, 59]);
    const refused = expect.objectContaining({ code: 'BAD_ARGUMENT' });
    expect(() => native.writeBuffer(a, 41, new Uint8Array(60))).toThrow(refused);
    expect(() => native.writeBuffer(a, 2 ** 53 - 2, new Uint8Array(1))).toThrow(refused);
    expect(() => native.writeBuffer(a, -1, new Uint8Array(1))).toThrow(refused);
    expect(() => native.writeBuffer(a, 0, new Float32Array(1) as never)).toThrow(refused);
    expect(() => native.copyBuffer(b, 51, a, 0, 10)).toThrow(refused);
    expect(() => native.copyBuffer(b, 0, a, 91, 10)).toThrow(refused);
    await expect(native.readBuffer(b, 56, out)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    native.freeBuffer(a);
    native.freeBuffer(a);
    expect(() => native.bufferAddress(a)).toThrow(refused);
    expect(() => native.writeBuffer(a, 0, out)).toThrow(refused);
    native.freeBuffer(b);
    expect(native.memoryInfo(device)[0]).toBe(8 * 2 ** 30);
    native.closeDevice(device);
    expect(() => native.createBuffer(device, 1, false)).toThrow(refused);
  });

  it('refuses launches that do not fit their kernel', async (context) => {
    const [native, device] = await opened(context);
    const buffer = native.createBuffer(device, 1024, false);
    const good: Launch = { kernel: 'clear', grid: [1, 1, 1], block: 256, arguments: [{ buffer: 0 }, { int: 256 }] };
    native.launch(device, good, [buffer]);
    const bad: readonly Partial<Launch>[] = [
      { kernel: 'nobody' },
      { arguments: [{ buffer: 0 }] },
      { arguments: [{ buffer: 1 }, { int: 1 }] },
      { arguments: [{ int: 1 }, { int: 1 }] },
      { arguments: [{ buffer: 0 }, { float: 1 }] },
      { arguments: [{ buffer: 0 }, { int: 2 ** 31 }] },
      { arguments: [{ buffer: 0 }, { int: Number.NaN }] },
      { arguments: [{ tensor: 0 }, { int: 1 }] },
      { arguments: [{ buffer: 0 }, {} as never] },
      { grid: [1, 65536, 1] },
      { grid: [{ rows: 9 }, 1, 1] },
    ];
    for (const change of bad) {
      expect(() => native.launch(device, { ...good, ...change }, [buffer]), JSON.stringify(change)).toThrow(
        expect.objectContaining({ code: 'BAD_ARGUMENT' }),
      );
    }
    const out = new Uint8Array(1024);
    await native.readBuffer(buffer, 0, out);
    expect(out.every((byte) => byte === 0)).toBe(true);
    native.freeBuffer(buffer);
    native.closeDevice(device);
  });

  it('refuses plans whose tensors are outside of their arena, and reads of more than a tensor has', async (context) => {
    const [native, device] = await opened(context);
    const tensors = [{ rows: 0, width: 4, offset: 0 }];
    const launches: readonly Launch[] = [{ kernel: 'clear', grid: [{ rows: 0 }, 1, 1], block: 4, arguments: [{ tensor: 0 }, { int: 4 }] }];
    const spec = { buffers: [], widths: [4, 0, 0, 0, 0], tensors, launches };
    const refused = expect.objectContaining({ code: 'BAD_ARGUMENT' });
    for (const change of [
      { widths: [3, 0, 0, 0, 0] },
      { widths: [4, 0] },
      { tensors: [{ rows: 5, width: 1, offset: 0 }] },
      { tensors: [{ rows: 0, width: 4, offset: 1 }] },
      { tensors: [] },
    ]) {
      expect(() => native.createPlan(device, { ...spec, ...change }), JSON.stringify(change)).toThrow(refused);
    }
    const plan = native.createPlan(device, spec);
    const out = new Uint8Array(16).fill(9);
    await native.runPlan(plan, [1, 0, 0, 0, 1], new Uint8Array(64), [{ tensor: 0, out }]);
    expect([...out]).toEqual(new Array(16).fill(0));
    await expect(native.runPlan(plan, [1, 0, 0, 0, 1], new Uint8Array(64), [{ tensor: 0, out: new Uint8Array(17) }])).rejects.toMatchObject(
      {
        code: 'BAD_ARGUMENT',
      },
    );
    expect(() => native.runPlan(plan, [1, 0, 0, 0, 1], new Uint8Array(64), [{ tensor: 1, out }])).toThrow(refused);
    native.freePlan(plan);
    native.closeDevice(device);
  });

  it('serves worker threads and other processes beside this one', async (context) => {
    const [native, device] = await opened(context);
    const mine = native.createBuffer(device, 8, false);
    native.writeBuffer(mine, 0, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const file = fileURLToPath(new URL('../build/Release/lowbit_cuda.node', import.meta.url));
    const code = `(async () => {
      const native = require(${JSON.stringify(file)});
      const device = await native.openDevice(${JSON.stringify(FAKE_DRIVER)}, 0);
      const buffer = native.createBuffer(device, 4, false);
      native.writeBuffer(buffer, 0, Uint8Array.of(9, 8, 7, 6));
      const out = new Uint8Array(4);
      await native.readBuffer(buffer, 0, out);
      native.freeBuffer(buffer);
      native.closeDevice(device);
      return out.join();
    })()`;
    const worker = new Worker(`${code}.then((text) => require('node:worker_threads').parentPort.postMessage(text))`, { eval: true });
    expect(await once(worker, 'message')).toEqual(['9,8,7,6']);
    await worker.terminate();
    const { stdout, status, stderr } = spawnSync(process.execPath, ['-e', `${code}.then((text) => console.log(text))`], {
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    expect([stdout.trim(), status]).toEqual(['9,8,7,6', 0]);
    const out = new Uint8Array(8);
    await native.readBuffer(mine, 0, out);
    expect([...out]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    native.freeBuffer(mine);
    native.closeDevice(device);
  });
});
