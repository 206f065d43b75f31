/** Bounds of a pickle; beyond one it is refused. */
export interface PickleLimits {
  /** Values pushed in all: bounds time, and the stack with it. */
  readonly values: number;
  /** Lists, tuples, dictionaries, tensors: bounds memory. */
  readonly objects: number;
  readonly memo: number;
  /** Bytes of one string. */
  readonly string: number;
  /** Nesting of the result. */
  readonly depth: number;
}

/** A hundred thousand tensors in one file take about 2.5 million values, 800 thousand objects and a million memo entries. */
export const PICKLE_LIMITS: PickleLimits = { values: 8_000_000, objects: 2_000_000, memo: 2_000_000, string: 1 << 20, depth: 64 };

/** Longest module or name of a global, in bytes. */
export const MAX_GLOBAL = 256;
