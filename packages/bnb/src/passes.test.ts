// Two passes over a weight at a backend: who holds the weights in between. e2e/kernels-cuda-held.test.ts quantizes with them.
import { float32Tensor, hostTensor, type JsonObject, type Routine } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { passes } from './passes.ts';

const piece = { weights: float32Tensor([4], Float32Array.of(1, 2, 3, 4)), from: 8, count: 4 };
const names = ['first', 'second'] as const;

/** A backend that holds weights, and says who was called with what. */
function backend(room = true) {
  const calls: [name: string, params: JsonObject][] = [];
  const routine = (name: string): Routine => {
    return async (_, params) => {
      calls.push([name, params]);
      return name === 'held' && params.hold && room ? [hostTensor('f64', [1], Float64Array.of(7))] : [];
    };
  };
  const held = routine('held');
  return { calls, routine: (name: string): Routine => Object.assign(routine(name), { held }) };
}

describe('two passes at a backend', () => {
  it('go through what holds the weights, until it is released', async () => {
    const { calls, routine } = backend();
    const both = passes(routine, names)!;
    await both.hold('f32', 100);
    expect(both.has(8)).toBe(false);
    await both.call(0, piece, [], { size: 2 });
    expect([both.has(8), both.has(0)]).toEqual([true, false]);
    await both.call(1, piece, [], { size: 3 });
    await both.release();
    expect(calls).toEqual([
      ['held', { hold: { dtype: 'f32', count: 100 } }],
      ['held', { held: 7, first: 8, routine: 'first', params: { size: 2 } }],
      ['held', { held: 7, first: 8, routine: 'second', params: { size: 3 } }],
      ['held', { release: 7 }],
    ]);
  });

  it('are called as they are where there is no room, nobody asks for it, or they are of two backends', async () => {
    const [full, one, other] = [backend(false), backend(), backend()];
    const run = async (routine: (name: string) => Routine, asks = true): Promise<void> => {
      const both = passes(routine, names)!;
      if (asks) await both.hold('f32', 100);
      await both.call(0, piece, [], {});
      await both.call(1, piece, [], {});
      expect(both.has(8)).toBe(false);
      await both.release();
    };
    await run(full.routine);
    expect(full.calls.map(([name]) => name)).toEqual(['held', 'first', 'second']);
    await run(one.routine, false);
    expect(one.calls.splice(0).map(([name]) => name)).toEqual(['first', 'second']);
    await run((name) => (name === 'first' ? one : other).routine(name));
    expect([one.calls, other.calls].map((calls) => calls.map(([name]) => name))).toEqual([['first'], ['second']]);
  });

  it('are none where a backend has one of the two alone', () => {
    const { routine } = backend();
    for (const name of names) expect(passes((asked) => (asked === name ? routine(asked) : undefined), names)).toBeUndefined();
    expect(passes(undefined, names)).toBeUndefined();
  });

  it('that fail to be released have been given back with their backend', async () => {
    const { routine } = backend();
    const gone: Routine = async (_, params) => {
      if (params.release !== undefined) throw new Error('the backend was disposed of');
      return [hostTensor('f64', [1], Float64Array.of(7))];
    };
    const both = passes((name) => Object.assign(routine(name), { held: gone }), names)!;
    await both.hold('bf16', 4);
    await expect(both.release()).resolves.toBeUndefined();
  });
});
