// Answers of a hub in JSON, which are bounded: what answers may be another server than was meant.

import { LowbitError } from '@lowbit/core';
import { collect } from '../http.ts';
import type { Answer } from './client.ts';
import { placeOf } from './errors.ts';

const MAX_JSON_BYTES = 32 * 1024 * 1024;

/** Reads an answer. Throws ERR_LIMIT for one that is too long, ERR_NETWORK for one that is no JSON. */
export async function readJson({ url, body }: Pick<Answer, 'url' | 'body'>, maxBytes = MAX_JSON_BYTES): Promise<unknown> {
  const whole = await collect(
    body(),
    maxBytes,
    () => new LowbitError('ERR_LIMIT', `${placeOf(url)} answered with more than ${maxBytes} bytes`, { hint: 'Check HF_ENDPOINT.' }),
  );
  try {
    return JSON.parse(new TextDecoder().decode(whole));
  } catch (cause) {
    throw new LowbitError('ERR_NETWORK', `${placeOf(url)} answered with what is no JSON`, {
      hint: 'Check HF_ENDPOINT; a page to sign in to the network answers like that, too.',
      cause,
    });
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
