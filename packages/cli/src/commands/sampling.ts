// What `generate` and `chat` share: flags to options, and showing text as it comes.

import type { GenerateOptions, GenerateResult, LanguageModel } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { isBrokenPipe, OutputError } from '../errors.ts';
import type { BackendUse } from '../running-on.ts';
import { plain } from '../table.ts';

/** Sampling flags; what is absent follows generation_config.json. */
export interface SamplingOptions extends CommonOptions {
  readonly maxTokens: number;
  readonly temp?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly promptLookup?: boolean;
  /** A JSON file. */
  readonly jsonSchema?: string;
  readonly seed?: number;
}

/** The flags under the library's names. */
export function samplingOf({
  maxTokens,
  temp,
  topK,
  topP,
  promptLookup,
  seed,
}: SamplingOptions): Pick<GenerateOptions, 'maxTokens' | 'temperature' | 'topK' | 'topP' | 'seed' | 'promptLookup'> {
  return {
    maxTokens,
    ...(temp === undefined ? {} : { temperature: temp }),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
    ...(promptLookup === undefined ? {} : { promptLookup }),
    ...(seed === undefined ? {} : { seed }),
  };
}

/** Generates, printing the text as it comes unless under --json. */
export async function stream(model: LanguageModel, options: GenerateOptions, context: Context): Promise<GenerateResult | undefined> {
  const onProgress = context.progress.report;
  let last: GenerateResult | undefined;
  let isOpen = false; // a line of text
  try {
    for await (const { text, result } of model.stream({ ...options, onProgress })) {
      last = result;
      // Also an empty write gives the event loop a turn, so that Ctrl-C is seen between tokens.
      await context.print(context.json ? '' : printable(text));
      if (text !== '' && !context.json) isOpen = !text.endsWith('\n');
    }
  } catch (error) {
    // What is said of it begins a line of its own; of an answer that was stopped in a chat, the chat sees to that.
    const isStopped = options.signal?.aborted === true && !context.signal.aborted;
    if (isOpen && !isStopped && !isBrokenPipe(error) && !(error instanceof OutputError)) await context.print('\n');
    throw error;
  }
  if (!context.json) await context.print('\n');
  return last;
}

/** A model may say anything, escape sequences included; a terminal must not obey them. Pipes get the text as it is. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this is about
  return process.stdout.isTTY ? text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '') : text;
}

const ENDS = { stop: 'ended by itself', length: 'stopped at the limit', context: 'stopped at the end of the context' } as const;

/** Counts and speeds of a generation in one line, and what computed it. */
export function statistics({ usage, timings, seed, finishReason }: GenerateResult, { name, device }: BackendUse): string {
  const rate = (perSecond: number): string => (perSecond > 0 ? ` (${perSecond.toFixed(1)}/s)` : '');
  return [
    `${usage.promptTokens} prompt tokens${rate(timings.prefillTokensPerSecond)}`,
    `${usage.completionTokens} tokens${rate(timings.tokensPerSecond)}`,
    ENDS[finishReason],
    `seed ${seed}`,
    plain(`backend ${name} (${device})`),
  ].join(', ');
}
