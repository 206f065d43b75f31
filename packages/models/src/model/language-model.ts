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
  type ModelDescription,
  type Program,
  type QuantizedLinear,
  type StepOutputs,
} from '@lowbit/core';
import type { Placed } from '@lowbit/program';
import type { ImageInput } from '../images/image.ts';
import type { GenerationDefaults } from '../sampling/settings.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { type BatchEvent, type BatchRequest, generateBatch } from './batch.ts';
import type { GenerationHost } from './continuation.ts';
import { decoderInputs, encodePrompt, type LoadedEncoder } from './encoder.ts';
import { generateTokens } from './generate.ts';
import type { GenerateOptions, GenerateResult, TokenEvent } from './generate-options.ts';
import { tokenIds } from './ids.ts';
import { PromptCache } from './prompt-cache.ts';
import { outputValues, type Runner } from './runner.ts';
import { type LoadedTower, placeImages, prepareImages, rowsOfImage, type TextRows, textRows } from './sight.ts';

/** Logits of some consecutive positions of a text: f32 [rows, vocab], row i for the token after position + i. */
export interface LogitRows {
  readonly position: number;
  readonly rows: number;
  readonly logits: Float32Array;
}

/** How a text is run. */
export interface ForwardOptions {
  /** Of encoder-decoder models: the prompt that the encoder reads. The text itself is the decoder's then, and begins with its start token. */
  readonly encoderIds?: ArrayLike<number> | undefined;
  /** Of models that look at images: one for each placeholder of the text, or for as many of them as an image has rows. */
  readonly images?: readonly ImageInput[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Device bytes. */
export interface ModelMemory {
  readonly weights: number;
  readonly scratch: number;
  readonly kvCache: number;
}

/** What `loadModel` hands over. */
export interface LanguageModelParts {
  readonly label: string;
  readonly config: JsonObject;
  readonly description: ModelDescription;
  readonly sites: readonly LinearSite[];
  readonly runner: Runner;
  /** Of encoder-decoder models; `runner` is then the decoder's. */
  readonly encoder?: LoadedEncoder | undefined;
  /** Of models that look at images. */
  readonly tower?: LoadedTower | undefined;
  readonly contextLength: number;
  readonly prefillChunk: number;
  readonly maxSequences: number;
  readonly defaults: GenerationDefaults;
  /** The tokenizer, or why there is none. */
  readonly tokenizer: Tokenizer | LowbitError;
  /** Disposed with the model. */
  readonly ownRuntime: AsyncDisposable | undefined;
}

export interface BatchOptions extends CallOptions {
  /** Most texts at a time. */
  readonly atOnce?: number;
}

const BATCH_OPTIONS = Object.keys({ atOnce: true, signal: true, onProgress: true } satisfies Record<keyof BatchOptions, true>);

/** Bytes of logits handed out at once, and bytes of everything that `forward` may return. */
const ROWS_BYTES = 128 * 2 ** 20;
const FORWARD_BYTES = 2 ** 31;

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

  /** Which backend holds which linears; `formatPlacement` of core makes text of it. */
  get placement(): readonly Placed[] {
    return this.#runners().flatMap((runner) => runner.program().placement);
  }

  /** Logits after every token of a text: f32 [tokens, vocab]. For long texts see `logitRows`. */
  async logits(ids: ArrayLike<number>, options: ForwardOptions = {}): Promise<HostTensor> {
    return (await this.forward(ids, options)).logits!;
  }

  /** All outputs of the program for every token of a text: `logits`, and what was observed at loading. f32 [tokens, width] each. */
  async forward(ids: ArrayLike<number>, options: ForwardOptions = {}): Promise<Readonly<Record<string, HostTensor>>> {
    const { runner, prefillChunk: chunk, description } = this.#parts;
    const { tokens, images } = await this.#read(ids, options);
    const { outputs, tensors } = description.program;
    const widths = Object.entries(outputs).map(([name, id]) => [name, tensors[id]!.width] as const);
    const bytes = widths.reduce((sum, [, width]) => sum + 4 * tokens.length * width, 0);
    if (bytes > FORWARD_BYTES) {
      throw new LowbitError('ERR_LIMIT', `the outputs of ${tokens.length} tokens take ${bytes} bytes, more than ${FORWARD_BYTES}`, {
        hint: 'Use logitRows, which hands them out in chunks, or perplexity.',
        details: { bytes, limit: FORWARD_BYTES },
      });
    }
    const values = new Map(widths.map(([name, width]) => [name, new Float32Array(tokens.length * width)]));
    const inputs = await this.#inputs(options);
    const sequence = await runner.open();
    try {
      for await (const { from, outputs: part } of runner.feed(sequence, tokens, {
        wanted: [0, tokens.length],
        chunk,
        signal: options.signal,
        inputs,
        images,
      })) {
        for (const [name, width] of widths) values.get(name)!.set(outputValues(part, name), from * width);
      }
    } finally {
      await runner.close(sequence);
    }
    const tensor = (name: string, width: number): HostTensor => ({
      dtype: 'f32',
      shape: [tokens.length, width],
      data: new Uint8Array(values.get(name)!.buffer),
    });
    return Object.fromEntries(widths.map(([name, width]) => [name, tensor(name, width)]));
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
  async *logitRows(
    ids: ArrayLike<number>,
    options: ForwardOptions & { readonly from?: number; readonly to?: number } = {},
  ): AsyncGenerator<LogitRows, void, undefined> {
    const { runner, prefillChunk } = this.#parts;
    const { tokens, images } = await this.#read(ids, options);
    const { from = 0, to = tokens.length, signal } = options;
    if (!Number.isInteger(from) || !Number.isInteger(to) || from < 0 || from >= to || to > tokens.length) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `positions ${from} to ${to} of ${tokens.length} tokens`, {
        hint: 'from and to are whole numbers with 0 <= from < to <= tokens.',
        details: { from, to },
      });
    }
    const chunk = Math.max(1, Math.min(prefillChunk, Math.floor(ROWS_BYTES / (4 * this.vocab))));
    const inputs = await this.#inputs(options);
    const sequence = await runner.open();
    try {
      for await (const part of runner.feed(sequence, tokens, { wanted: [from, to], chunk, signal, inputs, images })) {
        if (part.to > part.from) yield { position: part.from, rows: part.to - part.from, logits: outputValues(part.outputs, 'logits') };
      }
    } finally {
      await runner.close(sequence);
    }
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

  /** The tokens of a text with its images in place. */
  async #read(
    ids: ArrayLike<number>,
    { images = [], signal }: ForwardOptions,
  ): Promise<{ tokens: Uint32Array; images: TextRows | undefined }> {
    const { tower } = this.#parts;
    const placed = placeImages(ids, images.length, { tower, contextLength: this.contextLength });
    const tokens = tokenIds(placed.ids, this);
    if (!tower || images.length === 0) return { tokens, images: undefined };
    const pixels = await prepareImages(tower, images, signal);
    const rows = rowsOfImage(tower.description);
    return {
      tokens,
      images: await textRows(
        tower,
        pixels.map((each, i) => ({ at: placed.starts[i]!, rows, pixels: each })),
        { signal },
      ),
    };
  }

  /** What the first step of a text takes of an encoder. Throws ERR_BAD_ARGUMENT for a prompt without an encoder, or an encoder without a prompt. */
  async #inputs({ encoderIds, signal }: ForwardOptions): Promise<StepOutputs | undefined> {
    const { encoder, label } = this.#parts;
    if ((encoder === undefined) !== (encoderIds === undefined)) {
      throw encoder
        ? new LowbitError('ERR_BAD_ARGUMENT', `${label} has an encoder, and there are no encoderIds`, {
            hint: `Pass the prompt as encoderIds; ids are the decoder's, beginning with token ${encoder.description.start}.`,
          })
        : new LowbitError('ERR_BAD_ARGUMENT', `${label} has no encoder to read encoderIds`, { hint: 'Leave them out.' });
    }
    return encoder && encoderIds ? decoderInputs(encoder, tokenIds(encoderIds, this), { signal }) : undefined;
  }

  /** Where a site is: whose program, and its index there. */
  #linear(path: string): Place {
    const { sites, label } = this.#parts;
    const place = sites.some((site) => site.path === path) ? this.#placeOf(path) : undefined;
    if (place) return place;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${label} has no linear layer ${path}`, { details: { path } });
  }

  #placeOf(path: string): Place | undefined {
    this.#places ??= this.#placesByPath();
    return this.#places.get(path);
  }

  #placesByPath(): ReadonlyMap<string, Place> {
    const { encoder, tower, runner, description } = this.#parts;
    const all = [
      { runner, program: description.program },
      ...(encoder ? [{ runner: encoder.runner, program: encoder.description.program }] : []),
      ...(tower ? [{ runner: tower.runner, program: tower.description.program }] : []),
    ];
    return new Map(all.flatMap((part) => part.program.linears.map(({ path }, index) => [path, { ...part, index }] as const)));
  }
}

interface Place {
  readonly runner: Runner;
  readonly program: Program;
  readonly index: number;
}
