// JSON files of a model folder, written by Python and fetched from strangers.

import { type ErrorCode, LowbitError } from '@lowbit/core';
import { type JsonTree, parseJson } from './parse.ts';

const MAX_DEPTH = 64;

/** Of `parseJsonFile`. */
export interface JsonFileOptions {
  /** Code of the error for what is not JSON, nests too deep or has too many values; default ERR_BAD_CHECKPOINT. */
  readonly code?: ErrorCode;
  /** Remedy that the error names. */
  readonly hint?: string;
}

/**
 * Parses the bytes of a JSON file as Python would (NaN and Infinity allowed, of duplicate keys the last counts), to a depth of 64 and 5,000,000 values.
 * Throws an error of `code`, naming `file`.
 */
export function parseJsonFile(bytes: Uint8Array, file: string, options: JsonFileOptions = {}): JsonTree {
  const { code = 'ERR_BAD_CHECKPOINT', hint = 'Fetch the file again.' } = options;
  const fail = (problem: string) => new LowbitError(code, `${file}: ${problem}`, { hint, details: { file } });
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw fail('not UTF-8');
  }
  return parseJson(text, {
    maxDepth: MAX_DEPTH,
    duplicates: 'last',
    python: true,
    fail: (problem, at) => fail(`bad JSON: ${problem} (character ${at})`),
  });
}
