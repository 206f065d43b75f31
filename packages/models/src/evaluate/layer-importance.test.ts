import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { createRuntime, hostTensor, type Importance, type Routine, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { checkpointImportance } from './importance.ts';
import { importanceMemory } from './importance-memory.ts';
import { layerImportance } from './layer-importance.ts';
import { squares } from './squares.ts';

const checkpoint = memoryCheckpoint(goldenContents(golden, 'perplexity'));
const ids = [
  [5, 9, 2, 77, 31, 8],
  [40, 3, 3, 12],
];
const settings = { ids, kind: 'diagonal', identity: 'test' } as const; // matrices take the same way

/** A runtime whose sums of products are that. */
function withSquares(runtime: Runtime, squaring: Routine): Runtime {
  return new Proxy(runtime, {
    get(target, name) {
      if (name === 'routine') return (asked: string) => (asked === 'moments.squares' ? squaring : undefined);
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

describe('layerImportance', () => {
  it('gives what the pass over the whole model does, in the order of layers or not, in parallel or not', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const whole = await checkpointImportance(checkpoint, { ...settings, runtime });
    const paths = [...whole.keys()];
    expect(paths.length).toBeGreaterThan(10);
    for (const order of [paths, [...paths].reverse()]) {
      await using layers = await layerImportance(checkpoint, { ...settings, runtime });
      expect(layers.identity).toBe('test');
      layers.begin(order);
      for (const path of order) expect(await layers.of(path), path).toEqual(whole.get(path));
    }
    await using layers = await layerImportance(checkpoint, { ...settings, runtime });
    layers.begin(paths);
    expect(await Promise.all(paths.map((path) => layers.of(path)))).toEqual(paths.map((path) => whole.get(path)));
  });

  it('runs no layer before it is asked for', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const done: number[] = [];
    await using layers = await layerImportance(checkpoint, { ...settings, runtime, onProgress: (event) => void done.push(event.done) });
    expect(done).toEqual([]);
    const first = 'model.layers.0.self_attn.q_proj';
    await layers.of(first);
    const before = done.length;
    await layers.of('model.layers.0.mlp.down_proj');
    expect(done.length).toBe(before); // the same layer
    await layers.of('model.layers.1.mlp.down_proj');
    expect(done.length).toBeGreaterThan(before);
  });

  it('knows nothing of what the model does not run, and gives nothing twice, nor what was not announced', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using layers = await layerImportance(checkpoint, { ...settings, runtime });
    const [path, other] = ['model.layers.0.self_attn.q_proj', 'model.layers.0.self_attn.k_proj'];
    layers.begin([path]);
    expect(await layers.of('vision.proj')).toBeUndefined();
    expect(await layers.of(path)).toBeDefined();
    const gone = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', details: { path } });
    await expect(layers.of(path)).rejects.toThrow(gone);
    await expect(layers.of(other)).rejects.toThrow(expect.objectContaining({ details: { path: other } }));
  });

  it('tells everybody who asks what went wrong, and ends when it is disposed of on the way', async () => {
    const stop = new AbortController();
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    {
      await using layers = await layerImportance(checkpoint, { ...settings, runtime, signal: stop.signal });
      await layers.of('model.layers.0.self_attn.q_proj');
      stop.abort();
      for (const path of ['model.layers.1.self_attn.q_proj', 'model.layers.1.self_attn.k_proj']) {
        await expect(layers.of(path)).rejects.toBe(stop.signal.reason);
      }
    }
    const layers = await layerImportance(checkpoint, { ...settings, runtime });
    await layers.of('model.layers.0.self_attn.q_proj');
    await layers[Symbol.asyncDispose]();
    await expect(layers.of('model.layers.1.self_attn.q_proj')).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
  });

  it('ends when it is disposed of while the last sums of a layer are under way', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    let ended: PromiseLike<void> | undefined;
    const squaring: Routine = async ([x]) => {
      ended ??= layers[Symbol.asyncDispose]();
      const width = x!.shape[1]!;
      return [hostTensor('f64', [width, width], await squares(toFloat32(x!), width))];
    };
    const squared = withSquares(runtime, squaring);
    const layers = await layerImportance(checkpoint, { ...settings, kind: 'matrix', runtime: squared });
    await expect(layers.of('model.layers.0.self_attn.q_proj')).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    expect(ended).toBeDefined();
    await ended;
  });

  it('stops waiting for who is told to, and gives what was asked for to who asks again', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    await using layers = await layerImportance(checkpoint, { ...settings, runtime });
    const path = 'model.layers.1.mlp.down_proj';
    const stop = new AbortController();
    const waiting = layers.of(path, { signal: stop.signal });
    stop.abort();
    await expect(waiting).rejects.toBe(stop.signal.reason);
    await expect(layers.of(path, { signal: stop.signal })).rejects.toBe(stop.signal.reason);
    const whole = await checkpointImportance(checkpoint, { ...settings, runtime });
    expect(await layers.of(path, { signal: new AbortController().signal })).toEqual(whole.get(path));
  });

  it('leaves no failure that nobody hears of, where who asks and the pass are stopped together', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const unheard: unknown[] = [];
    const hear = (reason: unknown): void => void unheard.push(reason);
    process.on('unhandledRejection', hear);
    try {
      for (let turn = 0; turn < 8; turn++) {
        const stop = new AbortController();
        const layers = await layerImportance(checkpoint, { ...settings, kind: 'matrix', runtime, signal: stop.signal });
        const waiting = layers.of('model.layers.1.self_attn.q_proj', { signal: stop.signal });
        setTimeout(() => stop.abort(), turn);
        await waiting.catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, 20));
        await layers[Symbol.asyncDispose]();
      }
      expect(unheard).toEqual([]);
    } finally {
      process.off('unhandledRejection', hear);
    }
  });

  it('refuses kinds and bounds that are none', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    for (const wrong of [
      { kind: 'full' },
      { kind: 7 },
      { kind: null },
      { momentMemory: '16GB' },
      { momentMemory: Number.NaN },
      { momentMemory: -1 },
    ]) {
      const options = { ...settings, runtime, ...wrong } as Parameters<typeof layerImportance>[1];
      await expect(layerImportance(checkpoint, options), JSON.stringify(wrong)).rejects.toThrow(
        expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }),
      );
    }
  });

  it('makes the matrices of experts one at a time, and lets go of each with the last linear that has it', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const mixture = memoryCheckpoint(goldenContents(golden, 'mixtral-published'));
    const whole = await checkpointImportance(mixture, { ids, kind: 'matrix', runtime });
    let calls = 0;
    const counted = withSquares(runtime, async ([x]) => {
      calls++;
      const width = x!.shape[1]!;
      return [hostTensor('f64', [width, width], await squares(toFloat32(x!), width))];
    });
    await using layers = await layerImportance(mixture, { ids, kind: 'matrix', identity: 'test', runtime: counted });
    const experts = [...whole.keys()].filter((path) => path.startsWith('model.layers.0.block_sparse_moe.experts'));
    expect(experts.length).toBeGreaterThan(6);
    layers.begin(experts);
    const held: WeakRef<Importance>[] = [];
    const seen = new Set<string>();
    const take = async (path: string): Promise<void> => {
      const input = path.replace(/w[13]$/, 'in');
      const before = calls;
      const found = (await layers.of(path))!;
      expect(Buffer.from(found.moments.data).equals(whole.get(path)!.moments.data), path).toBe(true);
      expect(calls - before, path).toBe(seen.has(input) ? 0 : 1); // attention, which nobody asks for, is not summed
      seen.add(input);
      held.push(new WeakRef(found));
    };
    for (const path of experts) await take(path);
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    for (let turn = 0; turn < 10 && held.some((of) => of.deref()); turn++) {
      await new Promise((resolve) => setTimeout(resolve));
      collect();
    }
    expect(experts.filter((_, i) => held[i]!.deref())).toEqual([]);
  });

  it('sums single channels where nobody who reads the same has a matrix, whoever is asked for', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const path = (name: string): string => `model.layers.0.self_attn.${name}_proj`;
    const kind = (of: string): Importance['kind'] => (of === path('q') ? 'matrix' : 'diagonal');
    const [matrices, diagonals] = [
      await checkpointImportance(checkpoint, { ids, kind: 'matrix', runtime }),
      await checkpointImportance(checkpoint, { ids, runtime }),
    ];
    for (const asked of [
      ['q', 'v', 'o'],
      ['v', 'o'],
    ]) {
      await using layers = await layerImportance(checkpoint, { ids, kind, identity: 'test', runtime });
      layers.begin(asked.map(path));
      for (const name of asked) expect(await layers.of(path(name)), name).toEqual((name === 'o' ? diagonals : matrices).get(path(name)));
    }
  });

  it('refuses a layer over the limit before anything is run, by what is asked for', async () => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const mixture = memoryCheckpoint(goldenContents(golden, 'mixtral-published'));
    const { bytes, layer, linears } = await importanceMemory(mixture, { tokens: 10 });
    const done: number[] = [];
    const limited = (momentMemory: number) =>
      layerImportance(mixture, {
        ...{ ids, kind: 'matrix', identity: 'test', runtime, momentMemory },
        onProgress: (event) => void done.push(event.done),
      });
    await using few = await limited(bytes - 1);
    const refused = expect.objectContaining({ code: 'ERR_LIMIT', details: { bytes, layer, momentMemory: bytes - 1 } });
    expect(() => few.begin(linears)).toThrow(refused);
    await using unsaid = await limited(bytes - 1);
    await expect(unsaid.of(linears[0]!)).rejects.toThrow(refused);
    expect(done).toEqual([]);
    await using enough = await limited(bytes);
    enough.begin(linears);
    expect(await enough.of(linears[0]!)).toBeDefined();
    await using narrow = await limited(bytes - 1);
    narrow.begin(linears.filter((path) => path.endsWith('q_proj')));
    expect(await narrow.of(linears.find((path) => path.endsWith('q_proj'))!)).toBeDefined();
  });

  it.each([undefined, '', 5])('refuses %j as an identity: unfinished work of other numbers could be gone on with', async (identity) => {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    const refused = layerImportance(checkpoint, { ...settings, runtime, identity: identity as string });
    await expect(refused).rejects.toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', details: { option: 'identity' } }));
  });
});
