// JSON files of a model folder, written by Python and fetched from strangers.

import { LowbitError } from '@lowbit/core';
import { type JsonTree, parseJson } from '@lowbit/core/layouts';

const MAX_DEPTH = 64;

/**
 * Parses the bytes of a JSON file as Python would (NaN and Infinity allowed, of duplicate keys the last counts), to a depth of 64.
 * Throws ERR_BAD_CHECKPOINT, naming `file`.
 */
export function parseJsonFile(bytes: Uint8Array, file: string): JsonTree {
  const fail = (problem: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${file}: ${problem}`, { hint: 'Fetch the file again.', details: { file } });
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
