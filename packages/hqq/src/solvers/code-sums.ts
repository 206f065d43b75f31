// Sums over the codes that a grid gives one group, which is all that a least-squares fit and its error need:
//
//   first = sum w q      second = sum w q^2      mixed = sum w v q
//
// Few levels: with the group sorted, the elements of code j and above are those from a boundary on, and prefix sums of w and w v give everything from
// levels - 1 boundaries, which move little from one fit to the next. Many levels: element by element.

import { ROUND } from '../grid.ts';
import { PairSorter } from './pair-sorter.ts';

const round = ROUND; // a local: this is the hot loop, and some module loaders make every use of an import a property access

/** One group at a time, in buffers made once. */
export class GroupSums {
  /** Elements of the group, and their importance; to be filled before `prepare`, which may reorder both alike. */
  readonly values: Float64Array;
  readonly weights: Float64Array;
  /** Of the last `at`. */
  first = 0;
  second = 0;
  mixed = 0;
  readonly #top: number;
  readonly #sorted: boolean;
  /** The values between two that end every search. */
  readonly #padded: Float64Array;
  /** Sums of w and w v over the elements before each, so that the last entry is the sum of all. */
  readonly #before: Float64Array;
  readonly #beforeMixed: Float64Array;
  /** Number of elements below each code from 1 on. */
  readonly #bounds: Int32Array;
  readonly #sorter: PairSorter;

  constructor(size: number, levels: number) {
    this.#padded = new Float64Array(size + 2);
    this.#padded[0] = Number.NEGATIVE_INFINITY;
    this.#padded[size + 1] = Number.POSITIVE_INFINITY;
    this.values = this.#padded.subarray(1, size + 1);
    this.weights = new Float64Array(size).fill(1);
    this.#top = levels - 1;
    this.#sorted = 3 * levels <= size;
    this.#before = new Float64Array(size + 1);
    this.#beforeMixed = new Float64Array(size + 1);
    this.#bounds = new Int32Array(levels);
    this.#sorter = new PairSorter(size);
  }

  /** After a new group was filled in. */
  prepare(): void {
    const { values, weights } = this;
    if (!this.#sorted) return;
    this.#sorter.sort(values, weights);
    const before = this.#before;
    const beforeMixed = this.#beforeMixed;
    for (let i = 0; i < values.length; i++) {
      before[i + 1] = before[i]! + weights[i]!;
      beforeMixed[i + 1] = beforeMixed[i]! + weights[i]! * values[i]!;
    }
    this.#bounds.fill(0);
  }

  /** Sums for the codes clamp(round((v - b) / s), 0, levels - 1); s and b are finite and s is positive. */
  at(s: number, b: number): void {
    if (this.#sorted) this.#byBoundary(s, b);
    else this.#byElement(s, b);
  }

  #byBoundary(s: number, b: number): void {
    const padded = this.#padded;
    const before = this.#before;
    const beforeMixed = this.#beforeMixed;
    const bounds = this.#bounds;
    const top = this.#top;
    const size = padded.length - 2;
    const total = before[size]!;
    const totalMixed = beforeMixed[size]!;
    let first = 0;
    let second = 0;
    let mixed = 0;
    for (let code = 1; code <= top; code++) {
      const threshold = b + (code - 0.5) * s;
      let bound = bounds[code]!;
      while (padded[bound]! >= threshold) bound--;
      while (padded[bound + 1]! < threshold) bound++;
      bounds[code] = bound;
      const above = total - before[bound]!;
      first += above;
      second += (2 * code - 1) * above;
      mixed += totalMixed - beforeMixed[bound]!;
    }
    this.first = first;
    this.second = second;
    this.mixed = mixed;
  }

  #byElement(s: number, b: number): void {
    const { values, weights } = this;
    const top = this.#top;
    const inverse = 1 / s;
    const z = -b * inverse;
    let first = 0;
    let second = 0;
    let mixed = 0;
    for (let i = 0; i < values.length; i++) {
      const v = values[i]!;
      let q = v * inverse + z;
      q = q < 0 ? 0 : q > top ? top : q + round - round;
      const weighted = weights[i]! * q;
      first += weighted;
      second += weighted * q;
      mixed += weighted * v;
    }
    this.first = first;
    this.second = second;
    this.mixed = mixed;
  }
}
