// Writing config.json as transformers does (two spaces, sorted keys, a newline at the end), without disturbing what it does not change: Python
// tells `10000.0` from `10000`, so numbers that are the same as in the source keep their spelling.

import type { Json, JsonObject } from '@lowbit/core';
import { fromJson, isArray, isNumber, isObject, type JsonTree, parseJsonFile, pythonFloat, writeJson } from '@lowbit/layouts';

/** Fields that Python refuses as whole numbers: they are written `6.0`. */
const FLOAT_FIELDS: ReadonlySet<string> = new Set(['llm_int8_threshold']);

/**
 * The bytes of a config.json with the contents of `config`. `original`: the bytes of the config.json that it was made from, for the spelling of
 * numbers. Throws ERR_BAD_CHECKPOINT if `original` is not JSON.
 */
export function writeConfig(config: JsonObject, original?: Uint8Array): Uint8Array {
  const model = original === undefined ? undefined : parseJsonFile(original, 'config.json');
  return new TextEncoder().encode(`${writeJson(respell(config, model))}\n`);
}

function respell(value: Json, model: JsonTree | undefined, key = ''): JsonTree {
  if (typeof value === 'number') {
    if (FLOAT_FIELDS.has(key)) return { literal: pythonFloat(value) };
    return isNumber(model) && Object.is(Number(model.literal), value) ? model : fromJson(value);
  }
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) {
    const items = model !== undefined && model !== null && typeof model === 'object' && isArray(model) ? model : [];
    return (value as readonly Json[]).map((item, i) => respell(item, items[i]));
  }
  const members = isObject(model) ? model : new Map<string, JsonTree>();
  return new Map(Object.entries(value as JsonObject).map(([key, item]) => [key, respell(item, members.get(key), key)]));
}
