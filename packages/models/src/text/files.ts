// The small JSON and text files of a checkpoint: optional, untrusted, bounded.

import { type Checkpoint, type JsonObject, LowbitError } from '@lowbit/core';
import { isObject, parseJsonFile, toJson } from '@lowbit/layouts';
import { plainJson } from './plain-json.ts';

/** Where files come from: the part of a checkpoint that a tokenizer needs. */
export type TextFiles = Pick<Checkpoint, 'file' | 'label'>;

interface FileRules {
  readonly maxBytes: number;
  /** Code of the error for a malformed file. */
  readonly code: 'ERR_TOKENIZER' | 'ERR_BAD_CHECKPOINT';
}

/** The bytes of a file, undefined where there is none. Throws ERR_LIMIT over `maxBytes`. */
async function bytesOf(source: TextFiles, name: string, { maxBytes }: FileRules): Promise<Uint8Array | undefined> {
  const bytes = await source.file(name, maxBytes);
  if (!bytes || bytes.byteLength <= maxBytes) return bytes;
  throw new LowbitError('ERR_LIMIT', `${name} has ${bytes.byteLength} bytes, more than ${maxBytes}`, {
    details: { file: name, bytes: bytes.byteLength, limit: maxBytes },
  });
}

/** Text of a UTF-8 file, undefined where there is none. Throws ERR_LIMIT over `maxBytes`. */
export async function textFile(source: TextFiles, name: string, rules: FileRules): Promise<string | undefined> {
  const bytes = await bytesOf(source, name, rules);
  if (!bytes) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LowbitError(rules.code, `${name} is not UTF-8`, { details: { file: name }, cause });
  }
}

/** The object in a JSON file, undefined where there is no file. Throws `rules.code` if it holds anything else or too many values, ERR_LIMIT over `maxBytes`. */
export async function jsonFile(source: TextFiles, name: string, rules: FileRules): Promise<JsonObject | undefined> {
  const bytes = await bytesOf(source, name, rules);
  if (!bytes) return undefined;
  const plain = plainJson(bytes);
  if (plain !== undefined && typeof plain === 'object' && plain !== null && !Array.isArray(plain)) return plain as JsonObject;
  const tree = parseJsonFile(bytes, name, { code: rules.code, hint: 'The file is damaged or was not downloaded completely.' });
  if (isObject(tree)) return toJson(tree) as JsonObject;
  throw new LowbitError(rules.code, `${name} holds no JSON object`, { details: { file: name } });
}
