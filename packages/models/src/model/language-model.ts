// A model that is loaded and can be asked: logits, continuations, memory, and its linear layers for patching.

import {
  type CallOptions,
  checkOptionNames,
  type HostTensor,
  isLowbitError,
  type JsonObject,
  type LinearHost,
  type LinearSite,
  LowbitError,
  type QuantizedLinear,
} from '@lowbit/core';
import type { Placed } from '@lowbit/program';
import type { Tokenizer } from '../text/tokenizer.ts';
import { type BatchEvent, type BatchRequest, generateBatch } from './batch.ts';
import type { GenerationHost } from './continuation.ts';
import { encodePrompt } from './encoder.ts';
import { type ForwardOptions, forwardText, type LogitRows, logitRowsOf } from './forward.ts';
import { generateTokens } from './generate.ts';
import type { GenerateOptions, GenerateResult, TokenEvent } from './generate-options.ts';
import { tokenIds } from './ids.ts';
import type { LanguageModelParts } from './parts.ts';
import { type Place, placesOf } from './places.ts';
import { PromptCache } from './prompt-cache.ts';
import type { Runner } from './runner.ts';
import { rowsOfImage } from './sight.ts';

/** Device bytes. */
export interface ModelMemory {
  readonly weights: number;
  readonly scratch: number;
  readonly kvCache: number;
}

export interface BatchOptions extends CallOptions {
  /** Most texts at a time. */
  readonly atOnce?: number;
}

const BATCH_OPTIONS = Object.keys({ atOnce: true, signal: true, onProgress: true } satisfies Record<keyof BatchOptions, true>);

/** What a model was made of, for measurements in this package. Throws ERR_BAD_ARGUMENT for what is no model of this package. */
export let partsOf: (model: LanguageModel) => LanguageModelParts;

/** A loaded model. Make one with `loadModel`; give its memory back with `await model[Symbol.asyncDispose]()` or `await using`. */
export class LanguageModel implements LinearHost, AsyncDisposable {
  /** config.json. */
  readonly config: JsonObject;
  readonly vocab: number;
  readonly layers: number;
  /** Most tokens of a sequence. */
  readonly contextLength: number;
  readonly #parts: LanguageModelParts;
  readonly #host: GenerationHost;
  #places: ReadonlyMap<string, Place> | undefined;

  static {
    partsOf = (model) => {
      if (typeof model === 'object' && model !== null && #parts in model) return model.#parts;
      throw new LowbitError('ERR_BAD_ARGUMENT', 'this is no model that can be measured', { hint: 'Pass what loadModel gives.' });
    };
  }

  constructor(parts: LanguageModelParts) {
    this.#parts = parts;
    this.config = parts.config;
    this.vocab = parts.description.vocab;
    this.layers = parts.description.layers;
    this.contextLength = parts.contextLength;
    const { runner, prefillChunk, defaults, contextLength } = parts;
    const hasTokenizer = !isLowbitError(parts.tokenizer);
    const { encoder, tower } = parts;
    const steadyPositions = parts.description.program.ropes.every(({ kind }) => kind === 'fixed');
    this.#host = {
      ...{ runner, prefillChunk, defaults, contextLength, hasTokenizer, steadyPositions, encoder, tower },
      vocab: this.vocab,
      tokenizer: () => this.tokenizer,
    };
  }

  /** Throws ERR_TOKENIZER where the checkpoint has no usable tokenizer. */
  get tokenizer(): Tokenizer {
    const { tokenizer } = this.#parts;
    if (isLowbitError(tokenizer)) throw tokenizer;
    return tokenizer;
  }

  /** Tokens that end a text: of generation_config.json, else config.json, else the tokenizer's. */
  get endIds(): readonly number[] {
    return this.#parts.defaults.eosIds;
  }

  /** What it makes of images, undefined for models that read text alone: `rows` tokens of each, and the id of the token that stands for one. */
  get images(): { readonly rows: number; readonly placeholder: number } | undefined {
    const description = this.#parts.tower?.description;
    if (description?.placeholder === undefined) return undefined;
    return { rows: rowsOfImage(description), placeholder: description.placeholder };
  }

  /** Device bytes held now. */
  memory(): ModelMemory {
    const held = this.#runners().map((runner) => runner.program().memory());
    const sum = (of: (memory: (typeof held)[number]) => number): number => held.reduce((total, memory) => total + of(memory), 0);
    return { weights: sum(({ weights }) => weights), scratch: sum(({ scratch }) => scratch), kvCache: sum(({ cache }) => cache) };
  }

  /** Which backend holds which linears; `formatPlacement` makes text of it. */
  get placement(): readonly Placed[] {
    return this.#runners().flatMap((runner) => runner.program().placement);
  }

  /** Logits after every token of a text: f32 [tokens, vocab]. For long texts see `logitRows`. */
  async logits(ids: ArrayLike<number>, options: ForwardOptions = {}): Promise<HostTensor> {
    return (await this.forward(ids, options)).logits!;
  }

  /** All outputs of the program for every token of a text: `logits`, and what was observed at loading. f32 [tokens, width] each. */
  async forward(ids: ArrayLike<number>, options: ForwardOptions = {}): Promise<Readonly<Record<string, HostTensor>>> {
    return forwardText(this.#parts, ids, options);
  }

  /**
   * What the encoder of an encoder-decoder model makes of a prompt: `encoder_output`, and what was observed at loading. f32 [tokens, width] each. Throws
   * ERR_BAD_ARGUMENT for a model without one.
   */
  async encode(
    ids: ArrayLike<number>,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Readonly<Record<string, HostTensor>>> {
    const { encoder, label } = this.#parts;
    if (encoder) return encodePrompt(encoder, tokenIds(ids, this), options);
    throw new LowbitError('ERR_BAD_ARGUMENT', `${label} has no encoder`, {
      hint: 'For hidden states of a decoder see `observe` and `forward`.',
    });
  }

  /** Logits of positions [from, to) of a text (default all), in chunks of bounded size. */
  logitRows(
    ids: ArrayLike<number>,
    options: ForwardOptions & { readonly from?: number; readonly to?: number } = {},
  ): AsyncGenerator<LogitRows, void, undefined> {
    return logitRowsOf(this.#parts, ids, options);
  }

  /** Continues a prompt or answers a conversation. Several calls may run at once; their steps take turns (see `generateBatch`). */
  async generate(options: GenerateOptions): Promise<GenerateResult> {
    for await (const { result } of generateTokens(this.#host, options)) if (result) return result;
    throw new Error('internal: the generation ended without a result');
  }

  /**
   * The same, token by token. Ending the iteration early frees what it held.
   *
   * @example
   * for await (const { text } of model.stream({ prompt: 'Once', maxTokens: 50 })) process.stdout.write(text);
   */
  stream(options: GenerateOptions): AsyncGenerator<TokenEvent, void, undefined> {
    return generateTokens(this.#host, options);
  }

  /**
   * Continues several prompts at once, each with its own options; their tokens share steps, so that weights are read once for all of them. Results come in
   * the order of the requests. At most `atOnce` run at a time (default and upper bound: the model's `maxSequences`).
   *
   * Each text is the one that `generate` gives, wherever a row's results do not depend on the others of its step: on all backends here, but with LLM.int8, whose
   * rows share their outliers. An error of one request, such as that of a processor, ends the whole batch.
   */
  async generateBatch(requests: readonly BatchRequest[], options: BatchOptions = {}): Promise<readonly GenerateResult[]> {
    const results: GenerateResult[] = [];
    for await (const { index, result } of this.streamBatch(requests, options)) if (result) results[index] = result;
    return results;
  }

  /** The same, token by token, each with the index of its request. */
  streamBatch(requests: readonly BatchRequest[], options: BatchOptions = {}): AsyncGenerator<BatchEvent, void, undefined> {
    checkOptionNames('generateBatch and streamBatch', options, BATCH_OPTIONS);
    const { maxSequences } = this.#parts;
    const { atOnce = maxSequences } = options;
    if (!Number.isInteger(atOnce) || atOnce < 1 || atOnce > maxSequences) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `atOnce is ${atOnce}, expected a whole number from 1 to ${maxSequences}`, {
        hint: 'Load the model with a larger maxSequences for more.',
      });
    }
    return generateBatch(this.#host, requests, { ...options, atOnce });
  }

  /**
   * Holds the keys and values of the last `texts` texts that were generated with it (default 1): a prompt that begins as one of them did, such as the next
   * turn of a conversation, starts where they part. Dispose it. Texts that it holds count among the model's `maxSequences`. With LLM.int8, whose rows share their
   * outliers, a text may differ from one without it.
   * Throws ERR_UNSUPPORTED_ARCH for a model whose positions depend on the length of the text (dynamic or long rope scaling), and for one with an encoder.
   *
   * @example
   * await using promptCache = model.promptCache();
   * for (const messages of turns) await model.generate({ messages, promptCache });
   */
  promptCache(options: { readonly texts?: number } = {}): PromptCache {
    checkOptionNames('promptCache', options, ['texts']);
    const { texts = 1 } = options;
    if (!Number.isInteger(texts) || texts < 1) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `texts is ${texts}, expected a whole number from 1`);
    }
    if (this.#parts.encoder) {
      throw new LowbitError(
        'ERR_UNSUPPORTED_ARCH',
        `${this.#parts.label} reads its prompts with an encoder, so texts have no beginning in common`,
        {
          hint: 'Generate without promptCache.',
        },
      );
    }
    if (!this.#host.steadyPositions) {
      throw new LowbitError(
        'ERR_UNSUPPORTED_ARCH',
        `${this.#parts.label} turns positions by the length of the text, so texts cannot share keys`,
        {
          hint: 'Generate without promptCache.',
        },
      );
    }
    return new PromptCache(this.#parts.runner, texts);
  }

  /** Its linear layers, for `patchLinears`; a tied output head is not among them. */
  linears(): Iterable<Pick<LinearSite, 'path' | 'shape' | 'keep'>> {
    // Layers of a tower that its rows do not pass are in the file alone.
    return this.#parts.sites.filter(({ path }) => this.#placeOf(path) !== undefined);
  }

  /** Weight f32 [out, in] and bias of a linear as they are now: of a quantized one the dequantized numbers. */
  async weight(path: string): Promise<{ readonly weight: HostTensor; readonly bias?: HostTensor }> {
    const { runner, program, index } = this.#linear(path);
    const weight = await runner.run((loaded) => loaded.linears[index]!.dequantize());
    const { bias } = program.linears[index]!;
    return { weight, ...(bias === undefined ? {} : { bias: program.constants[bias]! }) };
  }

  /** Name of the backend that a linear runs on. */
  backend(path: string): string {
    const { runner, index } = this.#linear(path);
    return runner.program().backendOf(index);
  }

  /** From now on `path` computes with `linear`, which the model disposes. Throws ERR_BAD_ARGUMENT while a text is being generated or scored. */
  async replace(path: string, linear: QuantizedLinear): Promise<void> {
    const { runner, index } = this.#linear(path);
    const old = await runner.run((program) => program.replace(index, linear));
    old[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      for (const runner of this.#runners()) await runner.dispose();
    } finally {
      await this.#parts.ownRuntime?.[Symbol.asyncDispose]();
    }
  }

  /** Those of the image tower and of the encoder, if there are any, and the decoder's. */
  #runners(): readonly Runner[] {
    const { encoder, tower, runner } = this.#parts;
    return [...(tower ? [tower.runner] : []), ...(encoder ? [encoder.runner] : []), runner];
  }

  /** Where a site is: whose program, and its index there. */
  #linear(path: string): Place {
    const { sites, label } = this.#parts;
    const place = sites.some((site) => site.path === path) ? this.#placeOf(path) : undefined;
    if (place) return place;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${label} has no linear layer ${path}`, { details: { path } });
  }

  #placeOf(path: string): Place | undefined {
    this.#places ??= placesOf(this.#parts);
    return this.#places.get(path);
  }
}
