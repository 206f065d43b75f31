// From JSON Schema to what the machine runs. Whatever is not understood is an error that names it: an assertion that is passed over would be a promise
// that is not kept.

import { type Json, type JsonObject, LowbitError } from '@lowbit/core';
import { contentOf, disjoint } from './disjoint.ts';
import { literals } from './literals.ts';
import { MAX_DEPTH, type Property, type Schema, settleDepths, type UnionSchema, valuesOf } from './nodes.ts';
import { MAX_EXACT, numberPossible, numberRange } from './numbers.ts';
import { referred } from './references.ts';

/** A JSON schema: an object, or true for any value. */
export type JsonSchema = JsonObject | boolean;

const MAX_SCHEMAS = 10_000;
const MAX_NESTING = 200;
/** Ways that one value may begin; as many are kept open side by side. */
const MAX_CHOICES = 256;
/** Characters of all names and constants. */
const MAX_TEXT = 2 ** 20;

/** Say nothing about what is valid. */
const ANNOTATIONS = new Set(
  (
    '$schema $id $comment $defs definitions $anchor title description default examples example deprecated readOnly writeOnly ' +
    'contentMediaType contentEncoding'
  ).split(' '),
);
const OF_TYPE: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
};
const ASSERTIONS = new Set([...Object.values(OF_TYPE).flat(), 'type', 'enum', 'const', 'anyOf', 'oneOf', 'allOf', '$ref']);
const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'];

const encoder = new TextEncoder();

/** An error in a schema. */
function wrong(at: string, message: string, hint?: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `JSON schema at ${at}: ${message}`, { hint, details: { at } });
}

function tooMuch(what: string, limit: number): LowbitError {
  return new LowbitError('ERR_LIMIT', `the JSON schema has more than ${limit} ${what}`, { details: { limit } });
}

/** A value as it is written; with `ascii`, whatever else is escaped. */
function textOf(value: Json, ascii: boolean): string {
  const text = JSON.stringify(value);
  return ascii ? text.replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`) : text;
}

function isSchema(value: Json | undefined): value is JsonSchema {
  return typeof value === 'boolean' || (typeof value === 'object' && value !== null && !Array.isArray(value));
}

/** The types of JSON that a value has, `integer` included. */
function typesOf(value: Json): readonly string[] {
  if (value === null) return ['null'];
  if (Array.isArray(value)) return ['array'];
  if (typeof value === 'number') return Number.isInteger(value) ? ['number', 'integer'] : ['number'];
  return [typeof value];
}

const pointer = (at: string, key: string | number): string => `${at}/${String(key).replaceAll('~', '~0').replaceAll('/', '~1')}`;

/** Names that JavaScript lists first and rising, wherever they stood. */
function isIndex(name: string): boolean {
  return /^(?:0|[1-9]\d{0,9})$/.test(name) && Number(name) < 2 ** 32 - 1;
}

/** A number of a schema: whole and from 0 for lengths. */
function numberAt(schema: JsonObject, at: string, key: string, length: boolean): number | undefined {
  const value = schema[key];
  if (value === undefined) return undefined;
  const usable = typeof value === 'number' && Number.isFinite(value) && (!length || (Number.isInteger(value) && value >= 0));
  if (usable) return value;
  throw wrong(pointer(at, key), `${JSON.stringify(value)} is no ${length ? 'whole number from 0' : 'number'}`);
}

/** A part before it has its place among the others. */
type Unplaced<T extends Schema['kind']> = Omit<Extract<Schema, { kind: T }>, 'id' | 'depth'> & { readonly kind: T };

class Reader {
  readonly #root: JsonSchema;
  readonly #ascii: boolean;
  readonly #made: Schema[] = [];
  readonly #known = new Map<object, Schema>();
  #any: Schema | undefined;
  #text = 0;

  constructor(root: JsonSchema, ascii: boolean) {
    this.#root = root;
    this.#ascii = ascii;
  }

  read(): Schema {
    const root = this.#schema(this.#root, '#', 0);
    settleDepths([...this.#made].reverse());
    if (root.depth > MAX_DEPTH) {
      throw wrong(
        '#',
        root.depth === Number.POSITIVE_INFINITY ? 'no value satisfies it' : `its values nest more than ${MAX_DEPTH} brackets`,
      );
    }
    if (this.#made.some((schema) => schema.kind === 'union' && valuesOf(schema).length > MAX_CHOICES))
      throw tooMuch('choices for one value', MAX_CHOICES);
    return root;
  }

  #add<T extends Schema['kind']>(schema: Unplaced<T>): Extract<Schema, { kind: T }> {
    if (this.#made.length >= MAX_SCHEMAS) throw tooMuch('parts', MAX_SCHEMAS);
    const made = { ...schema, id: this.#made.length, depth: Number.POSITIVE_INFINITY } as unknown as Extract<Schema, { kind: T }>;
    this.#made.push(made);
    return made;
  }

  #literals(texts: readonly string[]) {
    for (const text of texts) this.#text += text.length;
    if (this.#text > MAX_TEXT) throw tooMuch('characters of names and constants', MAX_TEXT);
    return literals(texts.map((text) => encoder.encode(text)));
  }

  #constants(values: readonly Json[]): Schema {
    return this.#add({ kind: 'literal', texts: this.#literals(values.map((value) => textOf(value, this.#ascii))) });
  }

  /** Any value. */
  #anything(): Schema {
    if (this.#any) return this.#any;
    const any: UnionSchema = this.#add({ kind: 'union', of: [] });
    this.#any = any;
    any.of = ['object', 'array', 'string', 'number', 'boolean', 'null'].map((type) => this.#typed(type, {}, '#', 0));
    return any;
  }

  #schema(schema: Json | undefined, at: string, nesting: number): Schema {
    if (!isSchema(schema)) throw wrong(at, 'expected an object, true or false');
    if (schema === true) return this.#anything();
    if (schema === false) return this.#add({ kind: 'union', of: [] });
    if (nesting > MAX_NESTING) throw tooMuch('levels', MAX_NESTING);
    const known = this.#known.get(schema);
    if (known) return known;
    const made: UnionSchema = this.#add({ kind: 'union', of: [] });
    this.#known.set(schema, made);
    made.of = this.#members(schema, at, nesting + 1);
    return made;
  }

  /** What a schema allows any of. */
  #members(schema: JsonObject, at: string, nesting: number): readonly Schema[] {
    const keys = Object.keys(schema).filter((key) => schema[key] !== undefined && !ANNOTATIONS.has(key) && !key.startsWith('x-'));
    const unknown = keys.find((key) => !ASSERTIONS.has(key));
    if (unknown !== undefined) {
      throw wrong(pointer(at, unknown), `${unknown} is not supported`, 'Leave it out here, and check the finished value for it.');
    }
    const alone = ['$ref', 'anyOf', 'oneOf', 'allOf'].find((key) => keys.includes(key));
    if (alone !== undefined) {
      const other = keys.find((key) => key !== alone);
      if (other !== undefined)
        throw wrong(pointer(at, alone), `${alone} is supported by itself, without ${other}`, 'Put what both say into one schema.');
      return alone === '$ref'
        ? [this.#reference(schema.$ref, pointer(at, alone), nesting)]
        : this.#choice(alone, schema[alone], pointer(at, alone), nesting);
    }
    const types = this.#types(schema, at);
    if (keys.includes('enum') || keys.includes('const')) return [this.#listed(schema, types, keys, at)];
    if (types) return types.map((type) => this.#typed(type, schema, at, nesting));
    // What a keyword says of one type is meant of that type, here as elsewhere.
    const implied = Object.keys(OF_TYPE).filter((type) => OF_TYPE[type]!.some((key) => keys.includes(key)));
    return implied.length > 0 ? implied.map((type) => this.#typed(type, schema, at, nesting)) : [this.#anything()];
  }

  #types({ type }: JsonObject, at: string): readonly string[] | undefined {
    if (type === undefined) return undefined;
    const types = Array.isArray(type) ? type : [type];
    const unknown = types.find((one) => !TYPES.includes(one as string));
    if (unknown !== undefined || types.length === 0)
      throw wrong(pointer(at, 'type'), `${JSON.stringify(unknown ?? type)} is no type of JSON`, `Types: ${TYPES.join(', ')}.`);
    return [...new Set(types as string[])].filter((one) => one !== 'integer' || !types.includes('number'));
  }

  #listed(schema: JsonObject, types: readonly string[] | undefined, keys: readonly string[], at: string): Schema {
    const other = keys.find((key) => !['type', 'enum', 'const'].includes(key));
    if (other !== undefined)
      throw wrong(pointer(at, other), `${other} is not supported beside enum and const`, 'List only what it allows.');
    const listed = keys.includes('enum') ? schema.enum : [schema.const!];
    if (!Array.isArray(listed)) throw wrong(pointer(at, 'enum'), 'expected a list of values');
    const fits = (value: Json): boolean =>
      (!types || typesOf(value).some((type) => types.includes(type))) &&
      (!keys.includes('const') || contentOf(value) === contentOf(schema.const!));
    return this.#constants(listed.filter(fits));
  }

  #reference(ref: Json | undefined, at: string, nesting: number): Schema {
    if (typeof ref !== 'string') throw wrong(at, 'expected a text');
    if (ref !== '#' && !ref.startsWith('#/'))
      throw wrong(at, `${JSON.stringify(ref)} is not in this schema`, 'References look like #/$defs/name; others are not supported.');
    const target = referred(ref, this.#root as Json);
    if (!isSchema(target)) throw wrong(at, `there is no schema at ${ref}`);
    return this.#schema(target, ref, nesting);
  }

  #choice(kind: string, list: Json | undefined, at: string, nesting: number): readonly Schema[] {
    if (!Array.isArray(list) || list.length === 0) throw wrong(at, 'expected a list of schemas');
    if (kind === 'allOf' && list.length > 1)
      throw wrong(at, 'allOf of several schemas is not supported', 'Put what all say into one schema.');
    if (kind === 'oneOf') {
      const clash = overlap(list, this.#root);
      if (clash) {
        throw wrong(
          at,
          `oneOf is supported where it is plain that only one can fit, and ${clash.join(' and ')} may both`,
          'Write anyOf, or give each a required property with a const of its own.',
        );
      }
    }
    return list.map((one, i) => this.#schema(one, pointer(at, i), nesting));
  }

  #typed(type: string, schema: JsonObject, at: string, nesting: number): Schema {
    switch (type) {
      case 'null':
        return this.#constants([null]);
      case 'boolean':
        return this.#constants([true, false]);
      case 'string':
        return this.#add({
          kind: 'string',
          min: numberAt(schema, at, 'minLength', true) ?? 0,
          max: numberAt(schema, at, 'maxLength', true) ?? Number.POSITIVE_INFINITY,
        });
      case 'array':
        return this.#array(schema, at, nesting);
      case 'object':
        return this.#object(schema, at, nesting);
      default:
        return this.#number(schema, at, type === 'integer');
    }
  }

  #number(schema: JsonObject, at: string, integer: boolean): Schema {
    const [minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf] = OF_TYPE.number!.map((key) =>
      numberAt(schema, at, key, false),
    );
    if (multipleOf !== undefined && (!Number.isInteger(multipleOf) || multipleOf < 1 || multipleOf > MAX_EXACT)) {
      throw wrong(pointer(at, 'multipleOf'), `${multipleOf} is not supported`, 'Whole numbers from 1 to 2^53 are.');
    }
    const range = numberRange({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf }, { integer });
    return numberPossible(range) ? this.#add({ kind: 'number', range }) : this.#add({ kind: 'union', of: [] });
  }

  #array(schema: JsonObject, at: string, nesting: number): Schema {
    const { prefixItems = [], items = true } = schema;
    if (!Array.isArray(prefixItems)) throw wrong(pointer(at, 'prefixItems'), 'expected a list of schemas');
    if (Array.isArray(items)) throw wrong(pointer(at, 'items'), 'a list is not supported', 'Lists of schemas are called prefixItems.');
    return this.#add({
      kind: 'array',
      prefix: prefixItems.map((one, i) => this.#schema(one, pointer(pointer(at, 'prefixItems'), i), nesting)),
      rest: items === false ? undefined : this.#schema(items, pointer(at, 'items'), nesting),
      min: numberAt(schema, at, 'minItems', true) ?? 0,
      max: numberAt(schema, at, 'maxItems', true) ?? Number.POSITIVE_INFINITY,
    });
  }

  #object(schema: JsonObject, at: string, nesting: number): Schema {
    const { properties = {}, required = [], additionalProperties } = schema;
    if (typeof properties !== 'object' || properties === null || Array.isArray(properties))
      throw wrong(pointer(at, 'properties'), 'expected an object');
    const whole = Object.keys(properties).filter(isIndex);
    if (whole.length > 0 && whole.length < Object.keys(properties).length) {
      throw wrong(
        pointer(pointer(at, 'properties'), whole[0]!),
        `beside other names ${JSON.stringify(whole[0])} is not supported: JavaScript puts names that are whole numbers first, so the order is lost`,
        'Name it otherwise, or put the whole numbers into an object of their own.',
      );
    }
    if (!Array.isArray(required) || !required.every((name) => typeof name === 'string'))
      throw wrong(pointer(at, 'required'), 'expected a list of names');
    // Absent means anything, but where properties are listed they are what is meant.
    const more = additionalProperties ?? Object.keys(properties).length === 0;
    const extra = more === false ? undefined : this.#schema(more, pointer(at, 'additionalProperties'), nesting);
    const must = new Set(required as string[]);
    const list: Property[] = Object.entries(properties).map(([name, one]) => ({
      name,
      schema: this.#schema(one, pointer(pointer(at, 'properties'), name), nesting),
      required: must.has(name),
    }));
    for (const name of must) {
      if (Object.hasOwn(properties, name)) continue;
      // Not described, so any value that further properties may have.
      const one = additionalProperties === undefined ? this.#anything() : (extra ?? this.#add({ kind: 'union', of: [] }));
      list.push({ name, schema: one, required: true });
    }
    const names = this.#literals(list.map(({ name }) => textOf(name, this.#ascii).slice(1, -1)));
    const mustCome = new Array<number>(list.length + 1).fill(list.length);
    for (let i = list.length - 1; i >= 0; i--) mustCome[i] = list[i]!.required ? i : mustCome[i + 1]!;
    return this.#add({ kind: 'object', properties: list, extra, names, mustCome });
  }
}

/** Two of `oneOf` that may fit the same value, by their places. */
function overlap(list: readonly Json[], root: JsonSchema): readonly [number, number] | undefined {
  // Quadratic, so not for lists of any length.
  if (list.length > 256) throw tooMuch('members of a oneOf', 256);
  for (let i = 0; i < list.length; i++) {
    for (let j = i + 1; j < list.length; j++) if (!disjoint(list[i]!, list[j]!, root)) return [i, j];
  }
  return undefined;
}

/** Reads a schema. Throws ERR_BAD_ARGUMENT for what is no schema, not supported or satisfied by nothing, ERR_LIMIT for too large a one. */
export function readSchema(schema: JsonSchema, { ascii }: { readonly ascii: boolean }): Schema {
  return new Reader(schema, ascii).read();
}
