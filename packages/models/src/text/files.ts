// The small JSON and text files of a checkpoint: optional, untrusted, bounded.

import { type Checkpoint, isLowbitError, type JsonObject, LowbitError } from '@lowbit/core';

/** Where files come from: the part of a checkpoint that a tokenizer needs. */
export type FileSource = Pick<Checkpoint, 'file' | 'label'>;

interface FileRules {
  readonly maxBytes: number;
  /** Code of the error for a malformed file. */
  readonly code: 'ERR_TOKENIZER' | 'ERR_BAD_CHECKPOINT';
}

/** Text of a UTF-8 file, undefined where there is none. Throws ERR_LIMIT over `maxBytes`. */
export async function textFile(source: FileSource, name: string, rules: FileRules): Promise<string | undefined> {
  const bytes = await source.file(name, rules.maxBytes);
  if (!bytes) return undefined;
  if (bytes.byteLength > rules.maxBytes) {
    throw new LowbitError('ERR_LIMIT', `${name} has ${bytes.byteLength} bytes, more than ${rules.maxBytes}`, {
      details: { file: name, bytes: bytes.byteLength, limit: rules.maxBytes },
    });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LowbitError(rules.code, `${name} is not UTF-8`, { details: { file: name }, cause });
  }
}

/** The object in a JSON file, undefined where there is no file. Throws `rules.code` if it holds anything else. */
export async function jsonFile(source: FileSource, name: string, rules: FileRules): Promise<JsonObject | undefined> {
  const text = await textFile(source, name, rules);
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
    throw new LowbitError(rules.code, `${name} holds no JSON object`, { details: { file: name } });
  } catch (cause) {
    if (isLowbitError(cause)) throw cause;
    throw new LowbitError(rules.code, `${name} is not valid JSON: ${(cause as Error).message}`, {
      hint: 'The file is damaged or was not downloaded completely.',
      details: { file: name },
      cause,
    });
  }
}
