// Sums over the codes that a grid gives one group, which is all that a least-squares fit and its error need:
//
//   first = sum w q      second = sum w q^2      mixed = sum w v q
//
// Few levels: with the group sorted, the elements of code j and above are those from a boundary on, and prefix sums of w and w v give everything from
// levels - 1 boundaries, which move little from one fit to the next. Many levels: element by element.
//
// Both give the same numbers, so a backend may do either: values and weights are first rounded so that all sums are whole multiples of one unit, and exact
// in float64. Of groups so large that this would leave too little of the values nothing is rounded, and sums are those of the elements in order.

import { ROUND } from '../grid.ts';

const round = ROUND; // a local: this is the hot loop, and some module loaders make every use of an import a property access

/** Bits that weights are rounded to, beside the largest of the group. */
const WEIGHT_BITS = 20;
/** More than any weight. */
const SHARE = 2 ** (WEIGHT_BITS + 1);
/** Fewest bits, beside half of the group's range, that values may be rounded to. */
const LEAST_BITS = 16;

/** Bits that values are rounded to so that sums are exact: 53 hold the product of a weight, a value and a code, added up. Undefined where these are too few. */
function exactBits(size: number, levels: number): number | undefined {
  if (size > 2 ** 20) return undefined;
  const bits = 53 - WEIGHT_BITS - (32 - Math.clz32(levels - 1)) - (32 - Math.clz32(size - 1));
  return bits >= LEAST_BITS ? bits : undefined;
}

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);

/** The least power of two above a positive number. */
function powerAbove(value: number): number {
  double[0] = value;
  words[1] = ((words[1]! >>> 20) + 1) << 20;
  words[0] = 0;
  return double[0]!;
}

/** The least number that rounds to a whole one, ties going to even ones: half of one less, or of odd ones the next above that. */
function leastRoundedTo(code: number): number {
  double[0] = code - 0.5;
  if (code % 2 === 1) words[0]!++; // the lower half of the bits, all zero
  return double[0];
}

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
  readonly #bits: number | undefined;
  /** What values are multiples of. */
  #unit = 1;
  /** Weights were rounded, too. */
  #weighted = false;
  /** The values between two that end every search. */
  readonly #padded: Float64Array;
  /** Sums of w and w v over the elements before each, so that the last entry is the sum of all. */
  readonly #before: Float64Array;
  readonly #beforeMixed: Float64Array;
  /** Number of elements below each code from 1 on. */
  readonly #bounds: Int32Array;
  /** The least number that rounds to each code. */
  readonly #cuts: Float64Array;

  constructor(size: number, levels: number) {
    this.#padded = new Float64Array(size + 2);
    this.#padded[0] = Number.NEGATIVE_INFINITY;
    this.#padded[size + 1] = Number.POSITIVE_INFINITY;
    this.values = this.#padded.subarray(1, size + 1);
    this.weights = new Float64Array(size).fill(1);
    this.#top = levels - 1;
    this.#bits = exactBits(size, levels);
    this.#sorted = this.#bits !== undefined && 3 * levels <= size;
    this.#before = new Float64Array(size + 1);
    this.#beforeMixed = new Float64Array(size + 1);
    this.#bounds = new Int32Array(levels);
    this.#cuts = Float64Array.from({ length: levels }, (_, code) => leastRoundedTo(code));
  }

  /** Rounds the values of a new group, none of which is farther from 0 than `halfRange`. */
  roundValues(halfRange: number): void {
    if (this.#bits === undefined || !(halfRange > 0)) return;
    this.#unit = 2 ** -this.#bits * powerAbove(halfRange);
    const far = round * this.#unit;
    const { values } = this;
    for (let i = 0; i < values.length; i++) values[i] = values[i]! + far - far;
  }

  /** Rounds its weights to 1, 2, ... 2^20. Where all are 1 there is no need: the sums are the same but for a power of two. */
  roundWeights(): void {
    if (this.#bits === undefined) return;
    this.#weighted = true;
    const { weights } = this;
    let largest = 0;
    for (let i = 0; i < weights.length; i++) if (weights[i]! > largest) largest = weights[i]!;
    const factor = 2 ** WEIGHT_BITS / largest;
    for (let i = 0; i < weights.length; i++) {
      weights[i] = Math.max(weights[i]! * factor + round - round, 1);
    }
  }

  /** After that, before the first sums of the group: puts it in order. */
  prepare(): void {
    const { values, weights } = this;
    if (!this.#sorted) return;
    if (this.#weighted) {
      // Both are whole numbers of few enough bits that one number holds the two.
      const factor = SHARE / this.#unit;
      for (let i = 0; i < values.length; i++) values[i] = values[i]! * factor + weights[i]!;
      values.sort();
      for (let i = 0; i < values.length; i++) {
        const whole = Math.floor(values[i]! / SHARE) * SHARE;
        weights[i] = values[i]! - whole;
        values[i] = whole / factor;
      }
    } else values.sort();
    const before = this.#before;
    const beforeMixed = this.#beforeMixed;
    for (let i = 0; i < values.length; i++) {
      before[i + 1] = before[i]! + weights[i]!;
      beforeMixed[i + 1] = beforeMixed[i]! + weights[i]! * values[i]!;
    }
    this.#bounds.fill(0);
  }

  /** Sums for the codes clamp(round(v * (1 / s) - b * (1 / s)), 0, levels - 1); s and b are finite and s is positive. */
  at(s: number, b: number): void {
    if (this.#sorted) this.#byBoundary(s, b);
    else this.#byElement(s, b);
  }

  #byBoundary(s: number, b: number): void {
    const padded = this.#padded;
    const before = this.#before;
    const beforeMixed = this.#beforeMixed;
    const bounds = this.#bounds;
    const cuts = this.#cuts;
    const top = this.#top;
    const size = padded.length - 2;
    const total = before[size]!;
    const totalMixed = beforeMixed[size]!;
    let first = 0;
    let second = 0;
    let mixed = 0;
    const inverse = 1 / s;
    const z = -b * inverse;
    for (let code = 1; code <= top; code++) {
      const cut = cuts[code]!;
      let bound = bounds[code]!;
      while (padded[bound]! * inverse + z >= cut) bound--;
      while (padded[bound + 1]! * inverse + z < cut) bound++;
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
