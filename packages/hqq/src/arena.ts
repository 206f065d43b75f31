// Memory for tiles. What threads share is not counted by any of their garbage collectors and goes only when all of them have let go of it, so it is
// taken in large pieces and used again for the next weight, for as long as the threads live.

import { type Routine, type RoutinePool, sharedBytes } from '@lowbit/core';

/** Bytes of a piece; memory that is never touched costs nothing. */
const PIECE = 32 << 20;

/** Who works on the memory: threads, or a backend by its routine. */
type Owner = RoutinePool | Routine;

/** Pieces that are free for the next weight, by whom they are known to. */
const free = new WeakMap<Owner, Uint8Array[]>();

/** Memory of one weight. Dispose it when no thread works on it any more. */
export class Arena {
  readonly #pool: Owner | undefined;
  readonly #pieces: Uint8Array[] = [];
  #piece: Uint8Array = new Uint8Array(0);
  #used = 0;
  #expected: number;

  /** @param expected bytes that will be taken in all */
  constructor(pool: Owner | undefined, expected: number) {
    this.#pool = pool;
    this.#expected = expected;
  }

  /** So many bytes, aligned for every dtype, holding anything. */
  take(bytes: number): Uint8Array {
    if (this.#used + bytes > this.#piece.length) {
      this.#piece = this.#next(bytes);
      this.#pieces.push(this.#piece);
      this.#used = 0;
    }
    const taken = this.#piece.subarray(this.#used, this.#used + bytes);
    this.#used = Math.ceil((this.#used + bytes) / 8) * 8;
    this.#expected -= bytes;
    return taken;
  }

  #next(bytes: number): Uint8Array {
    if (!this.#pool) return new Uint8Array(Math.max(bytes, Math.min(PIECE, this.#expected)));
    return (bytes <= PIECE && free.get(this.#pool)?.pop()) || sharedBytes(Math.max(bytes, PIECE));
  }

  [Symbol.dispose](): void {
    const pieces = this.#pieces.splice(0);
    this.#piece = new Uint8Array(0);
    if (!this.#pool) return;
    const list = free.get(this.#pool) ?? [];
    free.set(this.#pool, list);
    list.push(...pieces.filter(({ length }) => length === PIECE)); // longer ones are for groups of millions of weights
  }
}
