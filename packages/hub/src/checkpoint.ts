// A checkpoint folder as Hugging Face models have it, wherever it is: config.json, safetensors (or PyTorch files where there are none), and small files.

import {
  type Checkpoint,
  type CheckpointLayout,
  checkOptionNames,
  type FormatCodec,
  type JsonObject,
  LowbitError,
  type Matrix,
  quote,
  type StoredLinear,
  type WeightOrigin,
} from '@lowbit/core';
import { isObject, readStoredLinear, toJson } from '@lowbit/layouts';
import type { OpenFile } from './file.ts';
import { openFileSource } from './file-source.ts';
import { checkWeightMap, findWeights, type ModelFolder, readJsonInside } from './folder.ts';
import { BUILTIN_LAYOUTS } from './layouts/builtin.ts';
import { checkpointNotes } from './notes.ts';
import { TORCH } from './pickle/source.ts';
import type { FileSource } from './reading.ts';
import { SAFETENSORS } from './safetensors/source.ts';
import { smallReads } from './small-reads.ts';

const MAX_CONFIG_BYTES = 16 * 1024 * 1024;
const MAX_FILE_BYTES = 64 * 1024 * 1024;
/** Weights in any form, and indexes of their shards: never "other files". */
const WEIGHTS = /\.(?:safetensors|bin|pt|pth|ckpt|gguf|h5|msgpack|onnx|onnx_data|npz|tflite|ot)$|\.index\.json$/;

/** Of `openCheckpoint`. */
export interface OpenCheckpointOptions {
  /** Layouts of third parties; they are tried before the built-in ones. */
  readonly layouts?: readonly CheckpointLayout[];
  /** Codecs of custom formats that such layouts yield. */
  readonly codecs?: readonly FormatCodec[];
  /** Open a checkpoint with a weight that is stored as NaN throughout (an infinite offset of double quantization). Default false: ERR_NON_FINITE. */
  readonly allowNonFinite?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

const OPTIONS = Object.keys({ layouts: true, codecs: true, allowNonFinite: true, signal: true } satisfies Record<
  keyof OpenCheckpointOptions,
  true
>);

/** A checkpoint of files. */
export interface StoredCheckpoint extends Checkpoint {
  readonly source: FileSource;
  /** What was noticed while reading quantized layers, as sentences: a damaged table that was mended, say. */
  readonly notes: readonly string[];
  /** Bytes of each of `files`, for planning a copy. */
  readonly fileBytes: ReadonlyMap<string, number>;
}

/** Tells origins of linears, where the state of files is known. */
export type OriginOf = (source: FileSource, path: string, stored: StoredLinear | undefined) => WeightOrigin | undefined;

/** As `openCheckpoint`, of any folder. */
export async function openModelFolder(folder: ModelFolder, options: OpenCheckpointOptions, origin?: OriginOf): Promise<StoredCheckpoint> {
  checkOptionNames('openCheckpoint', options, OPTIONS);
  const { signal, codecs, allowNonFinite } = options;
  const config = await readConfig(folder);
  const source = await (folder.weights?.(signal) ?? openWeights(folder, signal));
  try {
    const layouts = [...(options.layouts ?? []), ...BUILTIN_LAYOUTS];
    const layout = layouts.find((candidate) => candidate.detect(config, source.entries));
    if (layout === undefined) refuseUnknown(config, layouts, folder);
    const quantized: ReadonlyMap<string, StoredLinear> =
      layout === undefined ? new Map() : await layout.read(config, smallReads(source), { signal, allowNonFinite });
    if (layout !== undefined && quantized.size === 0) {
      throw new LowbitError('ERR_BAD_CHECKPOINT', `${folder.path}: config.json says ${layout.name}, but no linear is stored in that way`, {
        hint: 'Weights and config.json come from different models, or the weights are not quantized: then take quantization_config out of config.json.',
      });
    }
    const fileBytes = await listFiles(folder);

    return {
      label: folder.path,
      config,
      source,
      layout: layout?.name,
      quantized,
      notes: [...checkpointNotes(quantized), ...(folder.notes ?? [])],
      files: [...fileBytes.keys()],
      fileBytes,
      file: (name, maxBytes = MAX_FILE_BYTES) => folder.read(name, maxBytes),
      linear: (path, { signal } = {}) =>
        readStoredLinear(source, quantized.get(path) ?? plainLinear(source, path), { path, codecs, signal }),
      tensor: (name, read) => source.read(name, read),
      ...(origin && { origin: (path: string) => origin(source, path, quantized.get(path)) }),
      [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
    };
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

async function openWeights(folder: ModelFolder, signal: AbortSignal | undefined): Promise<FileSource> {
  const { kind, paths, index } = await findWeights(folder);
  const openers = paths.map(
    (path): OpenFile =>
      (signal) =>
        folder.open(path, signal),
  );
  const options = { label: folder.path, signal };
  let source: FileSource;
  let names: (file: number) => Iterable<string>;
  if (kind === 'safetensors') {
    const opened = await openFileSource(openers, options, SAFETENSORS);
    source = opened;
    names = (file) => opened.files[file]!.header.tensors.keys();
  } else {
    const opened = await openFileSource(openers, options, TORCH);
    source = opened;
    names = (file) => opened.files[file]!.names;
  }
  try {
    if (index !== undefined) {
      checkWeightMap(
        index,
        source.files.map(({ path }, file) => ({ path, names: names(file) })),
      );
    }
    return source;
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

async function readConfig(folder: ModelFolder): Promise<JsonObject> {
  const tree = await readJsonInside(folder, 'config.json', MAX_CONFIG_BYTES);
  if (tree === undefined) {
    throw new LowbitError('ERR_NOT_FOUND', `${folder.path} has no config.json`, {
      hint: 'A model folder has config.json beside its weights. Pass the folder that holds it, or download it, too.',
      details: { folder: folder.path },
    });
  }
  if (!isObject(tree)) {
    throw new LowbitError('ERR_BAD_CHECKPOINT', `${folder.path}/config.json: not a JSON object`, {
      hint: 'Fetch the file again.',
    });
  }
  return toJson(tree) as JsonObject;
}

/** A weight that is stored as it is. */
function plainLinear(source: FileSource, path: string): StoredLinear {
  const name = `${path}.weight`;
  const spec = source.entries.get(name);
  if (spec === undefined) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${source.label} has no linear layer ${quote(path)}: no tensor ${quote(name)}`, {
      hint: 'Pass a module path such as model.layers.0.self_attn.q_proj.',
      details: { path, tensor: name },
    });
  }
  if (spec.shape.length !== 2) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(name)} is [${spec.shape.join(', ')}], not a matrix`, {
      details: { tensor: name },
    });
  }
  return { format: { kind: 'dense', dtype: spec.dtype }, shape: spec.shape as unknown as Matrix, parts: { weight: name } };
}

/** Throws ERR_UNSUPPORTED_FORMAT if config.json says that the weights are quantized in a way that no layout claims. */
function refuseUnknown(config: JsonObject, layouts: readonly CheckpointLayout[], folder: ModelFolder): void {
  const block = config.quantization_config;
  if (block === undefined || block === null) return;
  const method = typeof block === 'object' && 'quant_method' in block ? block.quant_method : undefined;
  const named = typeof method === 'string' ? quote(method) : 'a method that it does not name (no quant_method)';
  // Said, and never loaded: a folder must not choose what is executed.
  const plugin = typeof block === 'object' && 'plugin' in block && isPackageName(block.plugin) ? block.plugin : undefined;
  const by =
    plugin && ` It says that the package ${plugin} reads it: if you trust that, install it and pass --plugin ${plugin} (its layouts).`;
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${folder.path}: config.json says the weights are quantized with ${named}`, {
    hint: `This version reads ${[...new Set(layouts.map((layout) => layout.name))].join(', ')} and plain weights.${by ?? ' Start from the original model.'}`,
    details: { quantMethod: method ?? null, ...(plugin && { plugin }) },
  });
}

function isPackageName(name: unknown): name is string {
  return typeof name === 'string' && name.length <= 214 && /^(?:@[a-z0-9][\w.-]*\/)?[a-z0-9][\w.-]*$/.test(name);
}

/** Other files of the folder and their bytes, by name. Hidden files and links out of the folder are left out. */
async function listFiles(folder: ModelFolder): Promise<ReadonlyMap<string, number>> {
  const names = await folder.names();
  const files = new Map<string, number>();
  for (const name of [...names].sort()) {
    if (name === 'config.json' || name.startsWith('.') || WEIGHTS.test(name)) continue;
    const bytes = await folder.bytes(name);
    if (bytes !== undefined) files.set(name, bytes);
  }
  return files;
}
