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

/** Folders of the golden models of some types that hold a whole model. */
export function goldenFolders({ goldenJson }: GoldenReaders, ...modelTypes: readonly string[]): readonly string[] {
  const { cases } = goldenJson<{ cases: readonly GoldenCase[] }>('models/cases.json');
  // timm's files have no model_type of their own, and the manifest says what they are.
  const typeOf = ({ model_type: type }: GoldenCase): string => (type === 'timm vit' ? 'timm' : type);
  return cases.filter((entry) => modelTypes.includes(typeOf(entry)) && !entry.folder.includes('/')).map(({ folder }) => folder);
}

/** A golden model: all its shards, and the config of the given name. */
export function goldenContents({ goldenJson, goldenTensors }: GoldenReaders, folder: string, config = 'config.json'): Contents {
  const { cases } = goldenJson<{ cases: readonly GoldenCase[] }>('models/cases.json');
  const shards = cases.find((entry) => entry.folder === folder)!.files.filter((name) => /^model.*\.safetensors$/.test(name));
  const tensors = new Map(shards.flatMap((name) => [...goldenTensors(`models/${folder}/${name}`)]));
  return { label: folder, config: goldenJson(`models/${folder}/${config}`), tensors, files: {} };
}

/** Names of an expert's linears, and where they are in fused tensors: the rows of the gate come before those of the other. */
const FUSED: Readonly<Record<string, readonly [tensor: string, place: number, places: number]>> = {
  w1: ['gate_up_proj', 0, 2],
  gate_proj: ['gate_up_proj', 0, 2],
  w3: ['gate_up_proj', 1, 2],
  up_proj: ['gate_up_proj', 1, 2],
  w2: ['down_proj', 0, 1],
  down_proj: ['down_proj', 0, 1],
};

/**
 * A mixture with its experts as transformers 5 can save them: `gate_up_proj` [experts, 2 width, hidden] and `down_proj` [experts, hidden, width], in place of
 * one module an expert.
 */
export function fuseExperts(contents: Contents): Contents {
  const tensors = new Map<string, HostTensor>();
  const stacks = new Map<string, HostTensor[]>();
  for (const [name, tensor] of contents.tensors) {
    const [, module, expert, linear] = /^(.*)\.(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
    if (module === undefined) {
      tensors.set(name.replace('.block_sparse_moe.gate.', '.mlp.gate.'), tensor);
      continue;
    }
    const [own, place, places] = FUSED[linear!]!;
    const parts = stacks.get(`${module}.mlp.experts.${own}`) ?? [];
    parts[places * Number(expert) + place] = tensor;
    stacks.set(`${module}.mlp.experts.${own}`, parts);
  }
  for (const [name, parts] of stacks) {
    const [rows, columns] = parts[0]!.shape;
    const places = name.endsWith('gate_up_proj') ? 2 : 1;
    const data = new Uint8Array(parts.reduce((sum, part) => sum + part.data.byteLength, 0));
    let at = 0;
    for (const part of parts) {
      data.set(part.data, at);
      at += part.data.byteLength;
    }
    tensors.set(name, { dtype: parts[0]!.dtype, shape: [parts.length / places, places * rows!, columns!], data });
  }
  return { ...contents, tensors };
}
