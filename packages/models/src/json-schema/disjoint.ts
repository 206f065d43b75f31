// Whether two schemas plainly exclude each other, which is what `oneOf` needs: unlike types, unlike constants, or a property that both require with
// constants of its own in each (the tag of a union).

import type { Json, JsonObject } from '@lowbit/core';
import { referred } from './references.ts';

/** Keywords by which a schema without a type allows more than objects. */
const OF_OTHERS = new Set(
  (
    'items prefixItems minItems maxItems minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf ' +
    'anyOf oneOf allOf'
  ).split(' '),
);
/** References that are followed; more are not plain. */
const HOPS = 8;

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The schema behind references, as far as that is simple. */
function resolve(schema: Json | undefined, root: Json): JsonObject | undefined {
  let found = schema;
  for (let hop = 0; isObject(found) && typeof found.$ref === 'string'; hop++) {
    if (hop === HOPS) return undefined;
    found = referred(found.$ref, root);
  }
  return isObject(found) ? found : undefined;
}

/** A value as JSON that is the same for equal values: keys of objects are sorted, since their order says nothing. */
export function contentOf(value: Json): string {
  return JSON.stringify(value, (_, part: Json) =>
    isObject(part) ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1))) : part,
  );
}

/** The values that a schema lists, by their content. */
function listed(schema: JsonObject): ReadonlySet<string> | undefined {
  if (schema.const !== undefined) return new Set([contentOf(schema.const)]);
  return Array.isArray(schema.enum) ? new Set(schema.enum.map(contentOf)) : undefined;
}

const typeOf = (value: Json): string => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value);

/** The types that a schema allows; whole numbers are numbers. */
function types(schema: JsonObject): ReadonlySet<string> | undefined {
  const values = listed(schema);
  if (values) return new Set([...values].map((text) => typeOf(JSON.parse(text) as Json)));
  const { type } = schema;
  if (type === undefined) return undefined;
  return new Set((Array.isArray(type) ? type : [type]).map((one) => (one === 'integer' ? 'number' : String(one))));
}

/** Whether objects alone fit, as it is read here: what says something of objects only is meant of them. */
function isOfObjects(schema: JsonObject): boolean {
  const allowed = types(schema);
  if (allowed) return allowed.size === 1 && allowed.has('object');
  return !Object.keys(schema).some((key) => OF_OTHERS.has(key) && schema[key] !== undefined);
}

function apart(a: ReadonlySet<string> | undefined, b: ReadonlySet<string> | undefined): boolean {
  return a !== undefined && b !== undefined && ![...a].some((one) => b.has(one));
}

/** True where no value fits both; false where that is not plain. */
export function disjoint(one: Json, other: Json, root: Json): boolean {
  const [a, b] = [resolve(one, root), resolve(other, root)];
  if (!a || !b) return false;
  if (apart(types(a), types(b))) return true;
  if (apart(listed(a), listed(b))) return true;
  // A tag tells objects apart, and nothing else: texts beside them would fit both.
  if (!isOfObjects(a) || !isOfObjects(b)) return false;
  const both = (name: Json): boolean => [a, b].every(({ required }) => Array.isArray(required) && required.includes(name));
  const [ofA, ofB] = [a.properties, b.properties];
  if (!isObject(ofA) || !isObject(ofB)) return false;
  return Object.keys(ofA).some((name) => {
    if (!both(name) || !Object.hasOwn(ofB, name)) return false;
    const [left, right] = [resolve(ofA[name], root), resolve(ofB[name], root)];
    return left !== undefined && right !== undefined && apart(listed(left), listed(right));
  });
}
