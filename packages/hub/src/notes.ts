// What was noticed while reading layers, once for all that it is true of.

import type { StoredLinear } from '@lowbit/core';
import { some } from './layouts/loads.ts';

/** The notes of quantized linears as sentences that name them. */
export function checkpointNotes(quantized: ReadonlyMap<string, StoredLinear>): readonly string[] {
  const paths = new Map<string, string[]>();
  for (const [path, { note }] of quantized) if (note !== undefined) paths.set(note, [...(paths.get(note) ?? []), path]);
  return [...paths].map(([note, of]) => `${some(of)}: ${note}.`);
}
