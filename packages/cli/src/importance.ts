// What an error in each linear of a model folder costs: where the numbers come from, by name.

import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { adapterFor, type CallOptions, type Importance, isLowbitError, LowbitError, type ModelAdapter } from '@lowbit/core';
import type { StoredCheckpoint } from '@lowbit/hub';
import { keptByDefault } from '@lowbit/hub';
import {
  checkpointImportance,
  contextLengthOf,
  defaultAdapters,
  loadTokenizer,
  randomTokens,
  vocabularyOf,
  weightImportance,
} from '@lowbit/models';
import { checkedOptions } from './checked-options.ts';
import { generatedTokens } from './generated-tokens.ts';
import { keeperOf, readKept } from './kept-importance.ts';
import { openModelFolder } from './open.ts';
import { type RunsOn, runtimeOf } from './running-on.ts';
import { encodeText } from './texts.ts';
import { version } from './version.ts';

/** Tokens run through the model: more change little. */
const IMPORTANCE_TOKENS = 1024;
/** Tokens of one sample; a model may have been made for no more than a few hundred. */
const SAMPLE = 256;
/** Of random tokens: shorter samples lose less at 3 bits and more at 2 (docs/decisions/044-random-tokens-and-texts.md). */
const RANDOM_SAMPLE = 64;

/**
 * Where importance comes from. `random-tokens`: the second moments of what the linears of the model itself get when it reads 1,024 uniformly random tokens, no data at
 * all, damped towards the median for what they do not tell of texts. `self`: the same for tokens that it generated. `{ text }` or `{ ids }`: for the first 1,024 tokens of a text. `weights`: an estimate from the
 * weights alone, nothing is run. `none`: every channel counts alike.
 */
export type ImportanceSource =
  | 'random-tokens'
  | 'self'
  | 'weights'
  | 'none'
  | { readonly text: string }
  | { readonly ids: readonly ArrayLike<number>[] };

/** What was done. */
export interface ImportanceReport {
  readonly from: 'random-tokens' | 'self' | 'text' | 'weights' | 'none';
  /** Tokens that were run; 0 where none were. */
  readonly tokens: number;
  /** Linears that no token reached, such as experts that were never chosen: theirs is the estimate from weights. */
  readonly estimated: readonly string[];
  /** Why it is not what was asked for; null if it is. */
  readonly why: string | null;
  /** Of feedback, if any: linears that no text runs through, such as those of an image tower. They go without feedback, and every channel counts alike. */
  readonly unread?: readonly string[];
}

/** What `findImportance` gives. */
export interface FoundImportance {
  /** By path; undefined where nothing is known. */
  readonly importance: ReadonlyMap<string, Importance> | undefined;
  readonly report: ImportanceReport;
}

export interface FindImportanceOptions extends CallOptions, RunsOn {
  readonly adapters?: readonly ModelAdapter[] | undefined;
  /** Of random and generated tokens; default 1. */
  readonly seed?: number | undefined;
  /** Tokens to run; default 1,024. */
  readonly tokens?: number | undefined;
  /**
   * A file for what was found after each layer, so that a pass that is interrupted goes on there, to the same numbers: on the same weights, for the same source,
   * on the same backends. It stays, and a pass that is done is not run again.
   */
  readonly keepIn?: string | undefined;
}

const NO_IMPORTANCE: ImportanceReport = { from: 'none', tokens: 0, estimated: [], why: null };
const NONE: FoundImportance = { importance: undefined, report: NO_IMPORTANCE };

/**
 * Importance of every linear of a model folder, for `quantizeModel`. The same folder gives the same numbers on the same backend; others differ in last digits.
 * One layer's weights are in memory at a time, with `self` first the whole model. An architecture that cannot be run on a text gets the estimate from weights, one that no adapter
 * serves gets none, and the report says so.
 * @throws ERR_BAD_ARGUMENT for a source that is none or a text without tokens, ERR_NON_FINITE for moments that are no numbers, and what `openModelFolder`, core's
 * `createRuntime` and models' `checkpointImportance` throw
 *
 * @example
 * const { importance, report } = await findImportance('./model', 'random-tokens');
 */
export async function findImportance(
  path: string,
  source: ImportanceSource,
  options: FindImportanceOptions = {},
): Promise<FoundImportance> {
  checkedOptions('findImportance', options);
  // Nothing is opened, and no model of the Hub is fetched, for what reads nothing.
  if (source === 'none' && typeof path === 'string' && path !== '') return NONE;
  await using checkpoint = await openModelFolder(path, { signal: options.signal });
  return await importanceOf(checkpoint, source, options);
}

/** The same for a folder that is open. */
export async function importanceOf(
  checkpoint: StoredCheckpoint,
  source: ImportanceSource,
  options: FindImportanceOptions,
): Promise<FoundImportance> {
  const { adapters, signal, onProgress } = options;
  const from = nameOf(source);
  if (from === 'none') return NONE;
  try {
    if (from === 'weights') return await fromWeights(checkpoint, null, options);
    await using own = await runtimeOf(options);
    const { keepIn } = options;
    const pass = keepIn === undefined ? '' : await passOf(checkpoint, source, { ...options, runtime: own.runtime });
    const kept = keepIn === undefined ? undefined : await readKept(keepIn, pass);
    const ids = kept?.ids ?? (await samplesOf(checkpoint, source, { ...options, runtime: own.runtime }));
    const keeper = keepIn === undefined ? undefined : keeperOf(keepIn, pass, ids, kept);
    const found = await checkpointImportance(checkpoint, {
      runtime: own.runtime,
      ids,
      adapters: adapters ?? [],
      keeper,
      damped: source === 'random-tokens',
      signal,
      onProgress,
    });
    const { importance, estimated } = await filled(checkpoint, found, options);
    return { importance, report: { from, tokens: ids.reduce((sum, { length }) => sum + length, 0), estimated, why: null } };
  } catch (error) {
    if (!isLowbitError(error, 'ERR_UNSUPPORTED_ARCH')) throw error;
    if (from === 'weights') return { importance: undefined, report: { from: 'none', tokens: 0, estimated: [], why: error.message } };
    return await fromWeights(checkpoint, error.message, options).catch((other): FoundImportance => {
      if (!isLowbitError(other, 'ERR_UNSUPPORTED_ARCH')) throw other;
      return { importance: undefined, report: { from: 'none', tokens: 0, estimated: [], why: other.message } };
    });
  }
}

/** What decides the numbers of a pass, as a digest. Files are known by sizes and times, as by the journal of an output. */
export async function passOf(
  { source: { files } }: StoredCheckpoint,
  source: ImportanceSource,
  { tokens = IMPORTANCE_TOKENS, seed = 1, runtime }: FindImportanceOptions & { readonly runtime: NonNullable<RunsOn['runtime']> },
): Promise<string> {
  const states = await Promise.all(files.map(async ({ path, size }) => [path, size, Math.floor((await stat(path)).mtimeMs)]));
  return createHash('sha256')
    .update(JSON.stringify([version(), states, source, tokens, seed, runtime.backends]))
    .digest('hex');
}

export function nameOf(source: ImportanceSource): ImportanceReport['from'] {
  if (typeof source === 'object' && source !== null && ('text' in source || 'ids' in source)) return 'text';
  if (source === 'random-tokens' || source === 'self' || source === 'weights' || source === 'none') return source;
  throw new LowbitError('ERR_BAD_ARGUMENT', `importance cannot be ${JSON.stringify(source)}`, {
    hint: "Pass 'random-tokens', 'self', 'weights', 'none', { text } or { ids }, or a map of what was found before.",
  });
}

async function fromWeights(
  checkpoint: StoredCheckpoint,
  why: string | null,
  { adapters, signal, onProgress }: FindImportanceOptions,
): Promise<FoundImportance> {
  const importance = await weightImportance(checkpoint, { adapters, signal, onProgress });
  return { importance, report: { from: 'weights', tokens: 0, estimated: [], why } };
}

/** Estimates for linears that no token reached. */
async function filled(
  checkpoint: StoredCheckpoint,
  found: ReadonlyMap<string, Importance>,
  { adapters, signal }: FindImportanceOptions,
): Promise<{ readonly importance: ReadonlyMap<string, Importance>; readonly estimated: readonly string[] }> {
  const adapter = adapterFor(checkpoint.config, [...(adapters ?? []), ...defaultAdapters]);
  const sites = adapter.linears(checkpoint.config, checkpoint.source.entries).filter((site) => !keptByDefault(site));
  const missing = sites.map((site) => site.path).filter((path) => !found.has(path));
  if (missing.length === 0) return { importance: found, estimated: [] };
  const estimates = await weightImportance(checkpoint, { adapters, signal });
  const added = missing.filter((path) => estimates.has(path));
  return { importance: new Map([...found, ...added.map((path) => [path, estimates.get(path)!] as const)]), estimated: added };
}

/** Samples of token ids, `tokens` altogether. */
export async function samplesOf(
  checkpoint: StoredCheckpoint,
  source: ImportanceSource,
  options: FindImportanceOptions & { readonly runtime: NonNullable<RunsOn['runtime']> },
): Promise<readonly (readonly number[])[]> {
  const { tokens = IMPORTANCE_TOKENS, seed = 1, signal } = options;
  const described = { adapters: options.adapters ?? [], signal };
  const vocab = await vocabularyOf(checkpoint, described);
  const sample = Math.min(source === 'random-tokens' ? RANDOM_SAMPLE : SAMPLE, await contextLengthOf(checkpoint, described));
  if (source === 'random-tokens') return cut([[...randomTokens(vocab, tokens, seed)]], tokens, sample, []);
  if (source === 'self') return generatedTokens(checkpoint, { ...options, tokens, seed, sample });
  const given = source as { readonly text?: string; readonly ids?: readonly ArrayLike<number>[] };
  if (given.ids) {
    const loose = Array.isArray(given.ids) ? given.ids.find((ids) => typeof ids !== 'object' || ids === null) : given.ids;
    if (loose !== undefined) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `ids for importance are lists, one for each text: ${String(loose)} is none`, {
        hint: 'Pass { ids: [[1, 2, 3]] }.',
        details: { option: 'ids' },
      });
    }
    return cut(
      given.ids.map((ids) => Array.from(ids)),
      tokens,
      sample,
      [],
    );
  }
  const encoded = encodeText(await loadTokenizer(checkpoint), given.text!);
  const samples = cut(encoded.texts, tokens, sample, encoded.prefixIds);
  if (samples.length > 0) return samples;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'the text for importance has no tokens', {
    hint: 'A thousand tokens are enough; random-tokens needs no text.',
  });
}

function cut(
  texts: readonly (readonly number[])[],
  tokens: number,
  sample: number,
  prefixIds: readonly number[],
): readonly (readonly number[])[] {
  const room = sample - prefixIds.length;
  if (room < 1) {
    throw new LowbitError(
      'ERR_LIMIT',
      `the model takes texts of ${sample} token${sample === 1 ? '' : 's'}, and the start token fills them`,
      {
        hint: "random-tokens needs no start token; 'weights' runs nothing.",
        details: { contextLength: sample },
      },
    );
  }
  const samples: number[][] = [];
  let left = tokens;
  for (const text of texts) {
    for (let from = 0; from < text.length && left > 0; ) {
      const own = text.slice(from, from + Math.min(room, left));
      samples.push([...prefixIds, ...own]);
      from += own.length;
      left -= own.length;
    }
  }
  return samples;
}
