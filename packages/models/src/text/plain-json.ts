// JSON files as plain values, quickly: a tokenizer has hundreds of thousands of them, and the exact reader of @lowbit/layouts makes objects of each.

import type { Json } from '@lowbit/core';

/** The bounds of `parseJsonFile`. */
const MAX_DEPTH = 64;
const MAX_VALUES = 5_000_000;

const [QUOTE, BACKSLASH, COMMA, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x22, 0x5c, 0x2c, 0x5b, 0x5d, 0x7b, 0x7d];

/**
 * What `toJson` gives of a file that `JSON.parse` takes and that is within the bounds, objects without prototypes; undefined for any other, which is for
 * the exact reader to refuse, or to read as Python would.
 */
export function plainJson(bytes: Uint8Array): Json | undefined {
  if (!withinBounds(bytes)) return undefined;
  let value: Json;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as Json;
  } catch {
    return undefined;
  }
  withoutPrototypes(value);
  return value;
}

/** Looked at before anything is built of it. In UTF-8 no byte of a longer character is one of these. */
function withinBounds(bytes: Uint8Array): boolean {
  let depth = 0;
  let values = 1;
  for (let i = 0; i < bytes.length; i++) {
    switch (bytes[i]) {
      case QUOTE:
        for (i++; i < bytes.length && bytes[i] !== QUOTE; i++) if (bytes[i] === BACKSLASH) i++;
        break;
      case OPEN_LIST:
      case OPEN_OBJECT:
        depth++;
        values++;
        if (depth > MAX_DEPTH) return false;
        break;
      case CLOSE_LIST:
      case CLOSE_OBJECT:
        depth--;
        break;
      case COMMA:
        values++;
        break;
    }
  }
  return values <= MAX_VALUES;
}

/** So that no name that a stranger chose finds what every object has. */
function withoutPrototypes(value: Json): void {
  if (typeof value !== 'object' || value === null) return;
  if (Array.isArray(value)) {
    for (const item of value) withoutPrototypes(item as Json);
    return;
  }
  for (const key in value) {
    const item = (value as Readonly<Record<string, Json>>)[key];
    if (typeof item === 'object') withoutPrototypes(item as Json);
  }
  Object.setPrototypeOf(value, null);
}
