// Where sensitivities come from: measured on random tokens or on a text, or read from a file that an earlier run saved.

import { type CallOptions, type Checkpoint, LowbitError } from '@lowbit/core';
import {
  contextLengthOf,
  type MeasureSensitivitiesOptions,
  measureSensitivities as measureOnCheckpoint,
  randomTokens,
  type Sensitivities,
  vocabularyOf,
} from '@lowbit/models';
import { generatedTokens } from './generated-tokens.ts';
import { type RunsOn, runtimeOf } from './running-on.ts';
import { SENSITIVITY_TOKENS } from './sensitivity-tokens.ts';

/** Most tokens of one sample; a model that was made for fewer gets as many. */
const SAMPLE = 128;

/** Uniformly random tokens, tokens that the model generated itself, or a text. */
export type TestedOn = 'random-tokens' | 'self' | 'text';

/** Sensitivities, and on what they were measured. */
export interface TestedSensitivities extends Sensitivities {
  readonly on: TestedOn;
}

export interface SensitivityOptions
  extends CallOptions,
    RunsOn,
    Partial<Pick<MeasureSensitivitiesOptions, 'metric' | 'levels' | 'seed' | 'adapters'>> {
  /**
   * A text as token ids, or several; the first `tokens` of them are used. Without any data: `random-tokens` (default), uniformly random ids, or `self`,
   * what the model itself says when nothing is asked, which is nearer to a text: the words of `ImportanceSource`.
   */
  readonly ids?: readonly ArrayLike<number>[] | 'random-tokens' | 'self' | undefined;
  /** Most tokens to run; default 128. More make the numbers steadier and take as much longer. */
  readonly tokens?: number | undefined;
}

/** Samples of at most `size` tokens, `tokens` altogether. */
function samplesOf(texts: readonly ArrayLike<number>[], tokens: number, size: number): readonly Uint32Array[] {
  const samples: Uint32Array[] = [];
  let left = tokens;
  for (const text of texts) {
    for (let from = 0; from < text.length && left > 0; from += size) {
      const sample = Array.from({ length: Math.min(size, text.length - from, left) }, (_, i) => text[from + i]!);
      samples.push(Uint32Array.from(sample));
      left -= sample.length;
    }
  }
  return samples;
}

/** More are a mistake: a model that wants them has no room for them. */
const MOST_TOKENS = 2 ** 20;

function checkTokens(tokens: number): void {
  if (Number.isInteger(tokens) && tokens >= 1 && tokens <= MOST_TOKENS) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `tokens is ${tokens}, expected a whole number from 1 to ${MOST_TOKENS}`, {
    details: { option: 'tokens', value: tokens },
  });
}

/** Sensitivities of the linears of those paths. Throws what models' `measureSensitivities` throws, and ERR_BAD_ARGUMENT for a number of tokens that is none. */
export async function sensitivitiesOf(
  checkpoint: Checkpoint,
  linears: readonly string[],
  options: SensitivityOptions,
): Promise<TestedSensitivities> {
  const { ids = 'random-tokens', tokens = SENSITIVITY_TOKENS, runtime: givenRuntime, backends, onNote } = options;
  if (ids === 'random-tokens' && options.metric === 'perplexity') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a perplexity of random tokens means nothing', {
      hint: "Pass ids of a text, 'self', or metric: 'kl'.",
    });
  }
  await using own = await runtimeOf({ runtime: givenRuntime, backends, onNote });
  const { runtime } = own;
  checkTokens(tokens);
  if (typeof ids === 'string' ? ids !== 'random-tokens' && ids !== 'self' : !Array.isArray(ids)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', "ids are neither 'random-tokens' nor 'self' nor a list of texts", {
      details: { option: 'ids' },
    });
  }
  const described = { adapters: options.adapters ?? [], signal: options.signal };
  const vocab = await vocabularyOf(checkpoint, described);
  const size = Math.min(SAMPLE, await contextLengthOf(checkpoint, described));
  let given: readonly ArrayLike<number>[];
  if (ids === 'random-tokens') given = [randomTokens(vocab, tokens, options.seed)];
  else given = ids === 'self' ? await generatedTokens(checkpoint, { ...options, runtime, tokens, sample: size }) : ids;
  // Of an allocation there are others beside them.
  const { metric, levels, seed, adapters, signal, onProgress } = options;
  const asked = { metric, levels, seed, adapters, signal, onProgress };
  const measured = await measureOnCheckpoint(checkpoint, { ...asked, runtime, linears, ids: samplesOf(given, tokens, size) });
  return { ...measured, on: typeof ids === 'string' ? ids : 'text' };
}

/** What `--save-sensitivity` writes. */
export function savedText(sensitivities: TestedSensitivities): string {
  return `${JSON.stringify({ kind: SAVED, ...sensitivities }, null, 1)}\n`;
}

const SAVED = 'lowbit sensitivities';

/** Whether parsed JSON is what `savedText` made, rather than token ids. */
export function isSaved(value: unknown): boolean {
  return typeof value === 'object' && value !== null && (value as { readonly kind?: unknown }).kind === SAVED;
}

/** Reads it back. Throws ERR_BAD_ARGUMENT, naming the file. */
export function parseSaved(value: unknown, file: string): TestedSensitivities {
  const { metric, tokens, linears, on } = value as { readonly [key in keyof TestedSensitivities]?: unknown };
  const bad = (problem: string): LowbitError =>
    new LowbitError('ERR_BAD_ARGUMENT', `${file} ${problem}`, { hint: 'Save it again with --save-sensitivity.', details: { path: file } });
  if (
    (metric !== 'kl' && metric !== 'perplexity') ||
    !(on === 'random-tokens' || on === 'self' || on === 'text') ||
    typeof tokens !== 'number' ||
    !Array.isArray(linears)
  ) {
    throw bad('holds no sensitivities: metric, on, tokens or linears are missing');
  }
  return {
    metric,
    on,
    tokens,
    linears: linears.map((linear: unknown) => {
      const { path, sensitivity } = (linear ?? {}) as { readonly path?: unknown; readonly sensitivity?: unknown };
      if (typeof path !== 'string' || typeof sensitivity !== 'number' || !Number.isFinite(sensitivity)) {
        throw bad(`has an entry without path or sensitivity: ${JSON.stringify(linear)}`);
      }
      return { path, sensitivity, points: [] };
    }),
  };
}
