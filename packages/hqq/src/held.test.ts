// Layers whose weights stay where a backend has them between its routines, and who may hold them where there are several backends.
import {
  codecFor,
  float32Tensor,
  type HostTensor,
  hostTensor,
  memoryReader,
  memoryWriter,
  type QuantizedTensor,
  quantize,
  type Routine,
} from '@lowbit/core';
import { seeded } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { hqq } from './hqq.ts';
import type { HqqOptions } from './options.ts';
import { type BackendRoutine, callHere, type RoutineName } from './routines.ts';

/** Bell-shaped weights with a few large ones, so that the solver takes several steps. */
function weightOf(out: number, inp: number): HostTensor {
  const next = seeded(out * inp);
  return float32Tensor(
    [out, inp],
    Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3)),
  );
}

interface Served {
  /** Names of the routines that were called. */
  readonly calls: Set<string>;
  routine(name: string): BackendRoutine | undefined;
}

/** A backend of those routines alone, or of all: as one that computes in host memory. */
function plain(names?: readonly RoutineName[]): Served {
  const calls = new Set<string>();
  return {
    calls,
    routine: (name) => {
      if (names && !names.includes(name as RoutineName)) return undefined;
      return async (inputs, params) => {
        calls.add(name);
        return callHere(name as RoutineName, inputs, params);
      };
    },
  };
}

interface Holding extends Served {
  /** Weights of tiles by their first group, by layer. */
  readonly held: ReadonlyMap<number, ReadonlyMap<number, HostTensor>>;
  /** Tiles that came, in order. */
  readonly brought: readonly number[];
  /** Layers there was room for. */
  layers(): number;
}

/** A backend that holds weights, as those on a GPU do. */
function holding({ room = true, fails = '', names = undefined as readonly RoutineName[] | undefined } = {}): Holding {
  const held = new Map<number, Map<number, HostTensor>>();
  const brought: number[] = [];
  let layers = 0;
  const { calls, routine } = plain(names);
  const holder: Routine = async (inputs, { hold, release, held: number, first, routine: name, params }) => {
    if (hold) {
      if (!room) return [];
      held.set(++layers, new Map());
      return [hostTensor('f64', [1], Float64Array.of(layers))];
    }
    if (release !== undefined) {
      expect(held.delete(release as number)).toBe(true);
      return [];
    }
    if (name === fails) throw new Error('the device is gone');
    calls.add(name as string);
    const tiles = held.get(number as number)!;
    const [weights, ...more] = inputs as [HostTensor, ...HostTensor[]];
    if (weights.data.length > 0) {
      brought.push(first as number);
      tiles.set(first as number, { ...weights, data: weights.data.slice() });
    }
    const kept = tiles.get(first as number)!;
    expect(kept.shape).toEqual(weights.shape);
    return callHere(name as RoutineName, [kept, ...more], params as never);
  };
  return {
    held,
    brought,
    calls,
    layers: () => layers,
    routine: (name) => {
      const found = routine(name);
      const run: Routine = async (inputs, params) => (room ? expect.fail(`${name} was called past what is held`) : found!(inputs, params));
      return found && Object.assign(run, { held: holder });
    },
  };
}

function same(found: QuantizedTensor['parts'], expected: QuantizedTensor['parts']): void {
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, { data }] of Object.entries(expected)) expect(Buffer.compare(found[name]!.data, data), name).toBe(0);
}

/** A runtime's: that of the first backend that has one. */
function inOrder(...backends: readonly Served[]): Served['routine'] {
  return (name) => backends.map((backend) => backend.routine(name)).find((found) => found !== undefined);
}

describe('a backend that holds weights', () => {
  it.each([
    ['the default, two tiles and a piece', {}, [512, 1088], 3],
    ['axis 0', { axis: 0 }, [64, 128], 1],
    ['proximal-v2 with a search of scales', { solver: { name: 'proximal-v2', scaleSearch: true } }, [64, 128], 1],
    ['least squares', { solver: 'least-squares' }, [64, 128], 1],
    ['no solver', { optimize: false }, [64, 128], 1],
    ['scales that are quantized', { release: '0.1.8', quantScale: true, quantZero: true }, [128, 256], 1],
  ] as const)('gets each tile once: %s', async (_, options, [out, inp], tiles) => {
    const weight = weightOf(out, inp);
    const method = hqq(options as HqqOptions);
    const expected = await quantize(weight, method);
    const runtime = holding();
    same((await quantize(weight, method, { runtime })).parts, expected.parts);
    expect([runtime.brought.length, new Set(runtime.brought).size]).toEqual([tiles, tiles]);
    expect([runtime.layers(), runtime.held.size]).toEqual([1, 0]);
    // Where there is no room the layer goes the other way.
    const full = holding({ room: false });
    same((await quantize(weight, method, { runtime: full })).parts, expected.parts);
    expect(full.brought).toEqual([]);
    expect(full.calls).toEqual(runtime.calls);
  });

  it.each(['hqq.min-max', 'hqq.proximal-steps', 'hqq.finish'])('is told when %s fails', async (fails) => {
    const runtime = holding({ fails });
    await expect(quantize(weightOf(64, 128), hqq(), { runtime })).rejects.toThrow('the device is gone');
    expect([runtime.layers(), runtime.held.size]).toEqual([1, 0]);
  });
});

describe('of several backends', () => {
  const steps = ['hqq.min-max', 'hqq.proximal-steps'] as const;
  const shape = [256, 1088] as const; // two tiles
  const weight = weightOf(...shape);
  const quantizer = hqq();
  const run = async (routine?: Served['routine'], budget = Number.POSITIVE_INFINITY) => {
    const format = quantizer.format(shape, 'f16');
    const { writer, parts } = memoryWriter(codecFor(format).parts(format, shape));
    await quantizer.quantize(memoryReader('w', weight), format, writer, { budget, routine });
    return parts;
  };
  const expected = run();

  it('the first that has a routine does it, whatever a later one could hold', async () => {
    const [first, later] = [plain(), holding()];
    same(await run(inOrder(first, later)), await expected);
    expect(first.calls).toEqual(new Set([...steps, 'hqq.finish']));
    expect([later.layers(), later.calls.size]).toEqual([0, 0]);
  });

  it('one that sees the weights first and holds none leaves the rest to the next, with weights', async () => {
    const [first, later] = [plain(['hqq.min-max']), holding({ room: false })];
    same(await run(inOrder(first, later)), await expected);
    expect([...first.calls, ...later.calls]).toEqual([...steps, 'hqq.finish']);
    expect(later.layers()).toBe(0);
  });

  it.each([
    ['kept', Number.POSITIVE_INFINITY],
    ['read again for each pass', 1 << 20],
  ])('one that holds weights does what none before it does: weights %s', async (_, budget) => {
    const [first, later] = [plain(['hqq.finish']), holding()];
    same(await run(inOrder(first, later), budget), await expected);
    expect([first.calls, later.calls]).toEqual([new Set(['hqq.finish']), new Set(steps)]);
    expect([later.brought.length, new Set(later.brought).size, later.held.size]).toEqual([2, 2, 0]);
  });

  it('what none of them has runs here, on tiles that are held elsewhere', async () => {
    const some = holding({ names: steps });
    same(await run(some.routine), await expected);
    expect([some.calls, some.layers(), some.held.size]).toEqual([new Set(steps), 1, 0]);
  });
});
