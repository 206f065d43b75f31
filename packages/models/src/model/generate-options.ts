// What may be asked of a continuation, and what comes of it.

import type { JsonObject, ProgressEvent } from '@lowbit/core';
import type { ImageInput } from '../images/image.ts';
import type { LogitsProcessor, SamplingSettings } from '../sampling/process.ts';
import type { ChatMessage, ChatTemplateOptions } from '../text/chat-template.ts';
import type { PromptCache } from './prompt-cache.ts';
import type { PromptLookup } from './prompt-lookup.ts';

/** Exactly one of `prompt`, `messages` and `ids`; sampling options that are absent follow the checkpoint's generation_config.json. */
export interface GenerateOptions extends Partial<SamplingSettings> {
  /** A text to continue; the tokenizer's start token is put in front. */
  readonly prompt?: string;
  /** A conversation, rendered with the checkpoint's chat template. */
  readonly messages?: readonly ChatMessage[];
  readonly ids?: ArrayLike<number>;
  /**
   * Of models that look at images: one for each placeholder of the prompt, in their order. A placeholder is the model's image token (mostly spelt <image>),
   * in `messages` a part { type: 'image' } of a content.
   */
  readonly images?: readonly ImageInput[];
  /** For `messages`: function descriptions for the template. */
  readonly tools?: readonly JsonObject[];
  /** For `messages`: the template to use and its further variables. */
  readonly chat?: Pick<ChatTemplateOptions, 'template' | 'variables'>;
  /** Added to the logits of tokens, by id; -Infinity rules one out. */
  readonly logitBias?: Readonly<Record<number, number>>;
  /** Change the scores of the next token in place, after the penalties and before temperature: grammars, guards and the like. */
  readonly logitsProcessors?: readonly LogitsProcessor[];
  /** What an earlier text has in common with this one is not computed again; see `LanguageModel.promptCache`. */
  readonly promptCache?: PromptCache | undefined;
  /**
   * Guesses tokens from what was said before and checks several in one step: faster where texts repeat themselves, and the same text (but with LLM.int8, whose
   * rows share their outliers). Default false.
   */
  readonly promptLookup?: boolean | PromptLookup;
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

/** stop: an end-of-text token or a stop string. length: `maxTokens`. context: the end of the model's context. */
export type FinishReason = 'stop' | 'length' | 'context';

/** What `generate` gives. */
export interface GenerateResult {
  /** The text, without end-of-text token and stop string. */
  readonly text: string;
  /** All generated tokens; an end-of-text token is the last of them. */
  readonly ids: readonly number[];
  readonly finishReason: FinishReason;
  /** The seed that repeats this. */
  readonly seed: number;
  /** `cachedTokens` of the prompt came from `promptCache`; of the completion `guessedTokens` came from `promptLookup`. */
  readonly usage: {
    readonly promptTokens: number;
    readonly cachedTokens: number;
    readonly completionTokens: number;
    readonly guessedTokens: number;
  };
  /** Wall-clock milliseconds, and tokens per second of the prompt (without what was cached) and of the tokens after the first. */
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

/** Their names. */
export const GENERATE_OPTIONS = Object.keys({
  prompt: true,
  messages: true,
  ids: true,
  images: true,
  tools: true,
  chat: true,
  maxTokens: true,
  temperature: true,
  topK: true,
  topP: true,
  minP: true,
  typicalP: true,
  repetitionPenalty: true,
  frequencyPenalty: true,
  presencePenalty: true,
  logitBias: true,
  logitsProcessors: true,
  promptCache: true,
  promptLookup: true,
  seed: true,
  stop: true,
  ignoreEos: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof GenerateOptions, true>);
