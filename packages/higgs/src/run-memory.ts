// Memory for the weights of runs. What threads share is not counted by any of their garbage collectors and goes only when all of them have let go of it,
// so it is used again for the next weight, for as long as the threads live.

import { type RoutinePool, sharedBytes } from '@lowbit/core';

/** Buffers that are free for the next weight, by the threads that know them. */
const free = new WeakMap<RoutinePool, Float32Array[]>();

export class RunMemory {
  readonly #pool: RoutinePool | undefined;
  readonly #size: number;
  readonly #spare: Float32Array[];

  /** @param size most weights of a run */
  constructor(pool: RoutinePool | undefined, size: number) {
    this.#pool = pool;
    this.#size = size;
    this.#spare = (pool && free.get(pool)?.filter(({ length }) => length >= size)) ?? [];
    if (pool) free.delete(pool);
  }

  /** Room for so many weights, holding anything. */
  take(count: number): Float32Array {
    return (this.#spare.pop() ?? this.#make()).subarray(0, count);
  }

  /** Gives back what `take` gave, when no thread reads it any more. */
  give(taken: Float32Array): void {
    this.#spare.push(new Float32Array(taken.buffer));
  }

  #make(): Float32Array {
    return this.#pool ? new Float32Array(sharedBytes(4 * this.#size).buffer) : new Float32Array(this.#size);
  }

  [Symbol.dispose](): void {
    if (this.#pool) free.set(this.#pool, this.#spare);
  }
}
