// A strict, bounded JSON reader for files that strangers wrote. Three things JSON.parse cannot do: refuse (or see) duplicate keys, bound the
// nesting before it is built, and keep numbers as they were written (`1e-05`, `10000.0`), so that a config can be written back unchanged.

import type { Json } from '@lowbit/core';
import { quote } from '@lowbit/core';

/** A JSON value with numbers as their literals and objects as maps, so that no key (`__proto__`, `constructor`) means anything. */
export type JsonTree = null | boolean | string | JsonNumber | readonly JsonTree[] | ReadonlyMap<string, JsonTree>;

/** A number as written in the file, e.g. `1e-05`. */
export interface JsonNumber {
  readonly literal: string;
}

/** What JSON may have. */
export interface JsonRules {
  /** Deepest nesting of arrays and objects. */
  readonly maxDepth: number;
  /** Most values in all: a hundred megabytes of `[],[],[]` must not become gigabytes of objects. Default 5,000,000. */
  readonly maxValues?: number;
  /** What a repeated key does: `reject`, or `last` as JSON.parse and Python do. */
  readonly duplicates: 'reject' | 'last';
  /** Accept `NaN`, `Infinity` and `-Infinity`, which Python's json writes. Default false. */
  readonly python?: boolean;
  /** Makes the error; `at` is the character index. */
  readonly fail: (problem: string, at: number) => Error;
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const PYTHON_NUMBER = /-?Infinity|NaN/y;

/** Parses a whole text. Throws what `rules.fail` returns. */
export function parseJson(text: string, rules: JsonRules): JsonTree {
  let at = 0;
  const maxValues = rules.maxValues ?? 5_000_000;
  let values = 0;

  function space(): void {
    for (; at < text.length; at++) {
      const c = text.charCodeAt(at);
      if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return;
    }
  }

  function string(): string {
    const start = at++;
    let escaped = false;
    for (; at < text.length; at++) {
      const c = text.charCodeAt(at);
      if (c === 0x22) {
        at++;
        if (!escaped) return text.slice(start + 1, at - 1);
        try {
          return JSON.parse(text.slice(start, at)) as string;
        } catch {
          throw rules.fail('a string with a bad escape', start);
        }
      }
      if (c === 0x5c) {
        escaped = true;
        at++;
      } else if (c < 0x20) {
        throw rules.fail('a control character in a string', at);
      }
    }
    throw rules.fail('a string without an end', start);
  }

  function number(): JsonNumber {
    for (const pattern of rules.python ? [PYTHON_NUMBER, NUMBER] : [NUMBER]) {
      pattern.lastIndex = at;
      const literal = pattern.exec(text)?.[0];
      if (literal !== undefined) {
        at += literal.length;
        return { literal };
      }
    }
    throw rules.fail(at < text.length ? 'an unexpected character' : 'an early end', at);
  }

  function word<T>(literal: string, meaning: T): T {
    if (!text.startsWith(literal, at)) throw rules.fail('an unexpected character', at);
    at += literal.length;
    return meaning;
  }

  /** Reads `open item , item close`, with the cursor on `open`. */
  function list(close: number, depth: number, item: () => void): void {
    if (depth > rules.maxDepth) throw rules.fail(`nesting deeper than ${rules.maxDepth}`, at);
    at++;
    space();
    if (text.charCodeAt(at) === close) {
      at++;
      return;
    }
    for (;;) {
      space();
      item();
      space();
      const c = text.charCodeAt(at);
      if (c !== 0x2c && c !== close) throw rules.fail(at < text.length ? 'an unexpected character' : 'an early end', at);
      at++;
      if (c === close) return;
    }
  }

  function value(depth: number): JsonTree {
    if (++values > maxValues) throw rules.fail(`more than ${maxValues} values`, at);
    const c = text.charCodeAt(at);
    if (c === 0x22) return string();
    if (c === 0x7b) {
      const object = new Map<string, JsonTree>();
      list(0x7d, depth, () => {
        if (text.charCodeAt(at) !== 0x22) throw rules.fail('a key that is not a string', at);
        const keyAt = at;
        const key = string();
        if (rules.duplicates === 'reject' && object.has(key)) throw rules.fail(`the key ${quote(key)} twice`, keyAt);
        space();
        if (text.charCodeAt(at) !== 0x3a) throw rules.fail('a key without a value', at);
        at++;
        space();
        object.set(key, value(depth + 1));
      });
      return object;
    }
    if (c === 0x5b) {
      const array: JsonTree[] = [];
      list(0x5d, depth, () => array.push(value(depth + 1)));
      return array;
    }
    if (c === 0x74) return word('true', true);
    if (c === 0x66) return word('false', false);
    if (c === 0x6e) return word('null', null);
    return number();
  }

  space();
  const tree = value(1);
  space();
  if (at < text.length) throw rules.fail('text after the end', at);
  return tree;
}

/** The plain value. Objects have no prototype, so a key such as `constructor` is absent unless the file has it. */
export function toJson(tree: JsonTree): Json {
  if (tree === null || typeof tree !== 'object') return tree;
  if (isNumber(tree)) return Number(tree.literal);
  if (isArray(tree)) return tree.map(toJson);
  const object: Record<string, Json> = Object.create(null);
  for (const [key, value] of tree) object[key] = toJson(value);
  return object;
}

/** The tree of a plain value, numbers as JavaScript writes them. */
export function fromJson(value: Json): JsonTree {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'number') return { literal: String(value) };
  if (Array.isArray(value)) return (value as readonly Json[]).map(fromJson);
  return new Map(Object.entries(value as { readonly [key: string]: Json }).map(([key, item]) => [key, fromJson(item)]));
}

/** Whether it is an array. */
export function isArray(tree: JsonTree): tree is readonly JsonTree[] {
  return Array.isArray(tree);
}

/** Whether it is an object. */
export function isObject(tree: JsonTree | undefined): tree is ReadonlyMap<string, JsonTree> {
  return tree instanceof Map;
}

/** Whether it is a number. */
export function isNumber(tree: JsonTree | undefined): tree is JsonNumber {
  return typeof tree === 'object' && tree !== null && 'literal' in tree;
}
