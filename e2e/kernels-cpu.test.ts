// The native CPU backend with the packages around it: layers and models that run on it. Quantizing with its routines: kernels-cpu-quantize.test.ts.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { int8, nf4 } from '@lowbit/bnb';
import {
  type Backend,
  type BackendProvider,
  createRuntime,
  type HostTensor,
  quantize,
  referenceBackend,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import { llama, loadModel } from '@lowbit/models';
import { decoderCase, seeded, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

/** Bell-shaped weights. */
function weightOf(out: number, inp: number, dtype: 'f32' | 'f16' | 'bf16'): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

describe('layers on the native backend', () => {
  it('a weight of hqq gives the numbers of the reference', async (context) => {
    addon(context);
    await using native = await createRuntime({ backends: [cpu({ threads: 2 })] });
    await using plain = await createRuntime({ backends: [referenceBackend()] });
    const quantized = await quantize(weightOf(96, 256, 'f32'), hqq());
    const x = seededTensor(1, [3, 256]);
    const results: Float32Array[] = [];
    for (const runtime of [native, plain]) {
      using linear = await runtime.linear(quantized);
      const backend: Backend = await runtime.backend(runtime === native ? 'cpu' : 'reference');
      const input = backend.alloc(x);
      const output = backend.alloc({ dtype: 'f32', shape: [3, 96] });
      backend.write(input, x.data);
      linear.forward(input, output);
      results.push(toFloat32(await backend.read(output)));
    }
    const largest = Math.max(...results[1]!.map(Math.abs));
    for (const [i, y] of results[0]!.entries()) expect(Math.abs(y - results[1]![i]!)).toBeLessThan(4e-6 * largest);
  });
});

describe('models on the native backend', () => {
  const folder = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
  const prompt = 'It was a fine morning, and';

  /** Greedy token ids of a checkpoint on a backend. */
  async function greedy(path: string, backends: readonly BackendProvider[], maxTokens = 24): Promise<readonly number[]> {
    await using runtime = await createRuntime({ backends });
    await using checkpoint = await openCheckpoint(path);
    await using model = await loadModel(checkpoint, { runtime });
    const { ids } = await model.generate({ prompt, maxTokens, temperature: 0 });
    expect(model.memory().weights).toBeGreaterThan(0);
    return ids;
  }

  it('generate what the reference generates: dense, HQQ at several widths, NF4, int8, HIGGS', async (context) => {
    addon(context);
    const out = mkdtempSync(join(tmpdir(), 'lowbit-kernels-cpu-'));
    try {
      const paths = [folder];
      const quantizers = {
        hqq4: hqq(),
        hqq2: hqq({ bits: 2, groupSize: 16 }),
        hqq3: hqq({ bits: 3, axis: 0 }),
        nf4: nf4(),
        int8: int8(),
        higgs4: higgs(), // rows are filled up to Hadamard blocks of 512
        higgs3: higgs({ bits: 3, p: 1, hadamardSize: 64, groupSize: 64 }),
        higgs2: higgs({ bits: 2, hadamardSize: 128, groupSize: 128, packing: 'portable' }),
      };
      for (const [name, quantizer] of Object.entries(quantizers)) {
        await using source = await openCheckpoint(folder);
        await quantizeCheckpoint(source, { out: join(out, name), quantizer, adapters: [llama] });
        paths.push(join(out, name));
      }
      for (const path of paths) {
        const expected = await greedy(path, [referenceBackend()]);
        expect(await greedy(path, [cpu({ threads: 2 })]), path).toEqual(expected);
        expect((await greedy(path, [cpu({ threads: 2, precision: 'fast' })])).length).toBeGreaterThan(0);
      }
    } finally {
      rmSync(out, { recursive: true, force: true });
    }
  });

  it('keys and values of 16 bits take half the memory and change logits a little', async (context) => {
    addon(context);
    const ids = Array.from({ length: 40 }, (_, i) => 40 + 7 * i);
    const found: { logits: Float32Array; bytes: number }[] = [];
    for (const kvDtype of ['f32', 'f16', 'bf16'] as const) {
      await using runtime = await createRuntime({ backends: [cpu({ threads: 2, kvDtype })] });
      await using checkpoint = await openCheckpoint(folder);
      await using model = await loadModel(checkpoint, { runtime, contextLength: 64 });
      let bytes = 0;
      for await (const _ of model.stream({ ids, maxTokens: 3, temperature: 0, ignoreEos: true })) {
        bytes = Math.max(bytes, model.memory().kvCache);
      }
      found.push({ logits: toFloat32(await model.logits(ids)).slice(), bytes });
    }
    const [plain, ...rounded] = found;
    const largest = plain!.logits.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    for (const [i, { logits, bytes }] of rounded.entries()) {
      expect(bytes).toBe(plain!.bytes / 2);
      const off = logits.reduce((most, value, j) => Math.max(most, Math.abs(value - plain!.logits[j]!)), 0);
      expect(off).toBeGreaterThan(0);
      expect(off / largest).toBeLessThan(i === 0 ? 2e-3 : 2e-2);
    }
    expect(() => cpu({ kvDtype: 'int8' as never })).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it('lets the event loop run during a step, one step at a time, and ends cleanly when it is disposed meanwhile', async (context) => {
    addon(context);
    const backend = await cpu({ threads: 2 }).open();
    const { test } = decoderCase();
    const linears = await Promise.all(
      test.program.linears.map(({ path, bias }) =>
        backend.prepare(test.weights.get(path)!, { bias: bias === undefined ? undefined : test.program.constants[bias] }),
      ),
    );
    const executable = await backend.compile(test.program, linears, { contextLength: 2048 });
    const id = executable.open();
    const tokens = Uint32Array.from({ length: 1500 }, (_, i) => i % 19);
    const step = executable.step([{ id, tokens }]);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await expect(executable.step([{ id, tokens }])).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    const { logits } = await step;
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
    expect(toFloat32(logits!).every(Number.isFinite)).toBe(true);
    const late = executable.step([{ id, tokens: tokens.subarray(0, 200) }]);
    executable[Symbol.dispose]();
    for (const linear of linears) linear[Symbol.dispose]();
    await backend[Symbol.asyncDispose]();
    await expect(late).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(backend.allocated()).toBe(0);
  });

  it('survives threads of JavaScript that end in the middle of a step', async (context) => {
    addon(context);
    const addonPath = fileURLToPath(new URL('../packages/kernels-cpu/build/Release/lowbit_cpu.node', import.meta.url));
    // So many operations that a step is still running when this thread, on a busy machine, gets to end it.
    const code = `
      const { parentPort } = require('node:worker_threads');
      const native = require(${JSON.stringify(addonPath)});
      const machine = native.openMachine('scalar', 2);
      const weight = native.createWeight({ kind: 'dense', out: 2048, inp: 2048, dtype: 'f32' }, {});
      const program = native.compileProgram(machine, {
        tensors: [{ rows: 0, width: 2048, offset: 0 }, { rows: 0, width: 2048, offset: 2048 }], arena: [4096, 0, 0, 0],
        ops: [{ op: 'input', out: 0 }, { op: 'linear', x: 0, out: 1, linear: 0 }], ropes: [], caches: [], constants: [], linears: [weight], contextLength: 4096, kvDtype: 'f32',
      });
      const rows = 500;
      native.stepProgram(program, {
        tokens: new Uint32Array(rows), rows: [rows, 0, 0, 0], planes: 3, injections: [], inputs: [{ out: 0, values: new Float32Array(rows * 2048) }],
        shares: [{ id: 1, start: 0, length: rows, remembers: false, from: [0, 0, 0, 0], count: [rows, 0, 0, 0], wanted: new Uint32Array(0) }],
      });
      parentPort.postMessage('running');`;
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(code, { eval: true });
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      expect(await worker.terminate()).toBe(1);
    }
  });

  it('gives everything back, round after round', async (context) => {
    addon(context);
    const rounds = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) await greedy(folder, [cpu({ threads: 2 })], 2);
    };
    await rounds(5);
    const before = process.memoryUsage().rss;
    await rounds(20);
    expect(process.memoryUsage().rss - before).toBeLessThan(80 << 20);
  });
});
