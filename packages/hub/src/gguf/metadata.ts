// What the metadata of a GGUF file says, with types.

import { quote } from '@lowbit/core';
import { badGguf } from './bad.ts';
import type { GgufValue } from './header.ts';

export interface GgufMetadata {
  readonly file: string;
  /** `general.architecture`. */
  readonly architecture: string;
  /** Keys begin with the architecture unless they have a dot in front: `.tokenizer.ggml.model`. */
  has(key: string): boolean;
  isList(key: string): boolean;
  text(key: string): string | undefined;
  flag(key: string): boolean | undefined;
  /** A whole number from `least` (0) to 2^31. */
  whole(key: string, least?: number): number | undefined;
  /** As `whole`, of a key that must be there. */
  count(key: string): number;
  /** A finite number, by its shortest spelling where the file has a float32: 1e-5, not 0.000009999999747378752. */
  number(key: string): number | undefined;
  texts(key: string): readonly string[] | undefined;
  numbers(key: string): ArrayLike<number> | undefined;
}

/** Reads values by key. Throws ERR_BAD_CHECKPOINT where one has another type than asked for. */
export function ggufMetadata(values: ReadonlyMap<string, GgufValue>, file: string): GgufMetadata {
  const architecture = values.get('general.architecture');
  if (typeof architecture !== 'string' || architecture === '') throw badGguf(file, 'it has no general.architecture');
  const full = (key: string): string => (key.startsWith('.') ? key.slice(1) : `${architecture}.${key}`);
  const get = (key: string): GgufValue | undefined => values.get(full(key));
  const wrong = (key: string, what: string) => badGguf(file, `${quote(full(key))} is not ${what}`, { key: full(key) });

  function typed<T>(key: string, what: string, fits: (value: GgufValue) => T | undefined): T | undefined {
    const value = get(key);
    if (value === undefined) return undefined;
    const fitting = fits(value);
    if (fitting === undefined) throw wrong(key, what);
    return fitting;
  }

  const whole = (key: string, least = 0): number | undefined =>
    typed(key, `a whole number from ${least}`, (value) =>
      typeof value === 'number' && Number.isInteger(value) && value >= least && value <= 2 ** 31 ? value : undefined,
    );

  return {
    file,
    architecture,
    has: (key) => get(key) !== undefined,
    isList: (key) => typeof get(key) === 'object',
    text: (key) => typed(key, 'a text', (value) => (typeof value === 'string' ? value : undefined)),
    flag: (key) => typed(key, 'true or false', (value) => (typeof value === 'boolean' ? value : undefined)),
    whole,
    count(key) {
      const value = whole(key, 1);
      if (value === undefined) throw badGguf(file, `it has no ${full(key)}`, { key: full(key) });
      return value;
    },
    number: (key) =>
      typed(key, 'a finite number', (value) => (typeof value === 'number' && Number.isFinite(value) ? shortest(value) : undefined)),
    texts: (key) =>
      typed(key, 'a list of texts', (value) =>
        Array.isArray(value) && value.every((item) => typeof item === 'string') ? (value as readonly string[]) : undefined,
      ),
    numbers: (key) =>
      typed(key, 'a list of numbers', (value) =>
        ArrayBuffer.isView(value) && !(value instanceof BigUint64Array) && !(value instanceof BigInt64Array)
          ? (value as unknown as ArrayLike<number>)
          : undefined,
      ),
  };
}

/** The decimal with fewest digits that is the same float32; the number itself if it is none. */
export function shortest(value: number): number {
  if (Math.fround(value) !== value) return value;
  for (let digits = 6; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return value;
}
