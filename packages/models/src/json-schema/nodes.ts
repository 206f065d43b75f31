// What a schema allows, as data for the machine. Nodes are linked to one another, in circles where a schema is recursive.

import type { LiteralNode } from './literals.ts';
import type { NumberRange } from './numbers.ts';

interface Base {
  readonly id: number;
  /** Brackets that a value of it must open at least, one inside the other; infinite for what no value satisfies. */
  depth: number;
}

/** One of some texts, as they are written. */
export interface LiteralSchema extends Base {
  readonly kind: 'literal';
  readonly texts: LiteralNode;
}

export interface StringSchema extends Base {
  readonly kind: 'string';
  /** Characters (code points). */
  readonly min: number;
  readonly max: number;
}

export interface NumberSchema extends Base {
  readonly kind: 'number';
  readonly range: NumberRange;
}

export interface ArraySchema extends Base {
  readonly kind: 'array';
  /** The first elements. */
  prefix: readonly Schema[];
  /** All others; undefined: there are none. */
  rest: Schema | undefined;
  readonly min: number;
  readonly max: number;
}

export interface Property {
  readonly name: string;
  readonly schema: Schema;
  readonly required: boolean;
}

export interface ObjectSchema extends Base {
  readonly kind: 'object';
  /** In the order in which they are written. */
  properties: readonly Property[];
  /** Of all other keys; undefined: there are none. */
  extra: Schema | undefined;
  /** The names of all properties as they are written, without quotation marks; a text that ends is the number of its property. */
  readonly names: LiteralNode;
  /** From each property on, and after the last: the first that must come, else their number. */
  readonly mustCome: readonly number[];
}

/** Any of some. */
export interface UnionSchema extends Base {
  readonly kind: 'union';
  of: readonly Schema[];
}

export type Schema = LiteralSchema | StringSchema | NumberSchema | ArraySchema | ObjectSchema | UnionSchema;
/** What a value begins with: unions are gone. */
export type ValueSchema = Exclude<Schema, UnionSchema>;

/** Brackets that may be open at once: deeper values are not written. */
export const MAX_DEPTH = 64;

/** What the element at `index` must be; undefined: there can be none. */
export function elementOf(array: ArraySchema, index: number): Schema | undefined {
  return array.prefix[index] ?? array.rest;
}

function needed(schema: Schema): number {
  switch (schema.kind) {
    case 'literal':
      return schema.texts.next.size > 0 ? 0 : Number.POSITIVE_INFINITY;
    case 'string':
      return schema.min <= schema.max ? 0 : Number.POSITIVE_INFINITY;
    case 'number':
      return 0; // what is impossible was found when it was read
    case 'union':
      return Math.min(Number.POSITIVE_INFINITY, ...schema.of.map(({ depth }) => depth));
    case 'array': {
      if (schema.min > schema.max) return Number.POSITIVE_INFINITY;
      const elements = [...schema.prefix.slice(0, schema.min)];
      if (schema.min > schema.prefix.length) {
        if (!schema.rest) return Number.POSITIVE_INFINITY;
        elements.push(schema.rest);
      }
      return 1 + Math.max(0, ...elements.map(({ depth }) => depth));
    }
    case 'object':
      return 1 + Math.max(0, ...schema.properties.filter(({ required }) => required).map(({ schema: { depth } }) => depth));
  }
}

/** Works out the depth that each needs: what only values without end would satisfy keeps an infinite one. */
export function settleDepths(schemas: readonly Schema[]): void {
  for (let changed = true; changed; ) {
    changed = false;
    for (const schema of schemas) {
      const depth = needed(schema);
      if (depth < schema.depth) {
        schema.depth = depth;
        changed = true;
      }
    }
  }
}

const values = new WeakMap<Schema, readonly ValueSchema[]>();

/** The members of a union and of those in it that any value satisfies, or the schema itself. */
export function valuesOf(schema: Schema): readonly ValueSchema[] {
  const known = values.get(schema);
  if (known) return known;
  const seen = new Set<Schema>();
  const waiting: Schema[] = [schema];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    if (seen.has(next) || next.depth === Number.POSITIVE_INFINITY) continue;
    seen.add(next);
    if (next.kind === 'union') waiting.push(...next.of);
  }
  const found = [...seen].filter((one) => one.kind !== 'union').sort((a, b) => a.id - b.id);
  values.set(schema, found);
  return found;
}
