// One continuation: which token comes after which, the text of them, and when it ends. Who runs the steps is others' business.

import { checkOptionNames, elements, type HostTensor, LowbitError, type StepOptions, type StepOutputs } from '@lowbit/core';
import type { ImageInput } from '../images/image.ts';
import { logitsNeeded, pickCandidate } from '../sampling/candidates.ts';
import { logitEdits } from '../sampling/edits.ts';
import { pickToken } from '../sampling/pick.ts';
import type { LogitEdits, SamplingSettings } from '../sampling/process.ts';
import { createRandom, type Random, randomSeed } from '../sampling/random.ts';
import { type GenerationDefaults, samplingSettings } from '../sampling/settings.ts';
import type { DecodeStream } from '../text/decode-stream.ts';
import { type StopWatcher, stopWatcher } from '../text/stop-strings.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { LoadedEncoder } from './encoder.ts';
import { type FinishReason, GENERATE_OPTIONS, type GenerateOptions, type GenerateResult, type TokenEvent } from './generate-options.ts';
import { tokenIds } from './ids.ts';
import { guess, lookupOf, type PromptLookup } from './prompt-lookup.ts';
import { outputValues, type Runner } from './runner.ts';
import { type LoadedTower, placeImages, prepareImages, rowsOfImage, type TextImage } from './sight.ts';

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
  /** Of models that look at images. */
  readonly tower?: LoadedTower | undefined;
  /** Whether keys do not depend on how long a text becomes, so that another one may go on from them. */
  readonly steadyPositions: boolean;
}

const DEFAULT_MAX_TOKENS = 256;

export class Continuation {
  /** Tokens of the prompt. */
  readonly prompt: Uint32Array;
  /** What the continuation follows: the prompt, or where an encoder reads that, the decoder's start token. */
  readonly first: Uint32Array;
  /** Images of the prompt, once `see` has prepared them. */
  images: readonly TextImage[] = [];
  readonly #host: GenerationHost;
  readonly #inputs: readonly ImageInput[];
  readonly #starts: readonly number[];
  readonly #settings: SamplingSettings;
  readonly #edits: LogitEdits;
  readonly #random: Random;
  readonly #seed: number;
  readonly #maxTokens: number;
  readonly #ends: ReadonlySet<number>;
  readonly #text: ReturnType<typeof textOf>;
  readonly #tokens: number[];
  readonly #shown: string[] = [];
  #started = 0;
  readonly #lookup: Required<PromptLookup> | undefined;
  #prefilled = 0;
  #cached = 0;
  #guessed = 0;

  /**
   * Throws ERR_BAD_ARGUMENT for unusable options, ERR_LIMIT for a prompt over the context, ERR_TOKENIZER where text is needed and there is no tokenizer.
   * `caller` is named where an option has no meaning.
   */
  constructor(host: GenerationHost, options: GenerateOptions, caller = 'generate and stream') {
    if (typeof options !== 'object' || options === null) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `${caller} needs options`, { hint: "Pass { prompt: '...' }, { messages } or { ids }." });
    }
    // A name that would have no effect is a mistake: `max_tokens` must not mean the default of maxTokens.
    checkOptionNames(caller, options, GENERATE_OPTIONS);
    const { ignoreEos = false, maxTokens = DEFAULT_MAX_TOKENS, seed = randomSeed(), stop = [] } = options;
    if (!Number.isInteger(maxTokens) || maxTokens < 1) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `maxTokens is ${maxTokens}, expected a whole number from 1`, { details: { maxTokens } });
    }
    this.#host = host;
    this.#settings = samplingSettings(host.defaults.sampling, options);
    this.#edits = logitEdits(options.logitBias, options.logitsProcessors, host.vocab);
    this.#seed = seed;
    this.#random = createRandom(seed);
    const { ids, starts, inputs } = promptIds(host, options);
    this.prompt = ids;
    this.#starts = starts;
    this.#inputs = inputs;
    this.#maxTokens = maxTokens;
    this.#lookup = lookupOf(options);
    const stops = typeof stop === 'string' ? [stop] : stop;
    if (stops.length > 0 && !host.hasTokenizer) host.tokenizer(); // throws: stop strings need text
    this.#text = textOf(host.hasTokenizer ? host.tokenizer().decodeStream() : undefined, stopWatcher(stops));
    this.#ends = new Set(ignoreEos ? [] : host.defaults.eosIds);
    this.first = host.encoder ? Uint32Array.of(host.encoder.description.start) : this.prompt;
    this.#tokens = Array.from(this.first);
  }

  /** `first` and the continuation so far. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /** Prepares the images of the prompt. Throws what `prepareImage` throws. */
  async see(signal: AbortSignal | undefined): Promise<void> {
    const { tower } = this.#host;
    if (!tower || this.#inputs.length === 0) return;
    const pixels = await prepareImages(tower, this.#inputs, signal);
    const rows = rowsOfImage(tower.description);
    this.images = pixels.map((each, i) => ({ at: this.#starts[i]!, rows, pixels: each }));
  }

  /** Notes that reading the prompt begins. */
  begin(): void {
    this.#started = performance.now();
  }

  /** Notes that the prompt was read, `cached` tokens of it before. */
  read(cached: number): void {
    this.#prefilled = performance.now();
    this.#cached = cached;
  }

  /** Tokens that may follow the last one, to be stepped with it. */
  guess(): readonly number[] {
    if (!this.#lookup) return [];
    const left = Math.min(this.#maxTokens - (this.#tokens.length - this.first.length), this.#host.contextLength - this.#tokens.length);
    return guess(this.#tokens, this.#lookup, left);
  }

  /** Notes that a token was guessed right. */
  guessedRight(): void {
    this.#guessed++;
  }

  /** What the next step must read back: how many of the largest logits, 0 for all; `guesses` tokens go with the last one. */
  logits(guesses = 0): number {
    const { bias, processors } = this.#edits;
    const count = bias || processors ? 0 : logitsNeeded(this.#settings, this.#history, this.#host.vocab);
    return count === 0 ? 0 : Math.min(count + guesses, this.#host.vocab); // penalties may put guesses behind others, too
  }

  /** The next token, from what a step said of the last one; with `result` it is the last. Throws ERR_NON_FINITE. */
  take(outputs: StepOutputs): TokenEvent {
    const id = this.#pick(outputs);
    this.#tokens.push(id);
    const count = this.#tokens.length - this.first.length;
    // The last token needs no place in the context: nothing is computed from it.
    const full = this.#tokens.length > this.#host.contextLength;
    const ended = this.#ends.has(id);
    let piece = ended ? { text: '', stopped: false } : this.#text.push(id);
    if (!ended && !piece.stopped && !full && count < this.#maxTokens) {
      this.#shown.push(piece.text);
      return { text: piece.text, id };
    }
    if (!piece.stopped) {
      const rest = this.#text.end();
      piece = { text: piece.text + rest.text, stopped: rest.stopped };
    }
    this.#shown.push(piece.text);
    const reason = ended || piece.stopped ? 'stop' : count >= this.#maxTokens ? 'length' : 'context';
    return { text: piece.text, id, result: this.#result(reason) };
  }

  get #history() {
    return { tokens: this.#tokens, prompt: this.first.length };
  }

  #pick(outputs: StepOutputs): number {
    const logits = outputValues(outputs, 'logits');
    const ids = outputs['logits.ids'];
    if (!ids) return pickToken(logits, this.#history, this.#settings, this.#random, this.#edits);
    return pickCandidate(logits, elements({ dtype: 'i32', data: ids.data }), this.#history, this.#settings, this.#random);
  }

  #result(finishReason: FinishReason): GenerateResult {
    const prompt = this.prompt.length;
    const ids = this.#tokens.slice(this.first.length);
    const prefillMs = this.#prefilled - this.#started;
    const decodeMs = performance.now() - this.#prefilled;
    const rate = (count: number, ms: number): number => (ms > 0 ? (count / ms) * 1000 : 0);
    return {
      text: this.#shown.join(''),
      ids,
      finishReason,
      seed: this.#seed,
      usage: { promptTokens: prompt, cachedTokens: this.#cached, completionTokens: ids.length, guessedTokens: this.#guessed },
      timings: {
        prefillMs,
        decodeMs,
        prefillTokensPerSecond: rate(prompt - this.#cached, prefillMs),
        tokensPerSecond: rate(ids.length - 1, decodeMs),
      },
    };
  }
}

/** Options of a step that reads back so many logits. */
export function readingLogits(count: number, signal: AbortSignal | undefined): StepOptions {
  return { signal, outputs: ['logits'], ...(count > 0 ? { largest: { logits: count } } : {}) };
}

/** The outputs of one row of a step. */
export function rowOf(outputs: StepOutputs, row: number, rows: number): StepOutputs {
  const part = (tensor: HostTensor): HostTensor => {
    const bytes = tensor.data.byteLength / rows;
    return { dtype: tensor.dtype, shape: [1, tensor.shape[1]!], data: tensor.data.slice(row * bytes, (row + 1) * bytes) };
  };
  const ids = outputs['logits.ids'];
  return { logits: part(outputs.logits!), ...(ids ? { 'logits.ids': part(ids) } : {}) };
}

interface Prompt {
  readonly ids: Uint32Array;
  readonly inputs: readonly ImageInput[];
  /** Where the tokens of each image begin. */
  readonly starts: readonly number[];
}

function promptIds(host: GenerationHost, options: GenerateOptions): Prompt {
  const { prompt, messages, ids, images: inputs = [] } = options;
  if ([prompt, messages, ids].filter((given) => given !== undefined).length !== 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'pass exactly one of prompt, messages and ids');
  }
  if (!Array.isArray(inputs)) throw new LowbitError('ERR_BAD_ARGUMENT', 'images is no list', { hint: 'Pass images: [image].' });
  const placed = placeImages(tokensOf(host, options), inputs.length, host);
  return { ids: tokenIds(placed.ids, host), inputs, starts: placed.starts };
}

function tokensOf(host: GenerationHost, { prompt, messages, ids, chat, tools }: GenerateOptions): ArrayLike<number> {
  if (!messages) return prompt === undefined ? ids! : host.tokenizer().encode(prompt);
  const text = host.tokenizer().applyChatTemplate(messages, { ...chat, tools, addGenerationPrompt: true });
  return host.tokenizer().encode(text, { addSpecialTokens: false });
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
