// Keys and values of the sequences of an executable: a buffer for each sequence and cache, that grows with it.

import type { CacheUse } from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer, GpuEncoder, GpuOpaque } from './gpu.ts';
import type { StoredFloat } from './layout.ts';
import { WHICH_BYTES } from './plan.ts';
import type { CacheView } from './step-block.ts';
import { cacheWords } from './wgsl/rope.ts';

/** Room is doubled, but never by more rows than this at once. */
const MOST_MORE = 1024;

interface Cache {
  buffer: GpuBuffer | undefined;
  /** Buffer with the numbers of shares. */
  group: GpuOpaque | undefined;
  /** Rows that it has room for: keys of all of them, then values. */
  room: number;
  /** Valid ones, of encoder rows; those of tokens follow from the sequence's length. */
  rows: number;
}

/** The caches of one sequence. */
export interface SequenceCaches {
  readonly list: readonly Cache[];
  /** Rejects where there was no memory for what a fork took. */
  settled: Promise<void> | undefined;
}

interface Growth {
  readonly cache: Cache;
  readonly index: number;
  readonly before: number;
  readonly room: number;
  readonly buffer: GpuBuffer;
}

/** Room that a step needs, taken but not in use yet. */
export interface Extension {
  readonly views: readonly (readonly CacheView[])[];
  /** Rejects with ERR_LIMIT where there is no memory. */
  readonly settled: Promise<void> | undefined;
  /** Takes the room into use; returns what may be given back after the submit. */
  commit(encoder: GpuEncoder): readonly GpuBuffer[];
  /** Gives the room back. */
  cancel(): void;
}

export interface ShareGrowth {
  readonly caches: SequenceCaches;
  readonly length: number;
  readonly tokens: number;
  readonly encoder: number;
}

export class Caches {
  readonly #machine: Machine;
  readonly #uses: readonly CacheUse[];
  readonly #dtype: StoredFloat;
  readonly #numbers: GpuBuffer;
  /** Of all of them. */
  bytes = 0;

  /** `numbers`: see `shareNumbers`. */
  constructor(machine: Machine, uses: readonly CacheUse[], dtype: StoredFloat, numbers: GpuBuffer) {
    this.#machine = machine;
    this.#uses = uses;
    this.#dtype = dtype;
    this.#numbers = numbers;
  }

  open(): SequenceCaches {
    return { list: this.#uses.map(() => ({ buffer: undefined, group: undefined, room: 0, rows: 0 })), settled: undefined };
  }

  close({ list }: SequenceCaches): void {
    for (const cache of list) {
      if (cache.buffer === undefined) continue;
      this.bytes -= cache.buffer.size;
      this.#machine.release(cache.buffer);
      cache.buffer = undefined;
      cache.group = undefined;
      cache.room = 0;
    }
  }

  /** Rows of a sequence that is `length` tokens long. */
  #valid(index: number, cache: Cache, length: number): number {
    return this.#uses[index]!.rows === 'tokens' ? length : cache.rows;
  }

  fork(from: SequenceCaches, length: number): SequenceCaches {
    const copies = this.open();
    const growths: Growth[] = [];
    const encoder = this.#machine.device.createCommandEncoder();
    const { settled } = this.#take(growths, () => {
      for (const [index, cache] of from.list.entries()) {
        const rows = this.#valid(index, cache, length);
        const copy = copies.list[index]!;
        copy.rows = this.#uses[index]!.rows === 'tokens' ? 0 : rows;
        if (rows > 0) this.#grow(growths, copy, index, rows, rows);
      }
      for (const growth of growths) this.#copy(encoder, from.list[growth.index]!, growth);
      if (growths.length > 0) this.#machine.submit([encoder.finish()]);
      for (const growth of growths) this.#use(growth);
      return [];
    });
    copies.settled = Promise.all([from.settled, settled]).then(() => {});
    copies.settled.catch(() => {});
    return copies;
  }

  /** Room for a step's rows: `tokens` after `length`, and encoder rows. */
  extend(shares: readonly ShareGrowth[], limit: number): Extension {
    const growths: Growth[] = [];
    const { settled, views } = this.#take(growths, () =>
      shares.map(({ caches, length, tokens, encoder }) =>
        caches.list.map((cache, index): CacheView => {
          const ofTokens = this.#uses[index]!.rows === 'tokens';
          const before = this.#valid(index, cache, length);
          const rows = before + (ofTokens ? tokens : encoder);
          if (rows <= cache.room) return { rows, before, room: cache.room };
          const room = ofTokens ? Math.max(rows, Math.min(limit, 2 * before, before + MOST_MORE)) : rows;
          this.#grow(growths, cache, index, before, room);
          return { rows, before, room };
        }),
      ),
    );
    const forks = shares.flatMap(({ caches }) => (caches.settled ? [caches.settled] : []));
    const waits = [...(growths.length > 0 ? [settled] : []), ...forks];
    return {
      views,
      settled: waits.length > 0 ? Promise.all(waits).then(() => {}) : undefined,
      commit: (encoder) => {
        const retired: GpuBuffer[] = [];
        for (const growth of growths) {
          const { buffer } = growth.cache;
          if (buffer !== undefined) {
            this.#copy(encoder, growth.cache, growth);
            retired.push(buffer);
            this.bytes -= buffer.size;
          }
          this.#use(growth);
        }
        for (const { caches } of shares) caches.settled = undefined;
        return retired;
      },
      cancel: () => {
        for (const { buffer } of growths) this.#machine.release(buffer);
      },
    };
  }

  /** After a step that went well. */
  remember({ list }: SequenceCaches, encoder: number): void {
    for (const [i, cache] of list.entries()) if (this.#uses[i]!.rows === 'encoder') cache.rows += encoder;
  }

  /** What a launch binds: the cache of a sequence and the numbers of shares. */
  group({ list }: SequenceCaches, index: number): GpuOpaque {
    const { group } = list[index]!;
    if (group === undefined) throw new Error('a cache without rows is read');
    return group;
  }

  bind(buffer: GpuBuffer): GpuOpaque {
    return this.#machine.device.createBindGroup({
      layout: this.#machine.groupLayout('cache'),
      entries: [
        { binding: 0, resource: { buffer: this.#numbers, offset: 0, size: WHICH_BYTES } },
        { binding: 1, resource: { buffer } },
      ],
    });
  }

  /** What `body` takes is given back where it throws. */
  #take(
    growths: Growth[],
    body: () => readonly (readonly CacheView[])[],
  ): { readonly settled: Promise<void>; readonly views: readonly (readonly CacheView[])[] } {
    try {
      const { made, settled } = this.#machine.claim('keys and values', body);
      return { settled, views: made };
    } catch (error) {
      for (const { buffer } of growths) this.#machine.release(buffer);
      throw error;
    }
  }

  #words(index: number): readonly [key: number, value: number] {
    const { heads, keyDim, valueDim } = this.#uses[index]!;
    return [cacheWords(heads * keyDim, this.#dtype), cacheWords(heads * valueDim, this.#dtype)];
  }

  #grow(growths: Growth[], cache: Cache, index: number, before: number, room: number): void {
    const [key, value] = this.#words(index);
    growths.push({ cache, index, before, room, buffer: this.#machine.storage(4 * room * (key + value), 'keys and values') });
  }

  #copy(encoder: GpuEncoder, from: Cache, { buffer, before, room, index }: Growth): void {
    if (from.buffer === undefined || before === 0) return;
    const [key, value] = this.#words(index);
    encoder.copyBufferToBuffer(from.buffer, 0, buffer, 0, 4 * before * key);
    encoder.copyBufferToBuffer(from.buffer, 4 * from.room * key, buffer, 4 * room * key, 4 * before * value);
  }

  #use({ cache, buffer, room }: Growth): void {
    cache.buffer = buffer;
    cache.group = this.bind(buffer);
    cache.room = room;
    this.bytes += buffer.size;
  }
}
