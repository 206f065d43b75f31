// Reading a weight in pieces that fit the memory budget.

import { breather, type DType, type HostTensor, hostTensor, type NonFinite, type QuantizeContext, type WeightReader } from '@lowbit/core';

/** Most weights of a piece: 1 MiB of float32, which stays in a core's second-level cache between reading and coding. */
export const CHUNK_WEIGHTS: number = 2 ** 18;

/** Pieces under way where a backend does the work: it has the next when one is done. */
const AT_BACKEND = 3;

export interface ChunkOptions {
  /** Weights of a block or row: pieces are made of whole ones. */
  readonly unit: number;
  /** What a weight in a piece takes, results included. */
  readonly bytesPerWeight: number;
  readonly nonFinite: NonFinite;
  /** Pieces go to a backend: as they are stored where that can be had, unchecked then, and several at a time. */
  readonly backed: boolean;
  /** Whether the backend has the piece from there on already: it has no bytes then, and is not read. */
  readonly held?: ((from: number) => boolean) | undefined;
}

/** Some whole units of a weight. */
export interface Piece {
  /** [n], f32 or as it is stored. */
  readonly weights: HostTensor;
  /** Flat index of the first. */
  readonly from: number;
  readonly count: number;
}

/** One weight in pieces of whole units (blocks or rows), each of 2^18 weights at most unless a unit is larger. */
export class Chunks {
  readonly #weight: WeightReader;
  readonly #options: ChunkOptions;
  readonly #size: number;
  readonly #atOnce: number;
  readonly #signal: QuantizeContext['signal'];
  readonly #stored: boolean;
  readonly #breathe = breather();
  #values: Float32Array | undefined;
  #loaded = -1;

  constructor(weight: WeightReader, options: ChunkOptions, { budget, signal }: Pick<QuantizeContext, 'budget' | 'signal'>) {
    const { unit, bytesPerWeight, backed } = options;
    const count = weight.shape[0] * weight.shape[1];
    const room = Math.min(CHUNK_WEIGHTS, Math.floor(budget / bytesPerWeight));
    this.#weight = weight;
    this.#options = options;
    this.#size = Math.min(count, Math.max(1, Math.floor(room / unit)) * unit);
    this.#atOnce = backed ? Math.max(1, Math.min(AT_BACKEND, Math.floor(budget / bytesPerWeight / this.#size))) : 1;
    this.#signal = signal;
    const { dtype, readStored } = weight;
    this.#stored = backed && readStored !== undefined && (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16');
  }

  /** Of the weights of a piece. */
  get dtype(): DType {
    return this.#stored ? this.#weight.dtype : 'f32';
  }

  /** Most weights of one piece. */
  get size(): number {
    return this.#size;
  }

  /**
   * Visits all pieces, and takes what comes of them in order; the weights of a piece are valid until its visit settles. Lets the event loop run now and then, and
   * throws the signal's reason.
   */
  async each<T>(visit: (piece: Piece) => Promise<T>, take: (result: T, piece: Piece) => void): Promise<void> {
    const count = this.#weight.shape[0] * this.#weight.shape[1];
    const running: { readonly piece: Piece; readonly result: Promise<T> }[] = [];
    const takeOldest = async (): Promise<void> => {
      const { piece, result } = running[0]!;
      take(await result, piece);
      running.shift();
    };
    try {
      for (let from = 0; from < count; from += this.#size) {
        this.#signal?.throwIfAborted();
        await this.#breathe();
        const piece = await this.#piece(from, Math.min(from + this.#size, count));
        const result = visit(piece);
        result.catch(() => {}); // awaited below, perhaps after it has failed
        running.push({ piece, result });
        if (running.length === this.#atOnce) await takeOldest();
      }
      while (running.length > 0) await takeOldest();
    } finally {
      await Promise.allSettled(running.map(({ result }) => result)); // nobody works on what is given back
    }
  }

  async #piece(from: number, to: number): Promise<Piece> {
    const { held, nonFinite } = this.#options;
    const { dtype } = this;
    const count = to - from;
    const stored = (data: Uint8Array): Piece => ({ weights: { dtype, shape: [count], data }, from, count });
    if (held?.(from)) return stored(new Uint8Array(0));
    if (this.#stored) return stored(await this.#weight.readStored!(from, to));
    const shared = this.#atOnce === 1; // then nobody reads the piece before this one any more
    const values = (shared && this.#values) || new Float32Array(this.#size);
    if (!shared || this.#loaded !== from) await this.#weight.read(from, to, values, 0, nonFinite);
    if (shared) {
      this.#values = values;
      this.#loaded = from;
    }
    return { weights: hostTensor('f32', [count], values.subarray(0, count)), from, count };
  }
}
