// Keys and values of the sequences of an executable, in device memory that grows with them.

import type { CacheUse } from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle, StoredFloat } from './binding.ts';
import { FLOAT_BYTES } from './layout.ts';
import type { CacheView } from './step-block.ts';

/** Room is doubled, but never by more rows than this at once. */
const MOST_MORE = 1024;

interface Cache {
  buffer: BufferHandle | undefined;
  /** Rows that it has room for: keys of all of them, then values. */
  room: number;
  /** Valid ones, of encoder rows; those of tokens follow from the sequence's length. */
  rows: number;
}

/** Where caches are. */
export type CacheMemory = Pick<CudaBinding, 'createBuffer' | 'freeBuffer' | 'bufferAddress' | 'copyBuffer'>;

/** The caches of one sequence. */
export type SequenceCaches = readonly Cache[];

export class Caches {
  readonly #binding: CacheMemory;
  readonly #device: DeviceHandle;
  readonly #uses: readonly CacheUse[];
  readonly #element: number;
  /** Of all of them. */
  bytes = 0;

  constructor(binding: CacheMemory, device: DeviceHandle, uses: readonly CacheUse[], dtype: StoredFloat) {
    this.#binding = binding;
    this.#device = device;
    this.#uses = uses;
    this.#element = FLOAT_BYTES[dtype];
  }

  open(): SequenceCaches {
    return this.#uses.map(() => ({ buffer: undefined, room: 0, rows: 0 }));
  }

  close(caches: SequenceCaches): void {
    for (const [i, cache] of caches.entries()) {
      if (cache.buffer === undefined) continue;
      this.#binding.freeBuffer(cache.buffer);
      this.bytes -= this.#bytesOf(i, cache.room);
      cache.buffer = undefined;
      cache.room = 0;
    }
  }

  /** Rows of a sequence that is `length` tokens long. */
  #valid(index: number, cache: Cache, length: number): number {
    return this.#uses[index]!.rows === 'tokens' ? length : cache.rows;
  }

  fork(from: SequenceCaches, length: number): SequenceCaches {
    const copies = this.open();
    try {
      for (const [i, cache] of from.entries()) {
        const rows = this.#valid(i, cache, length);
        copies[i]!.rows = this.#uses[i]!.rows === 'tokens' ? rows : cache.rows;
        if (rows > 0) this.#move(i, cache, copies[i]!, rows, rows);
      }
    } catch (error) {
      this.close(copies);
      throw error;
    }
    return copies;
  }

  /** Room for a step's rows: `tokens` after `length`, and encoder rows. What a step that fails leaves is more room, nothing else. */
  extend(
    caches: SequenceCaches,
    {
      length,
      tokens,
      encoder,
      limit,
    }: { readonly length: number; readonly tokens: number; readonly encoder: number; readonly limit: number },
  ): readonly CacheView[] {
    return caches.map((cache, i): CacheView => {
      const ofTokens = this.#uses[i]!.rows === 'tokens';
      const before = this.#valid(i, cache, length);
      const rows = before + (ofTokens ? tokens : encoder);
      if (rows > cache.room) {
        const room = ofTokens ? Math.max(rows, Math.min(limit, 2 * before, before + MOST_MORE)) : rows;
        const old = { ...cache };
        this.#move(i, old, cache, before, room);
        if (old.buffer !== undefined) {
          this.#binding.freeBuffer(old.buffer);
          this.bytes -= this.#bytesOf(i, old.room);
        }
      }
      const k = cache.buffer === undefined ? 0n : this.#binding.bufferAddress(cache.buffer);
      return { k, v: k + BigInt(this.#keyBytes(i) * cache.room), rows, before };
    });
  }

  /** How long the sequence may get before room is taken for more of it; Infinity without caches of tokens. */
  room(caches: SequenceCaches): number {
    return Math.min(...caches.filter((_, i) => this.#uses[i]!.rows === 'tokens').map(({ room }) => room));
  }

  /** After a step that went well. */
  remember(caches: SequenceCaches, encoder: number): void {
    for (const [i, cache] of caches.entries()) if (this.#uses[i]!.rows === 'encoder') cache.rows += encoder;
  }

  #keyBytes(index: number): number {
    const { heads, keyDim } = this.#uses[index]!;
    return heads * keyDim * this.#element;
  }

  #valueBytes(index: number): number {
    const { heads, valueDim } = this.#uses[index]!;
    return heads * valueDim * this.#element;
  }

  #bytesOf(index: number, room: number): number {
    return room * (this.#keyBytes(index) + this.#valueBytes(index));
  }

  /** A new buffer for `to` with the first rows of `from`. Leaves `to` as it was where there is no memory. */
  #move(index: number, from: Readonly<Cache>, to: Cache, rows: number, room: number): void {
    const buffer = this.#binding.createBuffer(this.#device, this.#bytesOf(index, room), false);
    const [key, value] = [this.#keyBytes(index), this.#valueBytes(index)];
    try {
      if (from.buffer !== undefined && rows > 0) {
        this.#binding.copyBuffer(buffer, 0, from.buffer, 0, rows * key);
        this.#binding.copyBuffer(buffer, room * key, from.buffer, from.room * key, rows * value);
      }
    } catch (error) {
      this.#binding.freeBuffer(buffer);
      throw error;
    }
    this.bytes += this.#bytesOf(index, room);
    to.buffer = buffer;
    to.room = room;
  }
}
