// One continuation: prefill, then token by token until something ends it.

import { checkOptionNames, type JsonObject, LowbitError, type ProgressEvent, type StepOutputs } from '@lowbit/core';
import { pickToken } from '../sampling/pick.ts';
import type { SamplingSettings } from '../sampling/process.ts';
import { createRandom, randomSeed } from '../sampling/random.ts';
import { type GenerationDefaults, samplingSettings } from '../sampling/settings.ts';
import type { ChatMessage, ChatTemplateOptions } from '../text/chat-template.ts';
import type { DecodeStream } from '../text/decode-stream.ts';
import { type StopWatcher, stopWatcher } from '../text/stop-strings.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { decoderInputs, type LoadedEncoder } from './encoder.ts';
import { tokenIds } from './ids.ts';
import { outputValues, type Runner } from './runner.ts';

/** Exactly one of `prompt`, `messages` and `ids`; sampling options that are absent follow the checkpoint's generation_config.json. */
export interface GenerateOptions extends Partial<SamplingSettings> {
  /** A text to continue; the tokenizer's start token is put in front. */
  readonly prompt?: string;
  /** A conversation, rendered with the checkpoint's chat template. */
  readonly messages?: readonly ChatMessage[];
  readonly ids?: ArrayLike<number>;
  /** For `messages`: function descriptions for the template. */
  readonly tools?: readonly JsonObject[];
  /** For `messages`: the template to use and its further variables. */
  readonly chat?: Pick<ChatTemplateOptions, 'template' | 'variables'>;
  /** Most tokens to generate; default 256. The end of the context ends a text, too. */
  readonly maxTokens?: number;
  /** Same seed, model, backend and options: same tokens. Default random. */
  readonly seed?: number;
  /** The text ends before the first of these. */
  readonly stop?: string | readonly string[];
  /** Goes on past end-of-text tokens. */
  readonly ignoreEos?: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Progress of the prefill, in tokens. */
  readonly onProgress?: ((event: ProgressEvent) => void) | undefined;
}

/** stop: an end-of-text token or a stop string. length: `maxTokens` or the end of the context. */
export type FinishReason = 'stop' | 'length';

export interface GenerateResult {
  /** The text, without end-of-text token and stop string. */
  readonly text: string;
  /** All generated tokens; an end-of-text token is the last of them. */
  readonly ids: readonly number[];
  readonly finishReason: FinishReason;
  /** The seed that repeats this. */
  readonly seed: number;
  readonly usage: { readonly promptTokens: number; readonly completionTokens: number };
  /** Wall-clock milliseconds, and tokens per second of the prompt and of the tokens after the first. */
  readonly timings: {
    readonly prefillMs: number;
    readonly decodeMs: number;
    readonly prefillTokensPerSecond: number;
    readonly tokensPerSecond: number;
  };
}

/** One generated token and the text that became certain with it (often empty or longer than the token); the last one has the result. */
export interface TokenEvent {
  readonly text: string;
  readonly id: number;
  readonly result?: GenerateResult;
}

/** What a continuation needs of its model. */
export interface GenerationHost {
  readonly runner: Runner;
  readonly tokenizer: () => Tokenizer;
  /** False where ids must do: then no text comes out. */
  readonly hasTokenizer: boolean;
  readonly vocab: number;
  readonly contextLength: number;
  readonly prefillChunk: number;
  readonly defaults: GenerationDefaults;
  /** Of encoder-decoder models, whose prompt it reads. */
  readonly encoder?: LoadedEncoder | undefined;
}

const DEFAULT_MAX_TOKENS = 256;

const OPTIONS = Object.keys({
  prompt: true,
  messages: true,
  ids: true,
  tools: true,
  chat: true,
  maxTokens: true,
  temperature: true,
  topK: true,
  topP: true,
  minP: true,
  typicalP: true,
  repetitionPenalty: true,
  seed: true,
  stop: true,
  ignoreEos: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof GenerateOptions, true>);

/** A name that would have no effect is a mistake: `max_tokens` must not mean the default of maxTokens. */
function checkNames(options: GenerateOptions): void {
  checkOptionNames('generate and stream', options, OPTIONS);
}

function promptIds(host: GenerationHost, options: GenerateOptions): Uint32Array {
  const { prompt, messages, ids } = options;
  if ([prompt, messages, ids].filter((given) => given !== undefined).length !== 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'pass exactly one of prompt, messages and ids');
  }
  if (messages) {
    const text = host.tokenizer().applyChatTemplate(messages, { ...options.chat, tools: options.tools, addGenerationPrompt: true });
    return tokenIds(host.tokenizer().encode(text, { addSpecialTokens: false }), host);
  }
  return tokenIds(prompt === undefined ? ids! : host.tokenizer().encode(prompt), host);
}

/** Text from tokens, up to a stop string. */
function textOf(stream: DecodeStream | undefined, watcher: StopWatcher) {
  return {
    push: (id: number) => watcher.push(stream?.push(id) ?? ''),
    /** All that is left, once nothing follows. */
    end(): { readonly text: string; readonly stopped: boolean } {
      const last = watcher.push(stream?.end() ?? '');
      return last.stopped ? last : { text: last.text + watcher.end(), stopped: false };
    },
  };
}

/**
 * Yields the tokens of one continuation. The sequence is closed however the iteration ends.
 * Throws ERR_BAD_ARGUMENT for unusable options, ERR_LIMIT for a prompt over the context, ERR_TOKENIZER where text is needed and there is no tokenizer,
 * and the reason of an aborted signal.
 */
export async function* generateTokens(host: GenerationHost, options: GenerateOptions): AsyncGenerator<TokenEvent, void, undefined> {
  checkNames(options);
  const { signal, ignoreEos = false, maxTokens = DEFAULT_MAX_TOKENS, seed = randomSeed(), stop = [] } = options;
  signal?.throwIfAborted();
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `maxTokens is ${maxTokens}, expected a whole number from 1`, { details: { maxTokens } });
  }
  const settings = samplingSettings(host.defaults.sampling, options);
  const random = createRandom(seed);
  const prompt = promptIds(host, options);
  const { encoder } = host;
  /** What the decoder begins with. */
  const first = encoder ? Uint32Array.of(encoder.description.start) : prompt;
  // The last token needs no place in the context: nothing is computed from it.
  const limit = Math.min(maxTokens, host.contextLength - first.length + 1);
  const stops = typeof stop === 'string' ? [stop] : stop;
  if (stops.length > 0 && !host.hasTokenizer) host.tokenizer(); // throws: stop strings need text
  const text = textOf(host.hasTokenizer ? host.tokenizer().decodeStream() : undefined, stopWatcher(stops));
  const ends = new Set(ignoreEos ? [] : host.defaults.eosIds);

  const ids: number[] = [];
  const shown: string[] = [];
  const context = Array.from(first);
  const started = performance.now();
  const inputs = encoder && (await decoderInputs(encoder, prompt, { signal }));
  const sequence = await host.runner.open();
  try {
    let logits = await prefill(host, sequence, first, { ...options, inputs });
    const prefilled = performance.now();
    for (;;) {
      const id = pickToken(logits, context, settings, random);
      ids.push(id);
      context.push(id);
      const ended = ends.has(id);
      let piece = ended ? { text: '', stopped: false } : text.push(id);
      if (!ended && !piece.stopped && ids.length < limit) {
        shown.push(piece.text);
        yield { text: piece.text, id };
        logits = outputValues(await host.runner.step([{ id: sequence, tokens: Uint32Array.of(id) }], signal), 'logits');
        continue;
      }
      if (!piece.stopped) {
        const rest = text.end();
        piece = { text: piece.text + rest.text, stopped: rest.stopped };
      }
      shown.push(piece.text);
      const result = {
        text: shown.join(''),
        ids,
        finishReason: ended || piece.stopped ? ('stop' as const) : ('length' as const),
        seed,
        usage: { promptTokens: prompt.length, completionTokens: ids.length },
        timings: timings(started, prefilled, prompt.length, ids.length),
      };
      yield { text: piece.text, id, result };
      return;
    }
  } finally {
    await host.runner.close(sequence);
  }
}

async function prefill(
  host: GenerationHost,
  sequence: Parameters<Runner['close']>[0],
  prompt: Uint32Array,
  options: Pick<GenerateOptions, 'signal' | 'onProgress'> & { readonly inputs: StepOutputs | undefined },
): Promise<Float32Array> {
  const last = prompt.length;
  let logits = new Float32Array(0);
  for await (const chunk of host.runner.feed(sequence, prompt, {
    wanted: [last - 1, last],
    chunk: host.prefillChunk,
    signal: options.signal,
    inputs: options.inputs,
  })) {
    options.onProgress?.({ phase: 'prefill', done: chunk.done, total: last, unit: 'tokens' });
    if (chunk.done === last) logits = outputValues(chunk.outputs, 'logits') as Float32Array<ArrayBuffer>;
  }
  return logits;
}

function timings(started: number, prefilled: number, prompt: number, completion: number): GenerateResult['timings'] {
  const prefillMs = prefilled - started;
  const decodeMs = performance.now() - prefilled;
  const rate = (count: number, ms: number): number => (ms > 0 ? (count / ms) * 1000 : 0);
  return { prefillMs, decodeMs, prefillTokensPerSecond: rate(prompt, prefillMs), tokensPerSecond: rate(completion - 1, decodeMs) };
}
