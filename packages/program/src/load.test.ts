import type { Backend, BackendProvider, Format, Program, QuantizedLinear, QuantizedTensor } from '@lowbit/core';
import { createRuntime, isLowbitError, type LowbitError, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { alone, chunked, decoderCase, play, sampleWeight, seededTensor, together } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ProgramBuilder } from './builder.ts';
import { type LoadedProgram, type LoadOptions, loadProgram, type ProgramRuntime } from './load.ts';

const DENSE: Format = { kind: 'dense', dtype: 'f32' };
const NF4: Format = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };

async function caught(body: () => unknown): Promise<LowbitError> {
  try {
    await body();
  } catch (error) {
    if (isLowbitError(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

/** The reference under another name, with some methods replaced; counts how often it is opened, and keeps what it opened. */
function named(name: string, change: (backend: Backend) => Partial<Backend> = () => ({})): BackendProvider & { opened: Backend[] } {
  const provider = referenceBackend({ name });
  const opened: Backend[] = [];
  return {
    ...provider,
    opened,
    open: async () => {
      const backend = await provider.open();
      opened.push(backend);
      const changes = change(backend);
      return new Proxy(backend, {
        get(target, key) {
          const own = changes[key as keyof Backend];
          const value = own ?? target[key as keyof Backend];
          return typeof value === 'function' && own === undefined ? value.bind(target) : value;
        },
      });
    },
  };
}

/** Notes for how many sequences programs are compiled. */
const roomy = (name: string, rooms: (number | undefined)[]) =>
  named(name, (backend) => ({
    compile: (program, linears, options) => {
      rooms.push(options.maxSequences);
      return backend.compile(program, linears, options);
    },
  }));

const denseOnly = (name: string): ReturnType<typeof named> =>
  named(name, (backend) => ({
    supports: (request) => (request.format.kind === 'dense' ? backend.supports(request) : { level: 'none', reason: 'dense weights only' }),
  }));
const AFFINE: Format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
function quantizedProgram(): Program {
  const b = new ProgramBuilder({ layers: 0 });
  b.output('y', b.embed(b.addLinear('table', [64, 64], { use: 'embedding' })));
  return b.build();
}

const one = decoderCase();
const load = (runtime: ProgramRuntime, options: Partial<LoadOptions> = {}): Promise<LoadedProgram> =>
  loadProgram(runtime, one.test.program, async ({ path }) => ({ weight: one.test.weights.get(path)! }), { contextLength: 64, ...options });

describe('load', () => {
  it('keeps scales, zeros and tables in host memory where asked: less on the device, the same rows', async () => {
    await using runtime = await createRuntime({ backends: [named('a')] });
    const program = quantizedProgram();
    const weights = async () => ({ weight: sampleWeight(AFFINE, [64, 64]) });
    const step = async (offloadMeta: boolean) => {
      await using loaded = await loadProgram(runtime, program, weights, { contextLength: 4, offloadMeta });
      const { y } = await loaded.step([{ id: loaded.open(), tokens: Uint32Array.of(1) }]);
      return { y: toFloat32(y!).slice(), bytes: loaded.memory().weights };
    };
    const [plain, offloaded] = [await step(false), await step(true)];
    expect(offloaded.bytes).toBe(plain.bytes - 8 * 64);
    expect(offloaded.y).toEqual(plain.y);
  });

  it('runs as the backend alone does, and gives everything back', async () => {
    const a = named('a');
    await using runtime = await createRuntime({ backends: [a] });
    const seen: string[] = [];
    const loaded = await load(runtime, { onProgress: ({ item, done, total }) => seen.push(`${item} ${done}/${total}`) });
    expect(seen[0]).toBe(`embed 1/${one.test.program.linears.length}`);
    expect(loaded.backends).toEqual(['a']);
    expect(loaded.linears).toHaveLength(one.test.program.linears.length);
    expect(loaded.memory().weights).toBe(loaded.linears.reduce((sum, { bytes }) => sum + bytes, 0));
    const id = loaded.open();
    await loaded.step([{ id, tokens: Uint32Array.of(1, 2) }]);
    expect(loaded.length(id)).toBe(2);
    expect(loaded.memory().cache).toBeGreaterThan(0);
    await loaded[Symbol.asyncDispose]();
    await loaded[Symbol.asyncDispose]();
    expect(a.opened[0]!.allocated()).toBe(0);
    expect((await caught(() => loaded.open())).code).toBe('ERR_DISPOSED');
    expect((await caught(() => loaded.step([]))).code).toBe('ERR_DISPOSED');
  });

  it('gives the same bytes across any cut, for any steps', async () => {
    await using runtime = await createRuntime({ backends: [named('a'), named('b')] });
    await using whole = await load(runtime);
    const expected = await play(whole as never, one.test.program, one.scripts, together(one.scripts));
    for (const layers of [[2], [1, 1], [0, 2], [2, 0], [0, 1, 1, 0]]) {
      await using cut = await load(runtime, { cut: layers.map((count, i) => ({ backend: i % 2 === 0 ? 'a' : 'b', layers: count })) });
      for (const schedule of [together(one.scripts), alone(one.scripts), chunked(one.scripts, 2)]) {
        expect(await play(cut as never, one.test.program, one.scripts, schedule)).toEqual(expected);
      }
    }
  });

  it('forks and truncates across a cut', async () => {
    await using runtime = await createRuntime({ backends: [named('a'), named('b')] });
    await using cut = await load(runtime, {
      cut: [
        { backend: 'a', layers: 1 },
        { backend: 'b', layers: 1 },
      ],
    });
    await using whole = await load(runtime);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 4 })), { minLength: 1, maxLength: 8 }), async (moves) => {
        const results = [];
        for (const program of [cut, whole]) {
          const ids = [program.open()];
          const rows: Uint8Array[] = [];
          for (const [kind, amount] of moves) {
            const id = ids[amount % ids.length]!;
            if (kind === 0 && ids.length < 4) ids.push(program.fork(id));
            else if (kind === 1) program.truncate(id, Math.floor(program.length(id) / 2));
            else {
              const { logits } = await program.step([{ id, tokens: Uint32Array.from({ length: amount }, (_, i) => i + kind) }]);
              rows.push(logits!.data);
            }
          }
          results.push(
            rows,
            ids.map((id) => program.length(id)),
          );
          for (const id of ids) program.close(id);
        }
        expect(results.slice(0, 2)).toEqual(results.slice(2));
      }),
      { numRuns: 25 },
    );
  });

  it('goes back everywhere when a later piece fails', async () => {
    let fail = false;
    const failing = named('failing', (backend) => ({
      compile: async (program, linears, options) => {
        const executable = await backend.compile(program, linears, options);
        const { step } = executable;
        executable.step = (batch, more) => (fail ? Promise.reject(new Error('device lost')) : step.call(executable, batch, more));
        return executable;
      },
    }));
    await using runtime = await createRuntime({ backends: [named('a'), failing] });
    await using cut = await load(runtime, {
      cut: [
        { backend: 'a', layers: 1 },
        { backend: 'failing', layers: 1 },
      ],
    });
    const [id, fresh] = [cut.open(), cut.open()];
    await cut.step([{ id, tokens: Uint32Array.of(1, 2) }]);
    fail = true;
    await expect(cut.step([{ id, tokens: Uint32Array.of(3) }])).rejects.toThrow('device lost');
    fail = false;
    expect(cut.length(id)).toBe(2);
    const after = await cut.step([{ id, tokens: Uint32Array.of(3) }]);
    const { logits } = await cut.step([{ id: fresh, tokens: Uint32Array.of(1, 2, 3) }]);
    expect(after.logits).toEqual(logits);
  });

  it('goes back where encoder rows were handed in, too', async () => {
    const b = new ProgramBuilder({ layers: 2 });
    b.layer = 0;
    const encoded = b.input('encoded', { rows: 'encoder', width: 4 });
    let x = b.input('x', { width: 4 });
    for (let layer = 0; layer < 2; layer++) {
      b.layer = layer;
      const cache = b.addCache({ rows: 'encoder', heads: 1, keyDim: 4, valueDim: 4 });
      const k = b.scale(encoded, layer + 1);
      b.remember(k, encoded, cache);
      x = b.attend(x, { cache, heads: 1, keyDim: 4, scale: 1, causal: false });
    }
    b.output('out', x);
    let fail = true;
    const failing = named('failing', (backend) => ({
      compile: async (program, linears, options) => {
        const executable = await backend.compile(program, linears, options);
        const { step } = executable;
        executable.step = (batch, more) => (fail ? Promise.reject(new Error('device lost')) : step.call(executable, batch, more));
        return executable;
      },
    }));
    const rooms: (number | undefined)[] = [];
    await using runtime = await createRuntime({ backends: [roomy('a', rooms), failing] });
    const never = (): never => {
      throw new Error('there are no weights');
    };
    await using cut = await loadProgram(runtime, b.build(), never, {
      contextLength: 8,
      maxSequences: 1,
      cut: [
        { backend: 'a', layers: 1 },
        { backend: 'failing', layers: 1 },
      ],
    });
    await using whole = await loadProgram(runtime, b.build(), never, { contextLength: 8, maxSequences: 3 });
    expect(rooms).toEqual([2, 3]); // a copy of each sequence, where there are several pieces
    const id = cut.open();
    const inputs = { x: seededTensor(1, [1, 4]), encoded: seededTensor(2, [3, 4]) };
    const tokens = Uint32Array.of(0);
    await expect(cut.step([{ id, tokens, inputs }])).rejects.toThrow('device lost');
    fail = false;
    const second = { x: seededTensor(3, [1, 4]) };
    const other = whole.open();
    expect(await cut.step([{ id, tokens, inputs }])).toEqual(await whole.step([{ id: other, tokens, inputs }]));
    expect(await cut.step([{ id, tokens, inputs: second }])).toEqual(await whole.step([{ id: other, tokens, inputs: second }]));
    cut.close(id);
    cut.open();
  });

  it('needs no room for copies where no encoder rows are handed in', async () => {
    const rooms: (number | undefined)[] = [];
    await using runtime = await createRuntime({ backends: [roomy('a', rooms), roomy('b', rooms)] });
    await using cut = await load(runtime, {
      maxSequences: 3,
      cut: [
        { backend: 'a', layers: 1 },
        { backend: 'b', layers: 1 },
      ],
    });
    expect(cut.backends).toEqual(['a', 'b']);
    expect(rooms).toEqual([3, 3]);
  });

  it('goes on to the next backend at a format the first lacks', async () => {
    const [dense, all] = [denseOnly('dense'), named('all')];
    const nf4 = sampleWeight(NF4, [32, 32]);
    const reads: string[] = [];
    const loadWeight = async ({ path }: { path: string }): Promise<{ weight: QuantizedTensor }> => {
      reads.push(path);
      return { weight: path === 'layers.0.o' ? nf4 : one.test.weights.get(path)! };
    };
    await using runtime = await createRuntime({ backends: [dense, all] });
    await using loaded = await loadProgram(runtime, one.test.program, loadWeight, { contextLength: 8 });
    expect(loaded.backends).toEqual(['all']);
    expect(dense.opened[0]!.allocated()).toBe(0);
    reads.length = 0;
    const formats = one.test.program.linears.map(({ path }) => (path === 'layers.0.o' ? NF4 : DENSE));
    await using known = await loadProgram(runtime, one.test.program, loadWeight, { contextLength: 8, formats });
    expect(known.backends).toEqual(['all']);
    expect(reads).toHaveLength(one.test.program.linears.length);
    await using alone = await createRuntime({ backends: [denseOnly('dense')] });
    expect(await caught(() => loadProgram(alone, one.test.program, loadWeight, { contextLength: 8 }))).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
    });
    expect(
      await caught(() => loadProgram(alone, one.test.program, loadWeight, { contextLength: 8, cut: [{ backend: 'dense', layers: 2 }] })),
    ).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      details: { path: 'layers.0.o', backend: 'dense' },
    });
  });

  it.each([0, 3, 10])('releases everything when weight %i fails, is aborted or does not fit', async (at) => {
    const [a, b] = [named('a'), named('b')];
    await using runtime = await createRuntime({ backends: [a, b] });
    for (const cut of [
      undefined,
      [
        { backend: 'a', layers: 1 },
        { backend: 'b', layers: 1 },
      ],
    ]) {
      const start = (act: (index: number) => QuantizedTensor | undefined, signal?: AbortSignal): Promise<LoadedProgram> =>
        loadProgram(
          runtime,
          one.test.program,
          async ({ path }, index) => ({ weight: (index === at ? act(index) : undefined) ?? one.test.weights.get(path)! }),
          {
            contextLength: 8,
            signal,
            ...(cut ? { cut } : {}),
          },
        );
      await expect(
        start(() => {
          throw new Error('disk on fire');
        }),
      ).rejects.toThrow('disk on fire');
      const controller = new AbortController();
      const stopped = start(() => {
        controller.abort(new Error('enough'));
        return undefined;
      }, controller.signal);
      await expect(stopped).rejects.toThrow('enough');
      expect(await caught(() => start(() => sampleWeight(DENSE, [3, 3])))).toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
      expect([...a.opened, ...b.opened].map((backend) => backend.allocated())).toEqual([...a.opened, ...b.opened].map(() => 0));
    }
  });

  it('refuses cuts that do not fit', async () => {
    await using runtime = await createRuntime({ backends: [named('a')] });
    expect((await caught(() => load(runtime, { cut: [{ backend: 'a', layers: 1 }] }))).code).toBe('ERR_BAD_ARGUMENT');
    expect((await caught(() => load(runtime, { cut: [{ backend: 'nobody', layers: 2 }] }))).code).toBe('ERR_BACKEND_UNAVAILABLE');
  });

  it('refuses bad batches as one backend does', async () => {
    await using runtime = await createRuntime({ backends: [named('a'), named('b')] });
    await using cut = await load(runtime, {
      cut: [
        { backend: 'a', layers: 1 },
        { backend: 'b', layers: 1 },
      ],
      maxSequences: 1,
    });
    const id = cut.open();
    expect((await caught(() => cut.open())).code).toBe('ERR_LIMIT');
    expect((await caught(() => cut.fork(id))).code).toBe('ERR_LIMIT');
    const tokens = Uint32Array.of(1);
    expect((await caught(() => cut.step([{ id, tokens, inputs: { nobody: seededTensor(1, [1, 1]) } }]))).message).toContain(
      "no input 'nobody'",
    );
    expect((await caught(() => cut.step([{ id: 9 as typeof id, tokens }]))).code).toBe('ERR_BAD_ARGUMENT');
    const first = cut.step([{ id, tokens }]);
    expect((await caught(() => cut.step([{ id, tokens }]))).message).toContain('a step is running');
    expect((await caught(() => cut.truncate(id, 0))).message).toContain('a step is running');
    await first;
    expect(cut.length(id)).toBe(1);
  });

  it('replaces a linear by another of its backend, not by a wrapper', async () => {
    const a = named('a');
    await using runtime = await createRuntime({ backends: [a] });
    const loaded = await load(runtime);
    const backend = a.opened[0]!;
    const index = one.test.program.linears.findIndex(({ path }) => path === 'layers.0.o');
    const old = loaded.linears[index]!;
    const other = await backend.prepare(sampleWeight(NF4, [...old.shape], 3));
    const id = loaded.open();
    const tokens = Uint32Array.of(1, 2, 3);
    const before = await loaded.step([{ id, tokens }]);
    expect((await caught(() => loaded.replace(index, other))).message).toContain('while 1 sequences are open');
    loaded.close(id);
    const wrapper: QuantizedLinear = {
      format: old.format,
      shape: old.shape,
      bytes: 0,
      bias: false,
      forward: (x, out) => old.forward(x, out),
      dequantize: () => old.dequantize(),
      [Symbol.dispose]: () => {},
    };
    expect((await caught(() => loaded.replace(index, wrapper))).code).toBe('ERR_BAD_ARGUMENT');
    expect(loaded.linears[index]).toBe(old);
    expect(await loaded.replace(index, other)).toBe(old);
    expect(loaded.linears[index]).toBe(other);
    expect(await loaded.step([{ id: loaded.open(), tokens }])).not.toEqual(before);
    expect((await caught(() => loaded.replace(99, other))).code).toBe('ERR_BAD_ARGUMENT');
    await loaded[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(old.bytes); // given back to us, ours to dispose
    old[Symbol.dispose]();
    expect(backend.allocated()).toBe(0);
  });

  it('reads back only the outputs asked for, across a cut too', async () => {
    const b = new ProgramBuilder({ layers: 2 });
    let x = b.input('x', { width: 4 });
    for (let layer = 0; layer < 2; layer++) {
      b.layer = layer;
      x = b.scale(x, 2);
      b.output(`hidden.${layer}`, x);
    }
    const read: (readonly string[])[] = [];
    const watched = named('b', (backend) => ({
      compile: async (program, linears, options) => {
        const executable = await backend.compile(program, linears, options);
        const { step } = executable;
        executable.step = async (batch, more) => {
          const outputs = await step.call(executable, batch, more);
          read.push(Object.keys(outputs));
          return outputs;
        };
        return executable;
      },
    }));
    await using runtime = await createRuntime({ backends: [named('a'), watched] });
    const cut = [
      { backend: 'a', layers: 1 },
      { backend: 'b', layers: 1 },
    ];
    for (const options of [{}, { cut }]) {
      await using loaded = await loadProgram(runtime, b.build(), () => Promise.reject(new Error('no weights')), {
        contextLength: 4,
        ...options,
      });
      const step = (outputs?: readonly string[]): Promise<object> =>
        loaded.step([{ id: loaded.open(), tokens: Uint32Array.of(0), inputs: { x: seededTensor(1, [1, 4]) } }], { outputs });
      const all = (await step()) as Record<string, unknown>;
      expect(Object.keys(all)).toEqual(['hidden.0', 'hidden.1']);
      expect(await step(['hidden.0'])).toEqual({ 'hidden.0': all['hidden.0'] });
      expect(await step(['hidden.1'])).toEqual({ 'hidden.1': all['hidden.1'] });
      expect(await step([])).toEqual({});
      expect((await caught(() => step(['cut.0']))).code).toBe('ERR_BAD_ARGUMENT');
    }
    expect(read).toEqual([['hidden.1'], [], ['hidden.1'], []]);
  });

  it('expands to floats only if allowed', async () => {
    const expanding = named('expanding', () => ({
      supports: ({ format }) => (format.kind === 'dense' ? { level: 'native', bytes: 1 } : { level: 'dequant', bytes: 9 }),
    }));
    await using strict = await createRuntime({ backends: [expanding] });
    await using lenient = await createRuntime({ backends: [expanding], allowDequant: true });
    const expanded = async (): Promise<{ weight: QuantizedTensor }> => ({ weight: sampleWeight(NF4, [8, 64]) });
    const b = new ProgramBuilder({ layers: 0 });
    b.output('y', b.linear(b.input('x', { width: 64 }), b.addLinear('w', [8, 64])));
    expect(await caught(() => loadProgram(strict, b.build(), expanded, { contextLength: 4 }))).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      hint: expect.stringContaining('allowDequant'),
    });
    await using loaded = await loadProgram(lenient, b.build(), expanded, { contextLength: 4 });
    expect(loaded.backends).toEqual(['expanding']);
  });

  it('leaves it to a runtime that loads in a way of its own', async () => {
    await using plain = await createRuntime({ backends: [named('a')] });
    const names: string[] = [];
    const watched: ProgramRuntime = Object.assign(Object.create(plain) as Runtime, {
      async load(...args: Parameters<NonNullable<ProgramRuntime['load']>>) {
        const loaded = await loadProgram(plain, ...args);
        names.push(...loaded.backends);
        return loaded;
      },
    });
    await using loaded = await load(watched);
    expect([names, loaded.backends]).toEqual([['a'], ['a']]);
  });
});
