// For tests: a checkpoint over tensors in memory, and what it takes to make one of the golden folders. Reads no files itself.

import { type Checkpoint, type HostTensor, type JsonObject, LowbitError, type Matrix, memorySource } from '@lowbit/core';

export interface Contents {
  readonly label: string;
  readonly config: JsonObject;
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /** Text of other files by name. */
  readonly files: Readonly<Record<string, string>>;
}

/** A float checkpoint in memory. */
export function memoryCheckpoint({ label, config, tensors, files }: Contents): Checkpoint {
  const source = memorySource(Object.fromEntries(tensors), label);
  return {
    label,
    config,
    source,
    layout: undefined,
    quantized: new Map(),
    files: Object.keys(files),
    file: async (name) => (files[name] === undefined ? undefined : new TextEncoder().encode(files[name])),
    async linear(path) {
      const weight = await source.read(`${path}.weight`);
      if (weight.shape.length !== 2) throw new LowbitError('ERR_TENSOR_MISMATCH', `${path}.weight is no matrix`);
      return { format: { kind: 'dense', dtype: weight.dtype }, shape: weight.shape as unknown as Matrix, parts: { weight } };
    },
    tensor: (name, options) => source.read(name, options),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

/** The readers of fixtures/golden.ts. */
export interface GoldenReaders {
  goldenJson<T>(path: string): T;
  goldenTensors(path: string): Map<string, HostTensor>;
}

interface GoldenCase {
  readonly folder: string;
  readonly model_type: string;
  readonly files: readonly string[];
}

/** Folders of the golden models of one type that hold a whole model. */
export function goldenFolders({ goldenJson }: GoldenReaders, modelType: string): readonly string[] {
  const { cases } = goldenJson<{ cases: readonly GoldenCase[] }>('models/cases.json');
  return cases.filter(({ folder, model_type }) => model_type === modelType && !folder.includes('/')).map(({ folder }) => folder);
}

/** A golden model: all its shards, and the config of the given name. */
export function goldenContents({ goldenJson, goldenTensors }: GoldenReaders, folder: string, config = 'config.json'): Contents {
  const { cases } = goldenJson<{ cases: readonly GoldenCase[] }>('models/cases.json');
  const shards = cases.find((entry) => entry.folder === folder)!.files.filter((name) => /^model.*\.safetensors$/.test(name));
  const tensors = new Map(shards.flatMap((name) => [...goldenTensors(`models/${folder}/${name}`)]));
  return { label: folder, config: goldenJson(`models/${folder}/${config}`), tensors, files: {} };
}
