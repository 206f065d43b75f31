// Whether two schemas plainly exclude each other, which is what `oneOf` needs: unlike types, unlike constants, or a property that both require with
// constants of its own in each (the tag of a union).

import type { Json, JsonObject } from '@lowbit/core';

/** References that are followed; more are not plain. */
const HOPS = 8;

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The schema behind references by `#/a/b`, as far as that is simple. */
function resolve(schema: Json | undefined, root: Json): JsonObject | undefined {
  let found = schema;
  for (let hop = 0; isObject(found) && typeof found.$ref === 'string'; hop++) {
    if (hop === HOPS || !found.$ref.startsWith('#/')) return undefined;
    let target: Json | undefined = root;
    for (const key of found.$ref.slice(2).split('/')) target = isObject(target) && Object.hasOwn(target, key) ? target[key] : undefined;
    found = target;
  }
  return isObject(found) ? found : undefined;
}

/** The values that a schema lists, as JSON. */
function listed(schema: JsonObject): ReadonlySet<string> | undefined {
  if (schema.const !== undefined) return new Set([JSON.stringify(schema.const)]);
  return Array.isArray(schema.enum) ? new Set(schema.enum.map((value) => JSON.stringify(value))) : undefined;
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

function apart(a: ReadonlySet<string> | undefined, b: ReadonlySet<string> | undefined): boolean {
  return a !== undefined && b !== undefined && ![...a].some((one) => b.has(one));
}

/** True where no value fits both; false where that is not plain. */
export function disjoint(one: Json, other: Json, root: Json): boolean {
  const [a, b] = [resolve(one, root), resolve(other, root)];
  if (!a || !b) return false;
  if (apart(types(a), types(b))) return true;
  const [listedA, listedB] = [listed(a), listed(b)];
  // Objects may be written in another order of keys.
  if (apart(listedA, listedB) && ![...listedA!, ...listedB!].some((text) => /^[[{]/.test(text))) return true;
  const both = (name: Json): boolean => [a, b].every(({ required }) => Array.isArray(required) && required.includes(name));
  const [ofA, ofB] = [a.properties, b.properties];
  if (!isObject(ofA) || !isObject(ofB)) return false;
  return Object.keys(ofA).some((name) => {
    if (!both(name) || !Object.hasOwn(ofB, name)) return false;
    const [left, right] = [resolve(ofA[name], root), resolve(ofB[name], root)];
    return left !== undefined && right !== undefined && apart(listed(left), listed(right));
  });
}
