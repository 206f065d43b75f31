import type { RoutinePool } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { Arena } from './arena.ts';

const pool = (): RoutinePool => ({ threads: 2, routine: () => async () => [] });
const MIB = 1 << 20;

describe('memory of tiles', () => {
  it('is shared between threads, and the next weight has it again', () => {
    const threads = pool();
    const first = new Arena(threads, 40 * MIB);
    const taken = Array.from({ length: 5 }, () => first.take(8 * MIB));
    expect(new Set(taken.map(({ buffer }) => buffer)).size).toBe(2); // pieces of 32 MiB
    expect(taken.every(({ buffer }) => buffer instanceof SharedArrayBuffer)).toBe(true);
    first[Symbol.dispose]();
    const second = new Arena(threads, 64 * MIB);
    const again = Array.from({ length: 8 }, () => second.take(8 * MIB));
    expect(new Set(again.map(({ buffer }) => buffer))).toEqual(new Set(taken.map(({ buffer }) => buffer)));
  });

  it('is not that of a weight under way, nor of other threads', () => {
    const threads = pool();
    const [one, two] = [new Arena(threads, MIB), new Arena(threads, MIB)];
    const buffers = [one.take(MIB), two.take(MIB)].map(({ buffer }) => buffer);
    expect(buffers[0]).not.toBe(buffers[1]);
    one[Symbol.dispose]();
    one[Symbol.dispose]();
    expect(new Arena(pool(), MIB).take(MIB).buffer).not.toBe(buffers[0]);
    expect(new Arena(threads, MIB).take(MIB).buffer).toBe(buffers[0]);
    expect(new Arena(threads, MIB).take(MIB).buffer).not.toBe(buffers[0]); // given out once
  });

  it('is no more than a weight needs where nothing is shared, aligned and apart', () => {
    const arena = new Arena(undefined, 3008);
    const [a, b] = [arena.take(1001), arena.take(2000)];
    expect(a!.buffer).toBe(b!.buffer);
    expect(a!.buffer.byteLength).toBe(3008);
    expect(b!.byteOffset).toBe(1008);
    expect(arena.take(64).length).toBe(64);
  });
});
