// Programs as launches: how many of them, what comes back, what is held; keys and values in 16 bits; memory that is missing.
import { type Backend, type Executable, type Format, isLowbitError, referenceBackend, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import type { WebGpuBackend } from './backend.ts';
import type { WebGpuExecutable } from './executable.ts';
import type { GpuDevice } from './gpu.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const AFFINE = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
const PAIRS = { kind: 'codebook', bits: 4, dim: 2, group: 32, table: 'sample', scale: 'f16', packing: 'u8' } as const;
const HIGGS = { ...PAIRS, rotate: { kind: 'hadamard', block: 32 } } as const;
/** Formats, and dispatches of a Llama layer of one row, and of a few. */
const FORMATS: readonly (readonly [string, Format, number, number])[] = [
  ['affine', AFFINE, 5, 6],
  ['NF4', { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' }, 5, 6],
  ['f16', { kind: 'dense', dtype: 'f16' }, 5, 6],
  ['HIGGS', HIGGS, 5, 12],
  ['LLM.int8', { kind: 'int8', threshold: 2 }, 5, 22],
  ['LLM.int8 without outliers', { kind: 'int8', threshold: 0 }, 5, 18],
];
const LONG = { timeout: 120_000 };

async function compiled(backend: Backend, { program, weights }: TinyDecoder): Promise<Executable> {
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  return backend.compile(program, linears, { contextLength: 64 });
}

/** As `tinyDecoder`, of so many Llama layers without experts. */
function llamaOf(layers: number, format: Format = AFFINE): TinyDecoder {
  const b = new ProgramBuilder({ layers });
  const weights: TinyDecoder['weights'][number][] = [];
  const linear = (shape: readonly [number, number], use: 'linear' | 'both' = 'linear'): number => {
    weights.push(sampleWeight(format, shape, 7 + weights.length));
    return b.addLinear(`${weights.length}`, shape, { use });
  };
  const scale = b.addConstant(seededTensor(3, [64], 1));
  const table = linear([32, 64], 'both');
  let x = b.embed(table);
  const rope = b.addRope({ kind: 'fixed', frequencies: Array.from({ length: 16 }, (_, i) => 10000 ** (-i / 16)), scale: 1 });
  for (let layer = 0; layer < layers; layer++) {
    b.layer = layer;
    const h = b.norm(x, { kind: 'rms', eps: 1e-5, weight: scale });
    const turn = (id: number): number => b.rope(id, { heads: 2, dim: 32, style: 'half', rope });
    const q = turn(b.linear(h, linear([64, 64])));
    const k = turn(b.linear(h, linear([64, 64])));
    const v = b.linear(h, linear([64, 64]));
    const cache = b.addCache({ heads: 2, keyDim: 32, valueDim: 32 });
    x = b.add(x, b.linear(b.attend(q, { k, v, cache, heads: 2, keyDim: 32, scale: 0.18 }), linear([64, 64])));
    const m = b.norm(x, { kind: 'rms', eps: 1e-5, weight: scale });
    x = b.add(x, b.linear(b.gate(b.linear(m, linear([128, 64])), b.linear(m, linear([128, 64])), 'silu'), linear([64, 128])));
  }
  b.layer = layers;
  b.output('logits', b.linear(b.norm(b.select(x), { kind: 'rms', eps: 1e-5, weight: scale }), table));
  return { program: b.build(), weights };
}

/** A device as another, whose calls of commands and of its queue are counted, and what it makes beside pipelines. */
function counted(real: GpuDevice, calls: Map<string, number>): GpuDevice {
  const watch = <T extends object>(target: T, inner: Readonly<Record<string, true>> = {}): T =>
    new Proxy(target, {
      get(of, key) {
        const value = Reflect.get(of, key);
        if (key === 'queue') return watch(value as object);
        if (typeof value !== 'function') return value;
        return (...given: unknown[]) => {
          const name = String(key);
          if (!name.includes('EventListener') && !name.includes('ErrorScope')) calls.set(name, (calls.get(name) ?? 0) + 1);
          const made = Reflect.apply(value, of, given);
          return inner[name] ? watch(made as object, inner) : made;
        };
      },
    });
  return watch(real, { createCommandEncoder: true, beginComputePass: true });
}

describe('a step', () => {
  it('of a Llama decode is 5 dispatches a layer, one submit, and 8 bytes for the best token', LONG, async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using backend = (await webgpu(TEST_OPTIONS).open()) as WebGpuBackend;
    const counts: number[] = [];
    for (const layers of [1, 2]) {
      using executable = (await compiled(backend, llamaOf(layers))) as WebGpuExecutable;
      const id = executable.open();
      await executable.step([{ id, tokens: Uint32Array.of(1) }]);
      const outputs = await executable.step([{ id, tokens: Uint32Array.of(2) }], { largest: { logits: 1 } });
      expect(outputs['logits.ids']!.shape).toEqual([1, 1]);
      expect(executable.costs).toMatchObject({ submits: 1, read: 8 });
      counts.push(executable.costs.dispatches);
      // A step that needs no more room makes no buffer.
      const { buffers } = backend.counts;
      await executable.step([{ id, tokens: Uint32Array.of(3) }], { largest: { logits: 1 } });
      expect(backend.counts.buffers - buffers).toBe(0);
    }
    // Embedding, select, norm with the head, and two to choose the best.
    expect(counts).toEqual([5 + 5, 10 + 5]);
  });

  it.for(FORMATS)('in %s takes so many dispatches a layer, whatever the features', LONG, async ([, format, dispatches, ofFew], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    // Dawn's null backend computes nothing, and has all features.
    for (const features of [[], ['subgroups', 'shader-f16']] as const) {
      await using backend = (await webgpu({ dawn: ['backend=null'], software: true, selfTest: false, features }).open()) as WebGpuBackend;
      expect(backend.device.features.filter((name) => name !== 'webgpu' && name !== 'software')).toEqual(features);
      const [counts, few]: [number[], number[]] = [[], []];
      for (const layers of [1, 2]) {
        using executable = (await compiled(backend, llamaOf(layers, format))) as WebGpuExecutable;
        const id = executable.open();
        await executable.step([{ id, tokens: Uint32Array.of(1) }]);
        await executable.step([{ id, tokens: Uint32Array.of(2) }], { largest: { logits: 1 } });
        expect(executable.costs).toMatchObject({ submits: 1, read: 8 });
        counts.push(executable.costs.dispatches);
        await executable.step([{ id, tokens: Uint32Array.of(3, 4, 5) }]);
        few.push(executable.costs.dispatches);
      }
      expect([counts[1]! - counts[0]!, few[1]! - few[0]!]).toEqual([dispatches, ofFew]);
    }
  });

  it('of a token makes so many calls of WebGPU and nothing on the device, in every format', LONG, async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const real = await requestDevice(await findAdapter(await findGpu(['backend=null']), { software: true }));
    const calls = new Map<string, number>();
    await using backend = await webgpu({ software: true, selfTest: false, device: counted(real, calls) }).open();
    for (const [name, format] of FORMATS) {
      const made: Record<string, number>[] = [];
      for (const layers of [1, 2]) {
        using executable = await compiled(backend, llamaOf(layers, format));
        const id = executable.open();
        // Caches have room for the fourth.
        for (const token of [1, 2, 3]) await executable.step([{ id, tokens: Uint32Array.of(token) }], { largest: { logits: 1 } });
        calls.clear();
        await executable.step([{ id, tokens: Uint32Array.of(4) }], { largest: { logits: 1 } });
        made.push(Object.fromEntries(calls));
      }
      const [one, two] = made as [Record<string, number>, Record<string, number>];
      const layer = Object.fromEntries(
        Object.keys(two).flatMap((call) => (two[call] === one[call] ? [] : [[call, two[call]! - (one[call] ?? 0)]])),
      );
      // The cache is bound for attention.
      expect(layer, name).toEqual({ setPipeline: 5, setBindGroup: 6, dispatchWorkgroups: 5 });
      // HIGGS turns what it looks up.
      const more = name === 'HIGGS' ? 1 : 0;
      expect(one, name).toEqual({
        ...{ setPipeline: 10 + more, setBindGroup: 15 + more, dispatchWorkgroups: 10 + more },
        ...{ createCommandEncoder: 1, beginComputePass: 2, end: 2 },
        ...{ copyBufferToBuffer: 1, finish: 1, writeBuffer: 1, submit: 1 },
      });
    }
    real.destroy();
  });

  const kernels = FORMATS.filter(([name]) => ['affine', 'HIGGS', 'LLM.int8'].includes(name));
  it.for(kernels)(
    'in %s gives what the reference gives with one row, several and many, in every fused kernel',
    LONG,
    async ([, format], context) => {
      needs(context, 'webgpu', missing === undefined, missing ?? '');
      await using backend = await webgpu(TEST_OPTIONS).open();
      await using reference = await referenceBackend().open();
      const decoder = llamaOf(2, format);
      const rows: Float32Array[] = [];
      for (const on of [backend, reference]) {
        using executable = await compiled(on, decoder);
        const id = executable.open();
        const all: number[] = [];
        for (const count of [1, 5, 20, 1]) {
          const tokens = Uint32Array.from({ length: count }, (_, i) => (i * 7 + count) % 32);
          const { logits } = await executable.step([{ id, tokens, wanted: Uint32Array.from(tokens.keys()) }]);
          all.push(...toFloat32(logits!));
        }
        rows.push(Float32Array.from(all));
      }
      const [got, expected] = rows as [Float32Array, Float32Array];
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      // Numbers that are rounded to 8 bits go the other way where they lie between two.
      const bound = (format.kind === 'int8' ? 2e-2 : 2e-4) * largest;
      for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(bound);
    },
  );

  it('gives the same bytes for the same inputs, however often, on one device', LONG, async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using backend = await webgpu(TEST_OPTIONS).open();
    const decoder = llamaOf(1);
    const runs: Uint8Array[][] = [];
    for (let run = 0; run < 3; run++) {
      using executable = await compiled(backend, decoder);
      const id = executable.open();
      const all: Uint8Array[] = [];
      for (const count of [1, 5, 20, 1]) {
        const tokens = Uint32Array.from({ length: count }, (_, i) => (i * 7 + count) % 32);
        const { logits } = await executable.step([{ id, tokens, wanted: Uint32Array.from(tokens.keys()) }]);
        all.push(logits!.data.slice());
      }
      runs.push(all);
    }
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).toEqual(runs[0]);
  });

  it.for(['f16', 'bf16'] as const)('keeps keys and values in %s: half the memory, nearly the numbers', LONG, async (kvDtype, context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using reference = await referenceBackend().open();
    await using backend = await webgpu({ ...TEST_OPTIONS, kvDtype }).open();
    const decoder = llamaOf(1);
    const held: number[] = [];
    const rows: Float32Array[] = [];
    for (const on of [backend, reference]) {
      using executable = await compiled(on, decoder);
      const id = executable.open();
      await executable.step([{ id, tokens: Uint32Array.of(3, 14, 15, 9) }]);
      // A row by itself brings its key along.
      await executable.step([{ id, tokens: Uint32Array.of(26) }]);
      const { logits } = await executable.step([{ id, tokens: Uint32Array.of(5) }]);
      rows.push(toFloat32(logits!).slice());
      held.push(executable.memory().cache);
    }
    expect(held[0]! * 2).toBe(held[1]!);
    const largest = Math.max(...rows[1]!.map(Math.abs));
    const bound = kvDtype === 'f16' ? 6e-3 : 5e-2;
    for (const [i, value] of rows[1]!.entries()) expect(Math.abs(rows[0]![i]! - value)).toBeLessThanOrEqual(bound * largest);
    expect(rows[0]).not.toEqual(rows[1]);
  });

  it('without memory is ERR_LIMIT, leaves the sequence as it was, and can be done again', LONG, async (context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    const real = await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
    let full = false;
    // The real device; when `full`, its error scopes find that memory is missing.
    const device = new Proxy(real, {
      get(target, key) {
        if (key === 'popErrorScope' && full) {
          return async () => {
            await target.popErrorScope();
            return { message: 'Device memory exhausted' };
          };
        }
        const value = Reflect.get(target, key);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    }) as GpuDevice;
    const backend = await webgpu({ ...TEST_OPTIONS, device }).open();
    const decoder = tinyDecoder(AFFINE);
    const executable = await compiled(backend, decoder);
    const id = executable.open();
    await executable.step([{ id, tokens: Uint32Array.of(1, 2) }]);
    const held = backend.allocated();
    full = true;
    const error = await executable.step([{ id, tokens: new Uint32Array(12) }]).catch((thrown: unknown) => thrown);
    expect(isLowbitError(error, 'ERR_LIMIT')).toBe(true);
    expect(error).toMatchObject({ details: { reason: 'OUT_OF_MEMORY' } });
    await expect(backend.prepare(decoder.weights[0]!)).rejects.toMatchObject({ code: 'ERR_LIMIT' });
    expect(executable.length(id)).toBe(2);
    expect(backend.allocated()).toBe(held);
    full = false;
    const again = await executable.step([{ id, tokens: Uint32Array.of(3) }]);
    using fresh = await compiled(backend, decoder);
    const whole = await fresh.step([{ id: fresh.open(), tokens: Uint32Array.of(1, 2, 3) }]);
    const [got, expected] = [toFloat32(again.logits!), toFloat32(whole.logits!)];
    for (const [i, value] of expected.entries()) expect(got[i]).toBeCloseTo(value, 3);
    await backend[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(0);
    real.destroy();
  });
});

describe('experts', () => {
  it.for([
    ['affine', AFFINE],
    ['int8', { kind: 'int8', threshold: 2 }],
    ['HIGGS', HIGGS],
  ] as const)('%s, in one buffer and in several', LONG, async ([, format], context) => {
    needs(context, 'webgpu', missing === undefined, missing ?? '');
    await using reference = await referenceBackend().open();
    const decoder = tinyDecoder(format, { experts: 5 });
    const logits = async (backend: Backend): Promise<Float32Array> => {
      using executable = await compiled(backend, decoder);
      const id = executable.open();
      const all: number[] = [];
      // Few rows and many of them.
      for (const count of [1, 20]) {
        const tokens = Uint32Array.from({ length: count }, (_, i) => (i * 7 + count) % 24);
        const step = await executable.step([{ id, tokens, wanted: Uint32Array.from(tokens.keys()) }]);
        all.push(...toFloat32(step.logits!));
      }
      return Float32Array.from(all);
    };
    const expected = await logits(reference);
    const largest = Math.max(...expected.map(Math.abs));
    // Numbers that are rounded to 8 bits go the other way where they lie between two.
    const bound = format.kind === 'int8' ? 2e-2 : 1e-3;
    // 16 KiB bind two experts of four bits, or one of eight, at a time.
    for (const bindingLimit of [1 << 26, 1 << 14]) {
      await using backend = await webgpu({ ...TEST_OPTIONS, bindingLimit }).open();
      const got = await logits(backend);
      for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(bound * largest);
    }
  });
});
