// Sums of products of one input's channels over rows that come sample by sample.
//
// Of a matrix the rows are kept until somebody asks for it, or until they would take more than the sums: of a mixture each expert gets a share of the rows, and all of their
// matrices at a time would be many times as large. In which portions rows are summed depends on them alone, so the numbers are the same however long they waited.

import { elements, hostTensor, type Importance, LowbitError } from '@lowbit/core';
import type { ProgramRuntime } from '@lowbit/program';
import { squares } from './squares.ts';

/** Numbers whose products are summed at a time, about: each time takes a matrix for what is found. */
export const PORTION = 1 << 20;

/** Bytes of sums, f64, and of rows, f32, per number. */
const SUM_BYTES = 8;
const ROW_BYTES = 4;

/** X^T X f64 [width, width] of rows f32 [rows, width], one array after another. */
export type Squares = (rows: Float32Array, width: number) => Promise<Float64Array>;

/** `squares`, by a backend's routine where there is one. */
export function squaresOn(runtime: Pick<ProgramRuntime, 'routine'>, signal: AbortSignal | undefined): Squares {
  return async (rows, width) => {
    signal?.throwIfAborted();
    const routine = runtime.routine?.('moments.squares'); // of a backend that is open by now
    if (!routine) return squares(rows, width, signal);
    const [found] = await routine([hostTensor('f32', [rows.length / width, width], rows)], {});
    return elements({ dtype: 'f64', data: found!.data });
  };
}

/** Most bytes that a matrix of an input waits in: that of its rows, or of its sums and of what is not summed yet. */
export function waitingBytes(rows: number, width: number): number {
  return Math.min(ROW_BYTES * rows * width, SUM_BYTES * width ** 2 + ROW_BYTES * PORTION);
}

export class MomentSums {
  readonly width: number;
  readonly #kind: Importance['kind'];
  readonly #squares: Squares;
  #rows = 0;
  #sums: Float64Array | undefined;
  /** Portions that are not in the sums yet, in order, each of the rows of several samples. */
  #portions: Float32Array[][] = [];
  /** The portion that is not full, and its numbers. */
  #open: Float32Array[] = [];
  #opened = 0;
  #kept = 0;
  #found: Promise<Importance | undefined> | undefined;

  constructor(width: number, kind: Importance['kind'], products: Squares) {
    this.width = width;
    this.#kind = kind;
    this.#squares = products;
    if (kind === 'diagonal') this.#sums = new Float64Array(width);
  }

  /** f32 [rows, width], a view that may change when this has returned. */
  async add(rows: Float32Array): Promise<void> {
    this.#rows += rows.length / this.width;
    if (this.#kind === 'diagonal') {
      const sums = this.#sums!;
      for (let i = 0; i < rows.length; i++) sums[i % this.width]! += rows[i]! * rows[i]!;
      return;
    }
    if (rows.length === 0) return;
    this.#open.push(rows.slice());
    this.#opened += rows.length;
    this.#kept += rows.length;
    if (this.#opened >= PORTION) this.#close();
    if (this.#sums || ROW_BYTES * this.#kept > SUM_BYTES * this.width ** 2) await this.#sum();
  }

  /** The mean over all rows, f32; undefined without any. Nothing else is held from then on. Throws ERR_NON_FINITE, naming `path`. */
  moments(path: string): Promise<Importance | undefined> {
    this.#found ??= this.#finish(path);
    return this.#found;
  }

  #close(): void {
    if (this.#opened > 0) this.#portions.push(this.#open);
    this.#open = [];
    this.#opened = 0;
  }

  async #sum(): Promise<void> {
    for (let portion = this.#portions.shift(); portion; portion = this.#portions.shift()) {
      const rows = joined(portion);
      portion.length = 0;
      this.#kept -= rows.length;
      const found = await this.#squares(rows, this.width);
      const sums = this.#sums;
      if (sums) for (let i = 0; i < sums.length; i++) sums[i]! += found[i]!;
      else this.#sums = found;
    }
  }

  async #finish(path: string): Promise<Importance | undefined> {
    this.#close();
    await this.#sum();
    const { width } = this;
    const kind = this.#kind;
    const rows = this.#rows;
    const sums = this.#sums;
    this.#sums = undefined;
    if (rows === 0 || sums === undefined) return undefined;
    const moments = new Float32Array(sums.length); // `from` with a function boxes every number
    let at = -1;
    for (let i = 0; i < moments.length; i++) {
      moments[i] = sums[i]! / rows;
      if (at < 0 && !Number.isFinite(moments[i])) at = i;
    }
    if (at >= 0) {
      throw new LowbitError(
        'ERR_NON_FINITE',
        `the inputs of ${path} are not finite: the moment of channel ${at % width} is ${moments[at]}`,
        {
          hint: 'The weights in front of it may be damaged. Quantize without importance, or with the estimate from weights.',
          details: { path, channel: at % width },
        },
      );
    }
    return { kind, moments: hostTensor('f32', kind === 'matrix' ? [width, width] : [width], moments), rows };
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
