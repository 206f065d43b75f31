// Numbers digit by digit: which beginnings can still become a number within the bounds. All arithmetic is exact, on whole numbers that are the value
// times 10^fraction. Exponents are not written.

/** What a number may be, each in units of 10^-fraction. */
export interface NumberRange {
  readonly low: bigint | undefined;
  readonly high: bigint | undefined;
  /** Most digits after the point; 0 for whole numbers. */
  readonly fraction: number;
  /** Most digits before the point. */
  readonly whole: number;
  /** The value is a multiple of it; 1n for any. */
  readonly step: bigint;
}

/** A number so far. */
export interface NumberState {
  readonly negative: boolean;
  /** All digits, without the point. */
  readonly digits: string;
  /** Digits after the point; -1 before it. */
  readonly decimals: number;
}

export const NUMBER_START: NumberState = { negative: false, digits: '', decimals: -1 };

/** Whether [from, to] has a multiple of `step` that is an allowed magnitude (the value without its sign). */
function has({ low, high, step }: NumberRange, negative: boolean, from: bigint, to: bigint): boolean {
  let [a, b] = [from, to];
  if (negative) {
    // -0 is not written, nor a magnitude that rounds to nothing.
    if (a < 1n) a = 1n;
    if (high !== undefined && -high > a) a = -high;
    if (low !== undefined && -low < b) b = -low;
  } else {
    if (low !== undefined && low > a) a = low;
    if (high !== undefined && high < b) b = high;
  }
  return a <= b && (b / step) * step >= a;
}

/** Whether the number may end here. */
export function numberEnds(range: NumberRange, state: NumberState): boolean {
  if (state.digits === '' || state.decimals === 0) return false;
  const value = BigInt(state.digits) * 10n ** BigInt(range.fraction - Math.max(state.decimals, 0));
  return has(range, state.negative, value, value);
}

/** Whether any number that is allowed begins like this. */
function viable(range: NumberRange, { negative, digits, decimals }: NumberState): boolean {
  const unit = 10n ** BigInt(range.fraction);
  if (digits === '') return has(range, negative, 0n, 10n ** BigInt(range.whole) * unit - 1n);
  const value = BigInt(digits);
  if (decimals >= 0) {
    const left = 10n ** BigInt(range.fraction - decimals);
    // With a point there must be a digit after it, which `left` > 1 allows.
    return has(range, negative, value * left, (value + 1n) * left - 1n);
  }
  let [from, to] = [value, value + 1n];
  for (let length = digits.length; length <= range.whole; length++) {
    if (has(range, negative, from * unit, to * unit - 1n)) return true;
    if (value === 0n) return false; // a leading zero stands alone
    from *= 10n;
    to *= 10n;
  }
  return false;
}

/** The number with one more byte, or undefined where none that is allowed begins like that. */
export function numberByte(range: NumberRange, state: NumberState, byte: number): NumberState | undefined {
  const { negative, digits, decimals } = state;
  let next: NumberState;
  if (byte === 0x2d) {
    if (negative || digits !== '') return undefined;
    next = { ...state, negative: true };
  } else if (byte === 0x2e) {
    if (digits === '' || decimals >= 0 || range.fraction === 0) return undefined;
    next = { ...state, decimals: 0 };
  } else if (byte >= 0x30 && byte <= 0x39) {
    if (decimals < 0 ? digits === '0' || digits.length >= range.whole : decimals >= range.fraction) return undefined;
    next = { negative, digits: digits + String.fromCharCode(byte), decimals: decimals < 0 ? -1 : decimals + 1 };
  } else return undefined;
  return viable(range, next) ? next : undefined;
}

/** Whether there is any number. */
export function numberPossible(range: NumberRange): boolean {
  return viable(range, NUMBER_START) || viable(range, { ...NUMBER_START, negative: true });
}

/** A double as a whole number and the digits after its point: 1.25 is [125n, 2], exactly as it is printed. */
function decimalOf(value: number): readonly [bigint, number] {
  const [, sign, whole, fraction = '', exponent = '0'] = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value))!;
  const shift = Number(exponent) - fraction.length;
  const digits = BigInt(`${sign}${whole}${fraction}`);
  return shift >= 0 ? [digits * 10n ** BigInt(shift), 0] : [digits, -shift];
}

function scaled([digits, places]: readonly [bigint, number], fraction: number, up: boolean): bigint {
  if (places <= fraction) return digits * 10n ** BigInt(fraction - places);
  const divisor = 10n ** BigInt(places - fraction);
  const quotient = digits / divisor;
  if (quotient * divisor === digits) return quotient;
  return up ? (digits > 0n ? quotient + 1n : quotient) : digits < 0n ? quotient - 1n : quotient;
}

/** The next double above `value` (below, for -1). */
function neighbour(value: number, direction: 1 | -1): number {
  if (value === 0) return direction * Number.MIN_VALUE;
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  view.setBigInt64(0, view.getBigInt64(0) + (value > 0 === direction > 0 ? 1n : -1n));
  return view.getFloat64(0);
}

/** Digits that are written where bounds need no more: what a double tells apart, and no endless 0.3333. */
const DIGITS = 16;

/** Up to here every whole number is a double. */
export const MAX_EXACT: number = 2 ** 53;

/** What JSON Schema says of a number; `multipleOf` is whole, at most `MAX_EXACT`. */
export interface NumberBounds {
  readonly minimum?: number | undefined;
  readonly maximum?: number | undefined;
  readonly exclusiveMinimum?: number | undefined;
  readonly exclusiveMaximum?: number | undefined;
  readonly multipleOf?: number | undefined;
}

/**
 * The numbers that a validator which reads them as doubles accepts: decimals at or above the printed form of a bound are doubles at or above it, and those
 * above it begin with the next double. Multiples are written up to 2^53: digits beyond may be read as a neighbour that is none. Nothing is written that is
 * read as infinite.
 */
export function numberRange(bounds: NumberBounds, { integer = false }: { readonly integer?: boolean } = {}): NumberRange {
  const { minimum, maximum, exclusiveMinimum: above, exclusiveMaximum: below, multipleOf } = bounds;
  const lows = [minimum, above === undefined ? undefined : neighbour(above, 1)].filter((bound) => bound !== undefined).map(decimalOf);
  const highs = [maximum, below === undefined ? undefined : neighbour(below, -1)].filter((bound) => bound !== undefined).map(decimalOf);
  const most = BigInt(multipleOf === undefined ? Number.MAX_VALUE : MAX_EXACT);
  const step = multipleOf === undefined ? 1n : decimalOf(multipleOf)[0];
  const within = (fraction: number): NumberRange => {
    const low = lows
      .map((bound) => scaled(bound, fraction, true))
      .reduce<bigint | undefined>((a, b) => (a === undefined || b > a ? b : a), undefined);
    const high = highs
      .map((bound) => scaled(bound, fraction, false))
      .reduce<bigint | undefined>((a, b) => (a === undefined || b < a ? b : a), undefined);
    const digits = [low ?? 0n, high ?? 0n, step].map((bound) => String(bound < 0n ? -bound : bound).length - fraction);
    const limit = most * 10n ** BigInt(fraction);
    const [from, to] = [low !== undefined && low > -limit ? low : -limit, high !== undefined && high < limit ? high : limit];
    return { low: from, high: to, fraction, whole: Math.max(DIGITS, ...digits), step };
  };
  if (integer || multipleOf !== undefined) return within(0);
  const range = within(DIGITS);
  // Bounds so close together that nothing lies between them in so many digits.
  return numberPossible(range) ? range : within(Math.max(DIGITS, ...[...lows, ...highs].map(([, places]) => places)));
}
