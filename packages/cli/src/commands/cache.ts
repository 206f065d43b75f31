// `lowbit cache`: what is kept on disk, and its removal. Two things are: models that were downloaded, which Python uses, too, and packed weights, which the
// native backend makes of models and can make again.

import { createInterface } from 'node:readline/promises';
import { LowbitError } from '@lowbit/core';
import { hubSettings, listHubCache, removeFromHubCache } from '@lowbit/hub';
import type { CachedModel } from '@lowbit/kernels-cpu';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { pairs, plain, table } from '../table.ts';
import { bytesText } from '../units.ts';

export interface RemoveCachedOptions extends CommonOptions {
  readonly all?: boolean;
  readonly yes?: boolean;
}

/** A model that was downloaded. */
export interface DownloadedFacts {
  /** `org/name`. */
  readonly name: string;
  readonly bytes: number;
  /** Of them, bytes of unfinished downloads. */
  readonly unfinished: number;
  readonly refs: readonly string[];
  /** ISO 8601. */
  readonly lastUsed: string;
}

/** A model in the cache of packed weights. */
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
  /** Downloaded models: the cache of the Hugging Face libraries. `dir`, `bytes` and `models` above are packed weights. */
  readonly downloads: { readonly dir: string; readonly bytes: number; readonly models: readonly DownloadedFacts[] };
}

/** What `lowbit cache rm --json` prints. */
export interface RemovedReport {
  readonly removed: readonly CachedModelFacts[];
  /** Names of downloaded models. */
  readonly downloads: readonly string[];
  readonly bytes: number;
}

/** Runs `lowbit cache`. */
export async function listCacheCommand(context: Context): Promise<void> {
  const { listCache } = await import('@lowbit/kernels-cpu');
  const { dir, bytes, maxBytes, models } = await listCache();
  const downloads = await downloaded();
  if (context.json) return context.emit({ dir, bytes, maxBytes, models: models.map(facts), downloads } satisfies CacheReport);
  const head = `${renderDownloads(downloads, context)}\n\n${context.bold('Packed weights, of the native backend')}\n${pairs([
    ['cache', dir],
    ['size', `${bytesText(bytes)} of at most ${bytesText(maxBytes)}`],
  ])}`;
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

async function downloaded(): Promise<CacheReport['downloads']> {
  const { cacheDir } = await hubSettings();
  const repos = await listHubCache(cacheDir);
  const models = repos.map(({ name, bytes, unfinished, refs, lastUsed }) => ({
    name,
    bytes,
    unfinished,
    refs,
    lastUsed: lastUsed.toISOString(),
  }));
  return { dir: cacheDir, bytes: models.reduce((sum, model) => sum + model.bytes, 0), models };
}

function renderDownloads({ dir, bytes, models }: CacheReport['downloads'], { bold }: Context): string {
  const head = `${bold('Models, shared with Python')}\n${pairs([
    ['cache', dir],
    ['size', bytesText(bytes)],
  ])}`;
  if (models.length === 0) return head;
  const columns = [{ title: 'name' }, { title: 'size', align: 'right' }, { title: 'last used' }, { title: 'revisions' }] as const;
  const rows = models.map((model) => [model.name, bytesText(model.bytes), agoText(new Date(model.lastUsed)), model.refs.join(', ')]);
  return `${head}\n\n${table(columns, rows)}`;
}

/**
 * Runs `lowbit cache rm`. Packed weights that are named go at once: nothing is lost but time. All of them, and downloaded models, which have to be named, only
 * after a question, or with --yes.
 * Throws ERR_USAGE without names and --all, or with both, and for --all without a terminal to ask on; ERR_NOT_FOUND, ERR_BAD_ARGUMENT and ERR_IO as
 * `removeCached`.
 */
export async function removeCachedCommand(names: readonly string[], options: RemoveCachedOptions, context: Context): Promise<void> {
  if (options.all === true && names.length > 0) throw new UsageError('cache rm takes names or --all, not both');
  if (options.all !== true && names.length === 0)
    throw new UsageError('cache rm needs names or --all', '`lowbit cache` lists what there is.');
  const { listCache, removeCached } = await import('@lowbit/kernels-cpu');
  const { downloads, others } = await sortNames(names);
  const big = downloads.models.reduce((sum, model) => sum + model.bytes, 0);
  if (downloads.models.length > 0 && options.yes !== true) {
    const what = downloads.models.map(({ name }) => plain(name)).join(', ');
    if (!(await agreed(`Remove ${what} (${bytesText(big)}), which other programs may use, too?`, context))) {
      throw new LowbitError('ERR_ABORTED', 'nothing was removed');
    }
  }
  if (options.all === true && options.yes !== true) {
    const { models, bytes } = await listCache();
    if (models.length > 0 && !(await agreed(`Remove ${countModels(models.length)}, ${bytesText(bytes)}?`, context))) {
      throw new LowbitError('ERR_ABORTED', 'nothing was removed');
    }
  }
  const removed = options.all === true ? await removeCached('all') : others.length > 0 ? await removeCached(others) : [];
  for (const { name } of downloads.models) await removeFromHubCache(downloads.dir, name);
  const bytes = big + removed.reduce((sum, model) => sum + model.bytes, 0);
  const gone = downloads.models.map(({ name }) => name);
  if (context.json) return context.emit({ removed: removed.map(facts), downloads: gone, bytes } satisfies RemovedReport);
  const lines = [...gone, ...removed.map(({ name }) => name)].map((name) => `Removed ${plain(name)}\n`);
  return context.print(`${lines.join('')}${countModels(removed.length + gone.length)}, ${bytesText(bytes)} freed\n`);
}

/** Names of downloaded models apart from those of packed weights. */
async function sortNames(
  names: readonly string[],
): Promise<{ readonly downloads: CacheReport['downloads']; readonly others: readonly string[] }> {
  if (names.length === 0) return { downloads: { dir: '', bytes: 0, models: [] }, others: [] };
  const all = await downloaded();
  const models = all.models.filter(({ name }) => names.includes(name));
  return { downloads: { ...all, models }, others: names.filter((name) => !models.some((model) => model.name === name)) };
}

/** Whether a person says yes. */
async function agreed(question: string, { signal, json }: Context): Promise<boolean> {
  const { stdin, stderr } = process;
  if (stdin.isTTY !== true || stderr.isTTY !== true || json) {
    throw new UsageError(
      'cache rm --all asks first, and so does the removal of downloaded models, and there is no terminal to ask on',
      'Pass --yes to remove without a question.',
    );
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
function agoText(then: Date, now: number = Date.now()): string {
  const minutes = Math.floor((now - then.getTime()) / 60_000);
  if (minutes < 1) return 'just now';
  const [count, unit] =
    minutes < 60 ? [minutes, 'minute'] : minutes < 48 * 60 ? [Math.floor(minutes / 60), 'hour'] : [Math.floor(minutes / 1440), 'day'];
  return `${count} ${unit}${count === 1 ? '' : 's'} ago`;
}
