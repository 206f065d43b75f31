// What tells whether two workers do shares of one job. They may be on different machines, each with a copy of the source of its own: neither paths
// nor times count, contents do.

import { elementCount, type TensorSource } from '@lowbit/core';
import type { StoredCheckpoint } from '../checkpoint.ts';
import { sha256, sha256Bytes } from '../digest.ts';
import type { RemoteCheckpoint } from '../remote/checkpoint.ts';

/** Digests of what the bytes of the result follow from; equal for all shards of a job. */
export interface Job {
  /** Plan and settings: rules, quantizers with their versions, importance, layout, files. */
  readonly settings: string;
  readonly source: string;
  /** Of this package. */
  readonly version: string;
}

export function sameJob(a: Job, b: Job): boolean {
  return a.settings === b.settings && a.source === b.source && a.version === b.version;
}

/** Elements that are looked at in the middle of each tensor. */
const SAMPLE = 256;

/**
 * Identity of a source: of a hub its commit; else names and shapes of all tensors, config.json, and a sample of each tensor. Reading all weights on every machine would cost as much as its share of the work.
 */
export async function sourceDigest(source: StoredCheckpoint | RemoteCheckpoint, signal: AbortSignal | undefined): Promise<string> {
  if ('remote' in source) return sha256(JSON.stringify([source.remote.name, source.remote.commit]));
  const config = await source.file('config.json');
  return sha256(JSON.stringify([config === undefined ? null : await sha256Bytes(config), ...(await samples(source.source, signal))]));
}

async function samples(source: TensorSource, signal: AbortSignal | undefined): Promise<readonly unknown[]> {
  const found: unknown[] = [];
  for (const [name, { dtype, shape }] of [...source.entries].sort(([a], [b]) => (a < b ? -1 : 1))) {
    signal?.throwIfAborted();
    const count = elementCount(shape);
    const from = Math.max(0, Math.floor((count - SAMPLE) / 2));
    const { data } = await source.read(name, { range: [from, Math.min(count, from + SAMPLE)], signal });
    found.push([name, dtype, shape, await sha256Bytes(data)]);
  }
  return found;
}
