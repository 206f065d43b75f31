// What a device cannot do, found where it was asked for: missing memory changes nothing and bricks nothing; what others do with a shared device is theirs.
import { type Backend, referenceBackend, toFloat32 } from '@lowbit/core';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { describe, expect, it, type TestContext } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import type { WebGpuBackend } from './backend.ts';
import type { GpuDevice } from './gpu.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const AFFINE = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const LONG = { timeout: 120_000 };
const FULL = { code: 'ERR_LIMIT', details: { reason: 'OUT_OF_MEMORY' } };

/** The real device. When `full`, buffers are made without memory: they are not valid, and error scopes say why. */
interface Device extends AsyncDisposable {
  readonly device: GpuDevice;
  full: boolean;
  /** Errors that no scope took. */
  readonly uncaptured: readonly string[];
}

async function ownDevice(context: TestContext): Promise<Device> {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const real = await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
  const uncaptured: string[] = [];
  real.addEventListener!('uncapturederror', ({ error }) => uncaptured.push(error.message));
  const scopes: { readonly filter: string; hit: boolean }[] = [];
  const replaced: Partial<GpuDevice> = {
    pushErrorScope(filter) {
      scopes.push({ filter, hit: false });
      real.pushErrorScope(filter);
    },
    async popErrorScope() {
      const { hit } = scopes.pop()!;
      const error = await real.popErrorScope();
      return hit ? { message: 'Device memory exhausted' } : error;
    },
    createBuffer(descriptor) {
      if (!held.full) return real.createBuffer(descriptor);
      const scope = scopes.findLast(({ filter }) => filter === 'out-of-memory');
      if (scope) scope.hit = true;
      else uncaptured.push(`no memory for ${descriptor.label}`);
      real.pushErrorScope('validation');
      const buffer = real.createBuffer({ ...descriptor, usage: 0 });
      real.popErrorScope().catch(() => {});
      return buffer;
    },
  };
  const device = new Proxy(real, {
    get(target, key) {
      const value = Reflect.get(key in replaced ? replaced : target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const held: Device = {
    device,
    full: false,
    uncaptured,
    async [Symbol.asyncDispose]() {
      real.destroy();
    },
  };
  return held;
}

async function prepared(backend: Backend, { program, weights }: TinyDecoder) {
  return Promise.all(program.linears.map(({ use }, i) => backend.prepare(weights[i]!, { use })));
}

function near(got: Float32Array, expected: Float32Array): void {
  const largest = Math.max(...expected.map(Math.abs));
  expect(got).toHaveLength(expected.length);
  for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(1e-3 * largest);
}

describe('missing memory', () => {
  it('while experts are brought together leaves them where they were', LONG, async (context) => {
    await using held = await ownDevice(context);
    await using backend = (await webgpu({ ...TEST_OPTIONS, device: held.device }).open()) as WebGpuBackend;
    await using reference = await referenceBackend().open();
    const decoder = tinyDecoder(AFFINE, { experts: 5 });
    const linears = await prepared(backend, decoder);
    const logits = async (on: Backend, its: typeof linears): Promise<Float32Array> => {
      using executable = await on.compile(decoder.program, its, { contextLength: 8 });
      const step = await executable.step([
        { id: executable.open(), tokens: Uint32Array.of(3, 14, 15, 9), wanted: Uint32Array.of(0, 1, 2, 3) },
      ]);
      return toFloat32(step.logits!).slice();
    };
    const { buffers, bytes } = backend.counts;
    held.full = true;
    await expect(backend.compile(decoder.program, linears, { contextLength: 8 })).rejects.toMatchObject(FULL);
    held.full = false;
    expect(backend.counts).toMatchObject({ buffers, bytes });
    near(await logits(backend, linears), await logits(reference, await prepared(reference, decoder)));
    // Two at once, and linears that are gone before the programs are: each has its experts to the end.
    const both = await Promise.all([logits(backend, linears), logits(backend, linears)]);
    expect(both[0]).toEqual(both[1]);
    for (const linear of linears) linear[Symbol.dispose]();
    expect(backend.counts).toMatchObject({ buffers: 0, bytes: 0 });
    expect(held.uncaptured).toEqual([]);
  });

  it('for tensors, products and rows of weights shows where they are read', LONG, async (context) => {
    await using held = await ownDevice(context);
    await using backend = (await webgpu({ ...TEST_OPTIONS, device: held.device }).open()) as WebGpuBackend;
    using linear = await backend.prepare(sampleWeight(AFFINE, [32, 64], 5));
    const x = backend.alloc({ dtype: 'f32', shape: [2, 64] });
    const out = backend.alloc({ dtype: 'f32', shape: [2, 32] });
    backend.write(x, seededTensor(4, [2, 64], 1).data);
    linear.forward(x, out);
    const expected = await backend.read(out);
    const weight = await linear.dequantize();
    const { buffers, bytes } = backend.counts;

    held.full = true;
    linear.forward(x, out);
    await expect(linear.dequantize()).rejects.toMatchObject(FULL);
    await expect(backend.read(x)).rejects.toMatchObject(FULL);
    const none = backend.alloc({ dtype: 'f32', shape: [2, 32] });
    held.full = false;
    await expect(backend.read(out)).rejects.toMatchObject(FULL);
    backend.write(none, new Uint8Array(256));
    linear.forward(x, none);
    await expect(backend.read(none)).rejects.toMatchObject(FULL);
    backend.free(none);

    linear.forward(x, out);
    expect(await backend.read(out)).toEqual(expected);
    expect(await linear.dequantize()).toEqual(weight);
    expect(backend.counts).toMatchObject({ buffers, bytes });
    expect(held.uncaptured).toEqual([]);
  });

  it('for choices of a step, or a fork, is ERR_LIMIT, and both can be done again', LONG, async (context) => {
    await using held = await ownDevice(context);
    await using backend = (await webgpu({ ...TEST_OPTIONS, device: held.device }).open()) as WebGpuBackend;
    const decoder = tinyDecoder(AFFINE);
    using executable = await backend.compile(decoder.program, await prepared(backend, decoder), { contextLength: 32 });
    const id = executable.open();
    // Room for whole logits is room for choices, but for their pairs.
    await executable.step([{ id, tokens: Uint32Array.of(1, 2, 3, 4) }]);
    executable.truncate(id, 2);
    held.full = true;
    const choose = () => executable.step([{ id, tokens: Uint32Array.of(3) }], { largest: { logits: 2 } });
    await expect(choose()).rejects.toMatchObject(FULL);
    const fork = executable.fork(id);
    await expect(executable.step([{ id: fork, tokens: Uint32Array.of(3) }])).rejects.toMatchObject(FULL);
    executable.close(fork);
    held.full = false;
    const again = await choose();
    executable.truncate(id, 2);
    const other = executable.fork(id);
    expect(await executable.step([{ id: other, tokens: Uint32Array.of(3) }], { largest: { logits: 2 } })).toEqual(again);
    expect(held.uncaptured).toEqual([]);
  });
});

it('errors of others on a device of the caller are theirs', LONG, async (context) => {
  await using held = await ownDevice(context);
  await using backend = await webgpu({ ...TEST_OPTIONS, device: held.device }).open();
  held.device.createBuffer({ label: "the caller's", size: 16, usage: 0 });
  await held.device.queue.onSubmittedWorkDone();
  await new Promise((resolve) => setTimeout(resolve, 0));
  expect(held.uncaptured).toHaveLength(1);
  const tensor = backend.alloc({ dtype: 'f32', shape: [1] });
  backend.write(tensor, new Uint8Array(4).fill(1));
  expect((await backend.read(tensor)).data).toEqual(new Uint8Array(4).fill(1));
});

it.for(['its own', "the caller's"])(
  'a backend on %s device that is disposed in mid-step rejects with ERR_DISPOSED',
  LONG,
  async (whose, context) => {
    await using held = await ownDevice(context);
    const options = whose === 'its own' ? TEST_OPTIONS : { ...TEST_OPTIONS, device: held.device };
    const backend = (await webgpu(options).open()) as WebGpuBackend;
    const decoder = tinyDecoder(AFFINE);
    const linears = await prepared(backend, decoder);
    const executable = await backend.compile(decoder.program, linears, { contextLength: 32 });
    const id = executable.open();
    await executable.step([{ id, tokens: Uint32Array.of(1) }]);
    const tensor = backend.alloc({ dtype: 'f32', shape: [4] });
    const running = [
      executable.step([{ id, tokens: Uint32Array.of(2) }]),
      backend.read(tensor),
      linears[0]!.dequantize(),
      backend.compile(decoder.program, linears, { contextLength: 16 }),
      backend.prepare(decoder.weights[0]!),
    ];
    const settled = Promise.allSettled(running);
    await backend[Symbol.asyncDispose]();
    for (const result of await settled) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_DISPOSED' } });
    expect(backend.counts).toMatchObject({ buffers: 0, bytes: 0 });
  },
);
