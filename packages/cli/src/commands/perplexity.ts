// `lowbit perplexity`: how surprised a model is by a text.

import { setImmediate as turn } from 'node:timers/promises';
import { LowbitError } from '@lowbit/core';
import type { LanguageModel, Scorer } from '@lowbit/models';
import { evaluationWindows, perplexity, summarize } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { readJsonFile, readTextFile } from '../files.ts';
import { type IdTexts, parseIds } from '../ids-file.ts';
import { loadModel } from '../load-model.ts';
import type { BackendUse } from '../running-on.ts';
import { pairs } from '../table.ts';
import { encodeText, usualWindows } from '../texts.ts';
import { countText, durationText } from '../units.ts';
import { type BackendFlags, checkBackendFlags, loadingOf, openBackend } from './backend.ts';

export interface PerplexityOptions extends CommonOptions, BackendFlags {
  readonly data?: string;
  readonly ids?: string;
  readonly ctx?: number;
  readonly stride?: number;
}

/** What `lowbit perplexity --json` prints. */
export interface PerplexityReport {
  readonly perplexity: number;
  /** Mean negative log-likelihood, nats per token. */
  readonly nll: number;
  /** Standard error of the perplexity. */
  readonly stderr: number;
  readonly tokens: number;
  /** Tokens of a window, start token included. */
  readonly contextLength: number;
  readonly stride: number;
  /** Put in front of every window and not scored. */
  readonly startToken: number | null;
  readonly ms: number;
  readonly backend: BackendUse;
}

/** Runs the command. */
export async function perplexityCommand(path: string, options: PerplexityOptions, context: Context): Promise<void> {
  const { data, ids } = options;
  if ((data === undefined) === (ids === undefined)) {
    throw new UsageError(
      data === undefined ? 'perplexity needs a text' : '--data and --ids exclude each other',
      'Give either --data FILE (text) or --ids FILE (token ids as JSON).',
    );
  }
  checkBackendFlags(options);
  // Read first: a wrong file should not cost loading a model.
  const text = data === undefined ? undefined : await readTextFile(data, '--data');
  const given = ids === undefined ? undefined : parseIds(await readJsonFile(ids, '--ids'), ids);
  await using place = await openBackend(options, context);
  const { signal, progress, note } = context;
  const model = await loadModel(path, {
    ...loadingOf(options),
    ...place.plugins,
    runtime: place.runtime,
    signal,
    onProgress: progress.report,
    onNote: note,
  });
  try {
    const measured = await measure(model, given ?? encodeText(model.tokenizer, text!), options, context);
    const report: PerplexityReport = { ...measured, backend: place.used() };
    context.progress.clear();
    await (context.json ? context.emit(report) : context.print(`${render(report)}\n`));
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

async function measure(
  model: LanguageModel,
  given: IdTexts,
  options: PerplexityOptions,
  { signal, progress }: Context,
): Promise<Omit<PerplexityReport, 'backend'>> {
  const { texts, prefixIds, dropPartial } = given;
  const started = performance.now();
  const windows = { ...usualWindows(given, model, options), dropPartial };
  const { contextLength, stride } = windows;
  checkWindow(options, model.contextLength, contextLength - prefixIds.length);
  const scored = (ids: readonly number[]): number => evaluationWindows(ids, windows).reduce((sum, { from, to }) => sum + to - from, 0);
  const total = texts.reduce((sum, ids) => sum + scored(ids), 0);
  let sum = 0;
  let squares = 0;
  let tokens = 0;
  for (const ids of texts) {
    await perplexity(interruptible(model), ids, {
      ...windows,
      signal,
      onToken(_, nll) {
        sum += nll;
        squares += nll * nll;
        tokens++;
      },
      onProgress: () => progress.report({ phase: 'evaluate', done: tokens, total, unit: 'tokens' }),
    });
  }
  const startToken = prefixIds[0] ?? null;
  return { ...summarize(sum, squares, tokens), contextLength, stride, startToken, ms: performance.now() - started };
}

/** The library would refuse these too, but does not know the flags. */
function checkWindow({ ctx, stride }: PerplexityOptions, most: number, body: number): void {
  if (ctx !== undefined && ctx > most) {
    throw new LowbitError('ERR_LIMIT', `--ctx ${ctx} is more than the ${most} tokens this model was made for`, {
      hint: `Use --ctx ${most} or less.`,
      details: { ctx, limit: most },
    });
  }
  if (stride === undefined || stride <= body || stride === ctx) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `--stride ${stride} would leave tokens out: a window holds ${body} of them`, {
    hint: `Use --stride ${body} or less.`,
    details: { stride, limit: body },
  });
}

/** The model, but with a turn of the event loop after every chunk: short steps may leave none, and Ctrl-C would wait for the end. */
function interruptible(model: LanguageModel): Scorer {
  return {
    vocab: model.vocab,
    contextLength: model.contextLength,
    async *logitRows(ids, options) {
      for await (const rows of model.logitRows(ids, options)) {
        yield rows;
        await turn();
      }
    },
  };
}

function render(report: PerplexityReport): string {
  const start = report.startToken === null ? '' : `, each beginning with the start token ${report.startToken}`;
  return pairs([
    ['perplexity', `${report.perplexity.toFixed(4)} +- ${report.stderr.toFixed(4)}`],
    ['nll', `${report.nll.toFixed(6)} nats per token`],
    ['tokens', `${countText(report.tokens)} scored`],
    ['windows', `${report.contextLength} tokens, moving on by ${report.stride}${start}`],
    ['time', `${durationText(report.ms)} (${Math.round((1000 * report.tokens) / report.ms)} tokens/s)`],
    ['backend', `${report.backend.name} (${report.backend.device})`],
  ]);
}
