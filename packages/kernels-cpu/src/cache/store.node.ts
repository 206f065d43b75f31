// Packed weights that are kept on disk: written beside the work, found again by what they were made of.
//
// A failure here never fails a load: the weight is prepared from its parts as if there were no cache, and the reason is told (`onProblem`).

import { createHash } from 'node:crypto';
import { rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { type Format, isLowbitError, LowbitError, type Matrix, type WeightOrigin } from '@lowbit/core';
import type { CpuBinding, Machine, WeightHandle, WeightSpec } from '../binding.ts';
import { makeModel, modelName, partialName, readModels, removeModel, sweepModel, touchModel } from './models.node.ts';
import type { CacheSettings } from './settings.node.ts';

/** Version of the layouts and of how files are read into them: whoever changes bytes that a packed weight has counts it up. A test holds their checksums. */
export const PACKED_LAYOUTS = 1;

/** A weight as it is kept. */
export interface KeptWeight {
  readonly spec: WeightSpec;
  readonly format: Format;
  readonly shape: Matrix;
  readonly origin: WeightOrigin;
}

/** Bytes that one call reads: between calls a signal is looked at. */
const BATCH = 256 * 2 ** 20;
/** Weights that are being written at a time. */
const WRITERS = 2;
/** Never fill a disk to the brim. */
const SPARE_BYTES = 512 * 2 ** 20;
const HEADER_BYTES = 4096;

/** JSON with the keys of records in order: the same for equal formats. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}

function keyOf({ spec, format, shape, origin: { model, weight } }: KeptWeight): Uint8Array {
  return new Uint8Array(
    createHash('sha256')
      .update(canonical([PACKED_LAYOUTS, spec, format, shape, model, weight]))
      .digest(),
  );
}

function fileName(key: Uint8Array): string {
  return `${Buffer.from(key.subarray(0, 16)).toString('hex')}.packed`;
}

export interface StoreOptions extends CacheSettings {
  /** How weights come back: read into memory of this process, or mapped from the file. */
  readonly how: 'read' | 'map';
  readonly onProblem: (problem: LowbitError) => void;
}

/** The cache as one backend uses it. */
export class PackedStore {
  readonly #binding: CpuBinding;
  readonly #machine: Machine;
  readonly #options: StoreOptions;
  readonly #folders = new Map<string, Promise<string>>();
  readonly #touched = new Set<string>();
  readonly #beginning = new Set<Promise<void>>();
  readonly #writing = new Set<Promise<void>>();
  /** Bytes by model that this store has written. */
  readonly #written = new Map<string, number>();
  /** Bytes of the cache, as far as this store knows. */
  #total: number | undefined;
  /** Set once writing has failed: it is not tried again, nor told twice. */
  #stopped = false;

  constructor(binding: CpuBinding, machine: Machine, options: StoreOptions) {
    this.#binding = binding;
    this.#machine = machine;
    this.#options = options;
  }

  /** Handles of the weights that are there, undefined for others. Rejects with the signal's reason; then nothing is held. */
  async recall(
    weights: readonly { readonly kept: KeptWeight; readonly bytes: number; readonly bias?: Float32Array | undefined }[],
    signal: AbortSignal | undefined,
  ): Promise<readonly (WeightHandle | undefined)[]> {
    const handles: (WeightHandle | undefined)[] = [];
    try {
      for (let from = 0; from < weights.length; ) {
        let [to, bytes] = [from, 0];
        do bytes += weights[to++]!.bytes;
        while (to < weights.length && bytes + weights[to]!.bytes <= BATCH);
        signal?.throwIfAborted();
        handles.push(...(await this.#load(weights.slice(from, to))));
        signal?.throwIfAborted();
        from = to;
      }
      return handles;
    } catch (error) {
      for (const handle of handles) if (handle !== undefined) this.#binding.freeWeight(handle);
      throw error;
    }
  }

  async #load(weights: Parameters<PackedStore['recall']>[0]): Promise<readonly (WeightHandle | undefined)[]> {
    const { dir, how } = this.#options;
    const folders = new Set(weights.map(({ kept }) => modelName(kept.origin)));
    for (const name of folders) {
      if (!(await stat(join(dir, name)).catch(() => undefined))) folders.delete(name);
    }
    const there = weights.map(({ kept }) => folders.has(modelName(kept.origin)));
    const wanted = weights.flatMap(({ kept, bias }, i) => {
      if (!there[i]) return [];
      const key = keyOf(kept);
      return [{ spec: kept.spec, path: join(dir, modelName(kept.origin), fileName(key)), key, bias }];
    });
    if (wanted.length === 0) return weights.map(() => undefined);
    const found = await this.#binding.loadWeights(this.#machine, wanted, how === 'map');
    for (const name of folders) {
      if (this.#touched.has(name)) continue;
      this.#touched.add(name);
      await touchModel(join(dir, name));
    }
    for (const [i, result] of found.entries()) {
      if (typeof result === 'number' || result === 'missing') continue;
      // What is not whole is of no use to anybody; what cannot be read may be.
      if (result !== 'unreadable') await rm(wanted[i]!.path, { force: true }).catch(() => undefined);
      this.#tell(
        new LowbitError('ERR_IO', `a packed weight in the cache is ${result}: ${wanted[i]!.path}`, {
          hint: result === 'unreadable' ? 'Check who may read it.' : 'It was removed and is made again.',
          details: { path: wanted[i]!.path, verdict: result },
        }),
      );
    }
    let at = 0;
    return there.map((is) => {
      const result = is ? found[at++] : undefined;
      return typeof result === 'number' ? result : undefined;
    });
  }

  /**
   * Begins to write a weight, whose handle may be freed once this has settled; where it is freed before, so that `held` says no, nothing is written.
   * Waits only where too many are being written. Never rejects.
   */
  keep(handle: WeightHandle, kept: KeptWeight, bytes: number, held: () => boolean): Promise<void> {
    const beginning: Promise<void> = this.#begin(handle, kept, bytes, held).finally(() => this.#beginning.delete(beginning));
    this.#beginning.add(beginning);
    return beginning;
  }

  async #begin(handle: WeightHandle, kept: KeptWeight, bytes: number, held: () => boolean): Promise<void> {
    while (this.#writing.size >= WRITERS) await Promise.race(this.#writing);
    if (this.#stopped || !held()) return;
    const key = keyOf(kept);
    const name = fileName(key);
    const text = JSON.stringify({ model: kept.origin.label, weight: kept.origin.weight, ...kept.spec });
    try {
      const folder = await this.#folder(kept.origin);
      await this.#makeRoom(folder, kept.origin, bytes + HEADER_BYTES);
      const partial = join(folder, partialName(name));
      if (!held()) return;
      // From here on the addon holds the weight.
      const writing: Promise<void> = this.#binding
        .saveWeight(handle, partial, key, text)
        .then(() => rename(partial, join(folder, name)))
        .catch((error: unknown) => this.#stop(error))
        .finally(() => this.#writing.delete(writing));
      this.#writing.add(writing);
    } catch (error) {
      this.#stop(error);
    }
  }

  /** Waits until everything is written. */
  async settle(): Promise<void> {
    await Promise.all(this.#beginning);
    await Promise.all(this.#writing);
  }

  /** What a listener throws is not a load's to fail with. */
  #tell(problem: LowbitError): void {
    try {
      this.#options.onProblem(problem);
    } catch {}
  }

  #stop(error: unknown): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#tell(writeError(error, this.#options.dir));
  }

  #folder(origin: WeightOrigin): Promise<string> {
    const name = modelName(origin);
    const known = this.#folders.get(name);
    if (known) return known;
    const making = makeModel(this.#options.dir, origin).then(async (folder) => {
      await sweepModel(folder);
      return folder;
    });
    this.#folders.set(name, making);
    return making;
  }

  /** Throws ERR_LIMIT where the model does not fit into the cache or the disk; what it has there is removed then. */
  async #makeRoom(folder: string, origin: WeightOrigin, bytes: number): Promise<void> {
    const { dir, maxBytes } = this.#options;
    const name = modelName(origin);
    const own = (this.#written.get(name) ?? 0) + bytes;
    this.#written.set(name, own);
    this.#total = this.#total === undefined ? await this.#evict(name, bytes) : this.#total + bytes;
    if (this.#total > maxBytes) this.#total = await this.#evict(name, bytes);
    const { bavail, bsize } = await statfs(folder);
    const spare = bavail * bsize - bytes;
    if (this.#total <= maxBytes && spare >= SPARE_BYTES) return;
    await removeModel(dir, name);
    const why =
      spare < SPARE_BYTES ? `only ${spare} bytes of the disk would stay free` : `its packed weights are more than ${maxBytes} bytes`;
    throw new LowbitError('ERR_LIMIT', `${origin.label} is not kept in the cache ${dir}: ${why}`, {
      hint: 'Allow more (option cache.maxBytes, variable LOWBIT_CACHE_SIZE), free some space, or turn the cache off (cache: false, LOWBIT_CACHE=off).',
      details: { dir, maxBytes, needed: own, spare },
    });
  }

  /** Removes the models used least recently until `bytes` more fit, as far as there are others than those that are used here. The bytes in all then. */
  async #evict(name: string, bytes: number): Promise<number> {
    const { dir, maxBytes } = this.#options;
    const models = await readModels(dir);
    let total = bytes + models.reduce((sum, model) => sum + model.bytes, 0);
    for (const model of [...models].reverse()) {
      if (total <= maxBytes) break;
      if (model.name === name || this.#folders.has(model.name) || this.#touched.has(model.name)) continue;
      await removeModel(dir, model.name);
      total -= model.bytes;
    }
    return total;
  }
}

function writeError(error: unknown, dir: string): LowbitError {
  if (isLowbitError(error)) return error;
  const { message, code } = error as NodeJS.ErrnoException;
  return new LowbitError('ERR_IO', `packed weights cannot be kept in ${dir}: ${message.replace(/^kernels-cpu: /, '')}`, {
    hint: 'Free some space, choose another folder (option cache.dir, variable LOWBIT_CACHE), or turn it off (cache: false, LOWBIT_CACHE=off).',
    details: { dir, errno: code },
    cause: error,
  });
}
