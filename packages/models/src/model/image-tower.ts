// An image tower that is loaded and can be asked: what it makes of images, its memory, and its linear layers for patching.

import {
  adapterFor,
  type CallOptions,
  type Checkpoint,
  checkOptionNames,
  type HostTensor,
  type JsonObject,
  type LinearHost,
  type LinearSite,
  LowbitError,
  type ModelAdapter,
  type QuantizedLinear,
  type Runtime,
} from '@lowbit/core';
import { defaultAdapters } from '../adapters/index.ts';
import { checkCheckpoint, checkImages, checkLoadingRuntime } from '../arguments.ts';
import type { ImageInput } from '../images/image.ts';
import { readPreparation } from '../images/preparation.ts';
import type { ModelMemory } from './language-model.ts';
import { towerPositions } from './load-model.ts';
import { loadProgram, valueOrReason } from './load-program.ts';
import { Runner } from './runner.ts';
import { type LoadedTower, look, prepareImages } from './sight.ts';
import { logicalModel, readLogical } from './stored.ts';

export interface LoadImageTowerOptions extends CallOptions {
  readonly runtime: Runtime;
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[];
  /** Holds weights that are not quantized in this dtype; default as stored. */
  readonly dtype?: 'f32' | 'f16' | 'bf16';
  /** Further outputs of `forward`: `hidden.0` .. `hidden.N`, of a tower on its own. */
  readonly observe?: readonly string[];
}

const OPTIONS = Object.keys({
  runtime: true,
  adapters: true,
  dtype: true,
  observe: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof LoadImageTowerOptions, true>);

/**
 * Loads the image tower of a checkpoint: CLIP, a vision transformer of timm, or the tower and projector of LLaVA. The checkpoint stays the caller's.
 * Throws ERR_UNSUPPORTED_ARCH for a model that looks at no images, and what `loadModel` throws.
 *
 * @example
 * await using tower = await loadImageTower(checkpoint, { runtime });
 * const [cat] = await tower.embed([await readFile('cat.jpg')]); // f32 [1, 512]
 */
export async function loadImageTower(checkpoint: Checkpoint, options: LoadImageTowerOptions): Promise<ImageTower> {
  checkCheckpoint('loadImageTower', checkpoint);
  checkOptionNames('loadImageTower', options, OPTIONS);
  checkLoadingRuntime('loadImageTower', options.runtime);
  const { runtime, adapters = [], dtype, observe, signal, onProgress } = options;
  signal?.throwIfAborted();
  const { config, label } = checkpoint;
  const adapter = adapterFor(config, [...adapters, ...defaultAdapters]);
  const logical = logicalModel(checkpoint, adapter);
  const read = (name: string): Promise<HostTensor> => readLogical(checkpoint, name, signal);
  const { images } = await adapter.describe(config, { entries: logical.entries, read, ...(observe ? { observe } : {}) });
  if (!images) {
    throw new LowbitError('ERR_UNSUPPORTED_ARCH', `${label} looks at no images`, {
      hint: 'It is a language model: load it with loadModel.',
      details: { modelType: config.model_type ?? null },
    });
  }
  const preparation = await valueOrReason(readPreparation(checkpoint, config));
  const load = { contextLength: towerPositions({ images }), maxSequences: 1 };
  const program = await loadProgram(checkpoint, logical, images.program, { runtime, dtype, load, signal, onProgress });
  const own = new Set(images.program.linears.map(({ path }) => path));
  const sites = logical.sites.filter(({ path }) => own.has(path));
  return new ImageTower({ label, config, sites, tower: { description: images, runner: new Runner(program), preparation } });
}

interface ImageTowerParts {
  readonly label: string;
  readonly config: JsonObject;
  readonly sites: readonly LinearSite[];
  readonly tower: LoadedTower;
}

/** A loaded image tower. Make one with `loadImageTower`; give its memory back with `await using`. */
export class ImageTower implements LinearHost, AsyncDisposable {
  /** config.json. */
  readonly config: JsonObject;
  /** What it takes: f32 [channels, height, width]. */
  readonly input: { readonly channels: number; readonly height: number; readonly width: number };
  readonly #parts: ImageTowerParts;

  constructor(parts: ImageTowerParts) {
    this.#parts = parts;
    this.config = parts.config;
    const { channels, height, width } = parts.tower.description;
    this.input = { channels, height, width };
  }

  /**
   * What an image is turned into, f32 [rows, width]: `image_embeds` of CLIP, not normalised (without a projection `pooler_output`), `logits` of timm (without
   * a head the class token's row), `image_features` of LLaVA. Throws ERR_NOT_FOUND where the checkpoint does not say how images are prepared, and what
   * `decodeImage` throws.
   */
  async embed(images: readonly ImageInput[], options: { readonly signal?: AbortSignal | undefined } = {}): Promise<readonly HostTensor[]> {
    const { description } = this.#parts.tower;
    return (await this.#look(images, { ...options, outputs: [description.output] })).map((outputs) => outputs[description.output]!);
  }

  /** All outputs for each image, and what was observed at loading: `last_hidden_state`, `pooler_output`, `features`, ... f32 [rows, width]. */
  async forward(
    images: readonly ImageInput[],
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly Readonly<Record<string, HostTensor>>[]> {
    return this.#look(images, { ...options, outputs: Object.keys(this.#parts.tower.description.program.outputs) });
  }

  /** Images as the tower takes them, f32 [channels, height, width]: `embed` takes them, too. */
  async prepare(
    images: readonly ImageInput[],
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly HostTensor[]> {
    checkImages('a tower', images);
    return prepareImages(this.#parts.tower, images, options.signal);
  }

  /** Device bytes held now. */
  memory(): ModelMemory {
    const { weights, scratch, cache } = this.#parts.tower.runner.program().memory();
    return { weights, scratch, kvCache: cache };
  }

  /** Its linear layers, for `patchLinears`. */
  linears(): Iterable<Pick<LinearSite, 'path' | 'shape' | 'keep'>> {
    return this.#parts.sites;
  }

  /** Weight f32 [out, in] and bias of a linear as they are now. */
  async weight(path: string): Promise<{ readonly weight: HostTensor; readonly bias?: HostTensor }> {
    const index = this.#index(path);
    const { description, runner } = this.#parts.tower;
    const weight = await runner.run((loaded) => loaded.linears[index]!.dequantize());
    const { bias } = description.program.linears[index]!;
    return { weight, ...(bias === undefined ? {} : { bias: description.program.constants[bias]! }) };
  }

  /** Name of the backend that a linear runs on. */
  backend(path: string): string {
    const index = this.#index(path);
    return this.#parts.tower.runner.program().backendOf(index);
  }

  /** From now on `path` computes with `linear`, which the tower disposes. */
  async replace(path: string, linear: QuantizedLinear): Promise<void> {
    const index = this.#index(path);
    const old = await this.#parts.tower.runner.run((program) => program.replace(index, linear));
    old[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.tower.runner.dispose();
  }

  async #look(
    images: readonly ImageInput[],
    options: { readonly signal?: AbortSignal | undefined; readonly outputs: readonly string[] },
  ): Promise<readonly Readonly<Record<string, HostTensor>>[]> {
    checkImages('a tower', images);
    const { tower } = this.#parts;
    const results: Readonly<Record<string, HostTensor>>[] = [];
    for (const image of images) {
      const [pixels] = await prepareImages(tower, [image], options.signal);
      results.push(await look(tower, pixels!, options));
    }
    return results;
  }

  #index(path: string): number {
    const { sites, tower, label } = this.#parts;
    const index = sites.some((site) => site.path === path) ? tower.description.program.linears.findIndex((use) => use.path === path) : -1;
    if (index >= 0) return index;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${label} has no linear layer ${path}`, { details: { path } });
  }
}
