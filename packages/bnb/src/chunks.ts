// Reading a weight in pieces that fit the memory budget.

import { breather, type NonFinite, type QuantizeContext, type WeightReader } from '@lowbit/core';

/** Most weights of a piece: 1 MiB of float32, which stays in a core's second-level cache between reading and coding. */
export const CHUNK_WEIGHTS: number = 2 ** 18;

/** One weight in pieces of whole units (blocks or rows), each of 2^18 weights at most unless a unit is larger. */
export class Chunks {
  readonly #weight: WeightReader;
  readonly #size: number;
  readonly #signal: QuantizeContext['signal'];
  readonly #nonFinite: NonFinite;
  readonly #breathe = breather();
  readonly #values: Float32Array;
  #loaded = -1;

  /** `bytesPerWeight`: what a weight in a piece takes, results included. */
  constructor(weight: WeightReader, unit: number, bytesPerWeight: number, { budget, signal }: QuantizeContext, nonFinite: NonFinite) {
    const count = weight.shape[0] * weight.shape[1];
    const room = Math.min(CHUNK_WEIGHTS, Math.floor(budget / bytesPerWeight));
    this.#weight = weight;
    this.#size = Math.min(count, Math.max(1, Math.floor(room / unit)) * unit);
    this.#signal = signal;
    this.#nonFinite = nonFinite;
    this.#values = new Float32Array(this.#size);
  }

  /** Most weights of one piece. */
  get size(): number {
    return this.#size;
  }

  /** Visits all pieces in order; the values are valid until `visit` settles. Lets the event loop run now and then, and throws the signal's reason. */
  async each(visit: (values: Float32Array, from: number) => void | Promise<void>): Promise<void> {
    const count = this.#weight.shape[0] * this.#weight.shape[1];
    for (let from = 0; from < count; from += this.#size) {
      this.#signal?.throwIfAborted();
      await this.#breathe();
      const to = Math.min(from + this.#size, count);
      if (this.#loaded !== from) await this.#weight.read(from, to, this.#values, 0, this.#nonFinite);
      this.#loaded = from;
      await visit(this.#values.subarray(0, to - from), from);
    }
  }
}
