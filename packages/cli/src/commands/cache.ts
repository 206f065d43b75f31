// `lowbit cache`: what the native backend keeps on disk, and its removal.

import { createInterface } from 'node:readline/promises';
import { LowbitError } from '@lowbit/core';
import type { CachedModel } from '@lowbit/kernels-cpu';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { pairs, plain, table } from '../table.ts';
import { bytesText } from '../units.ts';

export interface RemoveCachedOptions extends CommonOptions {
  readonly all?: boolean;
  readonly yes?: boolean;
}

/** A model in the cache. */
export interface CachedModelFacts {
  readonly name: string;
  /** Folder that it was read from. */
  readonly model: string;
  readonly bytes: number;
  readonly weights: number;
  /** ISO 8601. */
  readonly lastUsed: string;
}

/** What `lowbit cache --json` prints. */
export interface CacheReport {
  readonly dir: string;
  readonly bytes: number;
  readonly maxBytes: number;
  readonly models: readonly CachedModelFacts[];
}

/** What `lowbit cache rm --json` prints. */
export interface RemovedReport {
  readonly removed: readonly CachedModelFacts[];
  readonly bytes: number;
}

/** Runs `lowbit cache`. */
export async function listCacheCommand(context: Context): Promise<void> {
  const { listCache } = await import('@lowbit/kernels-cpu');
  const { dir, bytes, maxBytes, models } = await listCache();
  if (context.json) return context.emit({ dir, bytes, maxBytes, models: models.map(facts) } satisfies CacheReport);
  const head = pairs([
    ['cache', dir],
    ['size', `${bytesText(bytes)} of at most ${bytesText(maxBytes)}`],
  ]);
  if (models.length === 0) return context.print(`${head}\n\nNothing is kept yet.\n`);
  const rows = models.map((model) => [model.name, bytesText(model.bytes), String(model.weights), agoText(model.lastUsed), model.label]);
  const columns = [
    { title: 'name' },
    { title: 'size', align: 'right' },
    { title: 'weights', align: 'right' },
    { title: 'last used' },
    { title: 'model' },
  ] as const;
  return context.print(`${head}\n\n${table(columns, rows)}\n`);
}

/**
 * Runs `lowbit cache rm`. Models that are named go at once: nothing is lost but time. All of them only after a question, or with --yes.
 * Throws ERR_USAGE without names and --all, or with both, and for --all without a terminal to ask on; ERR_NOT_FOUND, ERR_BAD_ARGUMENT and ERR_IO as
 * `removeCached`.
 */
export async function removeCachedCommand(names: readonly string[], options: RemoveCachedOptions, context: Context): Promise<void> {
  if (options.all === true && names.length > 0) throw new UsageError('cache rm takes names or --all, not both');
  if (options.all !== true && names.length === 0)
    throw new UsageError('cache rm needs names or --all', '`lowbit cache` lists what there is.');
  const { listCache, removeCached } = await import('@lowbit/kernels-cpu');
  if (options.all === true && options.yes !== true) {
    const { models, bytes } = await listCache();
    if (models.length > 0 && !(await agreed(`Remove ${countModels(models.length)}, ${bytesText(bytes)}?`, context))) {
      throw new LowbitError('ERR_ABORTED', 'nothing was removed');
    }
  }
  const removed = await removeCached(options.all === true ? 'all' : names);
  const bytes = removed.reduce((sum, model) => sum + model.bytes, 0);
  if (context.json) return context.emit({ removed: removed.map(facts), bytes } satisfies RemovedReport);
  const lines = removed.map(({ name }) => `Removed ${plain(name)}\n`);
  return context.print(`${lines.join('')}${countModels(removed.length)}, ${bytesText(bytes)} freed\n`);
}

/** Whether a person says yes. */
async function agreed(question: string, { signal, json }: Context): Promise<boolean> {
  const { stdin, stderr } = process;
  if (stdin.isTTY !== true || stderr.isTTY !== true || json) {
    throw new UsageError('cache rm --all asks first, and there is no terminal to ask on', 'Pass --yes to remove all without a question.');
  }
  const lines = createInterface({ input: stdin, output: stderr });
  try {
    return /^y(?:es)?$/i.test((await lines.question(`${question} [y/N] `, { signal })).trim());
  } finally {
    lines.close();
  }
}

function facts({ name, label, bytes, weights, lastUsed }: CachedModel): CachedModelFacts {
  return { name, model: label, bytes, weights, lastUsed: lastUsed.toISOString() };
}

function countModels(count: number): string {
  return count === 1 ? '1 model' : `${count} models`;
}

/** `just now`, `5 minutes ago`, `3 days ago`. */
export function agoText(then: Date, now: number = Date.now()): string {
  const minutes = Math.floor((now - then.getTime()) / 60_000);
  if (minutes < 1) return 'just now';
  const [count, unit] =
    minutes < 60 ? [minutes, 'minute'] : minutes < 48 * 60 ? [Math.floor(minutes / 60), 'hour'] : [Math.floor(minutes / 1440), 'day'];
  return `${count} ${unit}${count === 1 ? '' : 's'} ago`;
}
