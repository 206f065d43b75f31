// The sequences of an executable and their cached keys and values.

import { checkShortened, SequenceTable } from '../backend/sequences.ts';
import type { SequenceId } from '../spec/backend.ts';
import type { CacheUse } from '../spec/program.ts';

/** Cached rows of one layer: `rows` of them are valid, the arrays may be longer. */
export interface Cache {
  k: Float32Array;
  v: Float32Array;
  rows: number;
}

export interface Sequence {
  /** Tokens stepped so far. */
  length: number;
  /** Whether encoder rows were handed in. */
  remembers: boolean;
  caches: Cache[];
}

const EMPTY = new Float32Array(0);

/** Open sequences by id. */
export class Sequences {
  readonly #uses: readonly CacheUse[];
  readonly #table: SequenceTable<Sequence>;
  /** Bytes of all caches. */
  bytes = 0;

  constructor(uses: readonly CacheUse[], most: number | undefined) {
    this.#uses = uses;
    this.#table = new SequenceTable(most);
  }

  /** Throws ERR_BAD_ARGUMENT for an unknown or closed sequence. */
  get(id: SequenceId): Sequence {
    return this.#table.get(id);
  }

  open(): SequenceId {
    return this.#table.add(() => ({ length: 0, remembers: false, caches: this.#uses.map(() => ({ k: EMPTY, v: EMPTY, rows: 0 })) }));
  }

  fork(id: SequenceId, length = this.get(id).length): SequenceId {
    const from = this.get(id);
    checkShortened(id, from.length, length);
    return this.#table.add(() => {
      const caches = from.caches.map((cache, i) => {
        const { k, v } = this.#widths(i);
        const rows = this.#uses[i]!.rows === 'tokens' ? length : cache.rows;
        return { k: cache.k.slice(0, rows * k), v: cache.v.slice(0, rows * v), rows };
      });
      for (const cache of caches) this.bytes += cacheBytes(cache);
      return { length, remembers: from.remembers, caches };
    });
  }

  truncate(id: SequenceId, length: number): void {
    const sequence = this.get(id);
    checkShortened(id, sequence.length, length);
    sequence.length = length;
    for (const [i, cache] of sequence.caches.entries()) if (this.#uses[i]!.rows === 'tokens') cache.rows = length;
  }

  close(id: SequenceId): void {
    for (const cache of this.#table.remove(id).caches) this.bytes -= cacheBytes(cache);
  }

  closeAll(): void {
    this.#table.clear();
    this.bytes = 0;
  }

  /** Appends rows to cache `index`, growing it to at most `limit` rows of room. */
  append(sequence: Sequence, index: number, k: Float32Array, v: Float32Array, limit: number): void {
    const cache = sequence.caches[index]!;
    const widths = this.#widths(index);
    const rows = cache.rows + k.length / widths.k;
    const before = cacheBytes(cache);
    if (rows * widths.k > cache.k.length) {
      const room = Math.max(rows, Math.min(limit, 2 * cache.rows, cache.rows + 1024));
      cache.k = grown(cache.k, cache.rows * widths.k, room * widths.k);
      cache.v = grown(cache.v, cache.rows * widths.v, room * widths.v);
    }
    cache.k.set(k, cache.rows * widths.k);
    cache.v.set(v, cache.rows * widths.v);
    cache.rows = rows;
    this.bytes += cacheBytes(cache) - before;
  }

  /** What `restore` needs to bring the sequence back: rows past the valid ones may be overwritten meanwhile, valid ones may not. */
  snapshot(sequence: Sequence): Sequence {
    return { ...sequence, caches: sequence.caches.map((cache) => ({ ...cache })) };
  }

  restore(sequence: Sequence, saved: Sequence): void {
    for (const [i, cache] of sequence.caches.entries()) this.bytes += cacheBytes(saved.caches[i]!) - cacheBytes(cache);
    Object.assign(sequence, saved);
  }

  #widths(index: number): { readonly k: number; readonly v: number } {
    const { heads, keyDim, valueDim } = this.#uses[index]!;
    return { k: heads * keyDim, v: heads * valueDim };
  }
}

const cacheBytes = (cache: Cache): number => cache.k.byteLength + cache.v.byteLength;

function grown(values: Float32Array, used: number, length: number): Float32Array {
  const larger = new Float32Array(length);
  larger.set(values.subarray(0, used));
  return larger;
}
