// From a checkpoint to a model that runs.

import {
  adapterFor,
  type CallOptions,
  type Checkpoint,
  checkOptionNames,
  DEFAULT_MAX_SEQUENCES,
  isLowbitError,
  type JsonObject,
  LowbitError,
  type ModelAdapter,
  type ModelDescription,
  type Program,
  type Quantizer,
  type Runtime,
} from '@lowbit/core';
import type { LoadedProgram, LoadOptions } from '@lowbit/program';
import { defaultAdapters } from '../adapters/index.ts';
import { checkCheckpoint, checkLoadingRuntime } from '../arguments.ts';
import { readPreparation } from '../images/preparation.ts';
import { generationDefaults } from '../sampling/settings.ts';
import { jsonFile } from '../text/files.ts';
import { loadTokenizer } from '../text/tokenizer.ts';
import { checkLength } from './ids.ts';
import { LanguageModel } from './language-model.ts';
import { loadProgram, valueOrReason } from './load-program.ts';
import { Runner } from './runner.ts';
import { logicalModel, readLogical } from './stored.ts';

export interface LoadModelOptions extends CallOptions {
  readonly runtime: Runtime;
  /** Disposing the model disposes the runtime, too. Default false: it stays the caller's. */
  readonly disposeRuntime?: boolean;
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[];
  /** Most tokens of a sequence; default and upper bound: what the model was made for. Less may save memory. */
  readonly contextLength?: number;
  /** Most texts generated or scored at once; default 16. */
  readonly maxSequences?: number;
  /** Holds weights that are not quantized in this dtype; default as stored. */
  readonly dtype?: 'f32' | 'f16' | 'bf16';
  /**
   * Quantizes the output layer as it is loaded, such as `hqq({ bits: 8 })`: checkpoints store it dense, mostly as the table of embeddings, and in a small
   * model it is half of what a token reads. A tied table gives embeddings rounded alike. Default: as stored.
   */
  readonly head?: Quantizer;
  /** Which backend runs which layers; see `LoadOptions`. */
  readonly cut?: LoadOptions['cut'];
  /** Backends by module, tag or pattern, or `auto`; see `LoadOptions`. */
  readonly deviceMap?: LoadOptions['deviceMap'];
  /** With `auto`: bytes of weights that backends may hold, by name. */
  readonly backendMemory?: LoadOptions['backendMemory'];
  /** Keeps scales and zeros of quantized weights in host memory; see `LinearRequest` of core. Default false. */
  readonly offloadMeta?: boolean;
  /** Most tokens of a prompt in one step, which bounds the memory of activations; default 512. */
  readonly prefillChunk?: number;
  /** A prompt that is to come first: if it does not fit into the context, ERR_LIMIT comes before any weight is read. Nothing is generated. */
  readonly firstPrompt?: string;
  /** Further outputs of `forward`: `hidden.0` .. `hidden.N`, `final_norm`. */
  readonly observe?: readonly string[];
}

const OPTIONS = Object.keys({
  runtime: true,
  disposeRuntime: true,
  adapters: true,
  contextLength: true,
  maxSequences: true,
  dtype: true,
  head: true,
  cut: true,
  deviceMap: true,
  backendMemory: true,
  offloadMeta: true,
  prefillChunk: true,
  firstPrompt: true,
  observe: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof LoadModelOptions, true>);

/** Default of `prefillChunk`. */
export const DEFAULT_CHUNK = 512;

/**
 * Loads a model. The checkpoint is not needed afterwards and stays the caller's to dispose.
 *
 * Throws ERR_UNSUPPORTED_ARCH (no adapter for its model_type, an unknown rope_type), ERR_BAD_CHECKPOINT (an unusable value in config.json or
 * generation_config.json), ERR_BAD_ARGUMENT (`head` for an output layer that is quantized already), ERR_TENSOR_MISMATCH (a tensor missing or of another shape), ERR_LIMIT (`contextLength` over the model's), and what the runtime
 * throws. A missing tokenizer is an error only when text is asked for.
 *
 * @example
 * await using model = await loadModel(checkpoint, { runtime });
 * const { text } = await model.generate({ messages: [{ role: 'user', content: 'Hello!' }] });
 */
export async function loadModel(checkpoint: Checkpoint, options: LoadModelOptions): Promise<LanguageModel> {
  checkOptionNames('loadModel', options, OPTIONS);
  checkCheckpoint('loadModel', checkpoint);
  checkLoadingRuntime('loadModel', options.runtime);
  const { runtime, signal, onProgress, dtype, prefillChunk = DEFAULT_CHUNK } = options;
  const { cut, deviceMap, backendMemory, maxSequences = DEFAULT_MAX_SEQUENCES, offloadMeta } = options;
  signal?.throwIfAborted();
  if (!Number.isInteger(prefillChunk) || prefillChunk < 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `prefillChunk is ${prefillChunk}, expected a whole number from 1`);
  }
  const { config } = checkpoint;
  const adapter = adapterFor(config, [...(options.adapters ?? []), ...defaultAdapters]);
  const logical = logicalModel(checkpoint, adapter);
  const { sites, entries } = logical;
  const description = await adapter.describe(config, {
    entries,
    read: (name) => readLogical(checkpoint, name, signal),
    ...(options.observe ? { observe: options.observe } : {}),
  });
  const contextLength = boundedContext(options.contextLength, description.contextLength);
  const generation = (await jsonFile(checkpoint, 'generation_config.json', { maxBytes: 2 ** 20, code: 'ERR_BAD_CHECKPOINT' })) ?? {};
  const tokenizer = await valueOrReason(loadTokenizer(checkpoint));
  const preparation = await valueOrReason(readPreparation(checkpoint, config));
  const defaults = generationDefaults(generation, textConfig(config));
  const eosId = defaults.eosIds.length === 0 && !isLowbitError(tokenizer) ? tokenizer.eosId : undefined;

  const { program, encoder, images } = description;
  if (images && images.program === program) {
    throw new LowbitError('ERR_UNSUPPORTED_ARCH', `${checkpoint.label} looks at images and reads no text`, {
      hint: 'It is an image tower: load it with loadImageTower.',
      details: { modelType: config.model_type ?? null },
    });
  }
  // Placeholders of images become more tokens, never fewer.
  if (options.firstPrompt !== undefined && !isLowbitError(tokenizer)) checkLength(tokenizer.encode(options.firstPrompt), { contextLength });
  if (encoder && (cut || deviceMap === 'auto')) {
    throw new LowbitError(
      'ERR_BAD_ARGUMENT',
      "cut and deviceMap: 'auto' are for models of one stack of layers, and this one has an encoder",
      {
        hint: "Name the layers, as in deviceMap: { encoder: 'cpu', '': 'cuda' }.",
      },
    );
  }
  const shared = { contextLength, deviceMap, backendMemory, maxSequences, offloadMeta };
  const load = (part: Program, head?: Quantizer): Promise<LoadedProgram> =>
    loadProgram(checkpoint, logical, part, { runtime, dtype, head, load: { ...shared, cut }, signal, onProgress });
  // An image is read at once, and no image follows another in its sequence. Its layers are not those that a cut counts.
  const towerLoad = {
    ...shared,
    contextLength: towerPositions(description),
    maxSequences: 1,
    ...(deviceMap === 'auto' && { deviceMap: undefined }),
  };
  const loaded: LoadedProgram[] = [];
  try {
    if (images)
      loaded.push(await loadProgram(checkpoint, logical, images.program, { runtime, dtype, load: towerLoad, signal, onProgress }));
    if (encoder) loaded.push(await load(encoder.program));
    loaded.push(await load(program, options.head));
  } catch (error) {
    for (const part of loaded) await part[Symbol.asyncDispose]();
    throw error;
  }
  const runners = loaded.map((part) => new Runner(part));
  return new LanguageModel({
    label: checkpoint.label,
    config,
    description,
    sites,
    runner: runners.at(-1)!,
    ...(images && { tower: { description: images, runner: runners[0]!, preparation } }),
    ...(encoder && { encoder: { description: encoder, runner: runners.at(-2)! } }),
    contextLength,
    prefillChunk,
    maxSequences,
    defaults: eosId === undefined ? defaults : { ...defaults, eosIds: [eosId] },
    tokenizer,
    ownRuntime: options.disposeRuntime ? runtime : undefined,
  });
}

/** Throws ERR_BAD_ARGUMENT, and ERR_LIMIT for more than the model was made for. */
export function boundedContext(asked: number | undefined, most: number): number {
  if (asked === undefined) return most;
  if (!Number.isInteger(asked) || asked < 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `contextLength is ${asked}, expected a whole number from 1`, {
      details: { contextLength: asked },
    });
  }
  if (asked <= most) return asked;
  throw new LowbitError('ERR_LIMIT', `contextLength ${asked} is more than the ${most} positions this model was made for`, {
    hint: `Pass at most ${most}, or edit rope_scaling and max_position_embeddings in config.json if you know what you do.`,
    details: { contextLength: asked, limit: most },
  });
}

/** Positions that a tower needs: the rows of an image. */
export function towerPositions({ images }: Pick<ModelDescription, 'images'>): number {
  if (!images) return 1;
  return images.prefix + (images.height / images.patch) * (images.width / images.patch);
}

/** Of models with parts: what config.json says of the language model, where it does not say it of the whole. */
function textConfig(config: JsonObject): JsonObject {
  const inner = config.text_config;
  return typeof inner === 'object' && inner !== null && !Array.isArray(inner) ? { ...(inner as JsonObject), ...config } : config;
}
