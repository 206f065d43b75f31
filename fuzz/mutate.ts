// Damage as data: lists of edits that fast-check makes and, for a failure, makes shorter.

import type { Json } from '@lowbit/core';
import fc from 'fast-check';

export type Edit =
  | { readonly kind: 'flip' | 'remove' | 'repeat' | 'zero'; readonly at: number; readonly length: number }
  | { readonly kind: 'write'; readonly at: number; readonly bytes: Uint8Array }
  | { readonly kind: 'cut'; readonly at: number };

/** Where in a file, as a part of its length. */
const at = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
/** Numbers at which arithmetic goes wrong, as little- and big-endian integers of 1, 2, 4 and 8 bytes. */
const telling = [
  0n,
  1n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 64n - 1n,
];
const integers = [1, 2, 4, 8].flatMap((size) =>
  telling
    .filter((value) => value < 2n ** BigInt(8 * size))
    .flatMap((value) => {
      const little = Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
      return [little, little.slice().reverse()];
    }),
);

export const edits: fc.Arbitrary<readonly Edit[]> = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constantFrom('flip', 'remove', 'repeat', 'zero'), at, length: fc.integer({ min: 1, max: 64 }) }),
    fc.record({
      kind: fc.constant('write'),
      at,
      bytes: fc.oneof(fc.constantFrom(...integers), fc.uint8Array({ minLength: 1, maxLength: 16 })),
    }),
    fc.record({ kind: fc.constant('cut'), at }),
  ),
  { minLength: 1, maxLength: 6 },
);

/** The bytes after all edits, one after another. */
export function damaged(bytes: Uint8Array, list: readonly Edit[]): Uint8Array {
  return list.reduce(edited, bytes);
}

function edited(bytes: Uint8Array, edit: Edit): Uint8Array {
  const from = Math.floor(edit.at * bytes.length);
  if (edit.kind === 'cut') return bytes.slice(0, from);
  const head = bytes.subarray(0, from);
  if (edit.kind === 'write') return joined(head, edit.bytes, bytes.subarray(from + edit.bytes.length));
  const part = bytes.slice(from, from + edit.length);
  const rest = bytes.subarray(from + part.length);
  if (edit.kind === 'remove') return joined(head, rest);
  if (edit.kind === 'repeat') return joined(head, part, part, rest);
  return joined(head, edit.kind === 'zero' ? part.fill(0) : part.map((byte) => byte ^ 0xff), rest);
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/** A value of a tree that is replaced, and by what; `undefined` leaves it out. */
export interface JsonEdit {
  readonly at: number;
  readonly value: Json | undefined;
}

const deep = Array.from({ length: 300 }).reduce<Json>((inner) => [inner], 0);
const strange: readonly (Json | undefined)[] = [
  undefined,
  null,
  true,
  false,
  0,
  -1,
  0.5,
  1e12,
  2 ** 31,
  2 ** 53,
  -(2 ** 53),
  1e308,
  '',
  'x',
  'x'.repeat(5000),
  '__proto__',
  '../../x',
  [],
  {},
  [null],
  [1, 2, 3],
  { a: { b: {} } },
  deep,
];

export const jsonEdits: fc.Arbitrary<readonly JsonEdit[]> = fc.array(
  fc.record({ at, value: fc.oneof(fc.constantFrom(...strange), fc.integer() as fc.Arbitrary<Json>, fc.string() as fc.Arbitrary<Json>) }),
  { minLength: 1, maxLength: 4 },
);

/** The tree with each of the named values replaced. */
export function damagedJson(tree: Json, list: readonly JsonEdit[]): Json {
  return list.reduce<Json>((current, { at: place, value }) => {
    const target = Math.floor(place * countValues(current));
    let count = -1;
    const visit = (node: Json): Json | undefined => {
      count++;
      if (count === target) return value;
      if (Array.isArray(node)) return (node as readonly Json[]).map((item) => visit(item) ?? null);
      if (typeof node !== 'object' || node === null) return node;
      const kept = Object.entries(node as Record<string, Json>).flatMap(([key, item]) => {
        const result = visit(item);
        return result === undefined ? [] : [[key, result] as const];
      });
      return Object.fromEntries(kept);
    };
    return visit(current) ?? null;
  }, tree);
}

function countValues(node: Json): number {
  if (typeof node !== 'object' || node === null) return 1;
  return Object.values(node).reduce<number>((sum, item) => sum + countValues(item as Json), 1);
}
