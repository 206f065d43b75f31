// What is in a model folder, wherever it is: which files hold the tensors, and small files of JSON.

import { LowbitError, quote } from '@lowbit/core';
import { isObject, type JsonTree, parseJsonFile } from '@lowbit/layouts';
import type { RandomFile } from './file.ts';
import type { FileSource } from './reading.ts';

/** Files of one model. Names come from strangers: nothing outside of the folder is ever given out. */
export interface ModelFolder {
  /** For messages: a path, a name or an address. */
  readonly path: string;
  /**
   * What `open` takes for a file of that name, or undefined if there is none. Throws ERR_BAD_CHECKPOINT for names with `..`, absolute names and links out
   * of the folder (`from` says who named it).
   */
  resolve(name: string, from: string): Promise<string | undefined>;
  /** A whole file, at most `maxBytes` of it; undefined if there is none. Throws ERR_LIMIT if it is larger. */
  read(name: string, maxBytes: number): Promise<Uint8Array | undefined>;
  /** Names of what is in the folder itself. */
  names(): Promise<readonly string[]>;
  /** Bytes of a regular file of the folder; undefined for what is none, or not to be read. */
  bytes(name: string): Promise<number | undefined>;
  open(path: string, signal: AbortSignal | undefined): Promise<RandomFile>;
  /** Opens the weights, where they are not found by the names of files. */
  weights?(signal: AbortSignal | undefined): Promise<FileSource>;
  /** What was noticed while reading, as sentences. */
  readonly notes?: readonly string[];
  /** Where something must be given back when the folder is not read any more. */
  [Symbol.asyncDispose]?(): PromiseLike<void>;
}

/** Throws ERR_BAD_CHECKPOINT for a name that is not one of a file inside of the folder; gives its parts. */
export function insideParts(folder: string, name: string, from: string): readonly string[] {
  const parts = name.split(/[/\\]/);
  if (name.includes('\0') || /^[A-Za-z]:/.test(name) || parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw refuseName(folder, name, from, 'which is not a plain name inside of the folder');
  }
  return parts;
}

export function refuseName(folder: string, name: string, from: string, problem: string): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `${from} names the file ${quote(name)}, ${problem}`, {
    hint: 'Only files inside of the model folder are read. Copy the file into the folder if it belongs there.',
    details: { file: name, folder },
  });
}

/** ERR_LIMIT for a file that is read whole and too large for it. */
export function tooLarge(path: string, size: number, maxBytes: number): LowbitError {
  return new LowbitError('ERR_LIMIT', `${path} has ${size} bytes, more than the ${maxBytes} that are read of such a file`, {
    details: { path, bytes: size, limit: maxBytes },
  });
}

function baseName(path: string): string {
  return path.replace(/^.*[/\\]/, '');
}

const INDEX = 'model.safetensors.index.json';
/** Where tensors may be, best first. hqq's own `save_quantized` writes qmodel.pt. */
const SOURCES = [
  { kind: 'safetensors', single: 'model.safetensors', index: INDEX, suffix: /\.safetensors$/ },
  { kind: 'torch', single: 'pytorch_model.bin', index: 'pytorch_model.bin.index.json', suffix: /\.(?:bin|pt|pth)$/ },
  { kind: 'torch', single: 'qmodel.pt', index: undefined, suffix: /\.pt$/ },
] as const;
const MAX_INDEX_BYTES = 64 * 1024 * 1024;

/** Reads a JSON file of the folder as a tree of bounded depth. Throws ERR_BAD_CHECKPOINT if it is malformed. */
export async function readJsonInside(folder: ModelFolder, name: string, maxBytes: number): Promise<JsonTree | undefined> {
  const bytes = await folder.read(name, maxBytes);
  return bytes === undefined ? undefined : parseJsonFile(bytes, `${folder.path}/${name}`);
}

/** The files that hold a folder's tensors. */
export interface FoundWeights {
  readonly kind: 'safetensors' | 'torch';
  /** Absolute paths, in order of their names. */
  readonly paths: readonly string[];
  /** Where there is an index: its name, and tensor -> file name. */
  readonly index?: WeightIndex;
}

export interface WeightIndex {
  readonly name: string;
  readonly weightMap: ReadonlyMap<string, string>;
}

/**
 * Finds `model.safetensors`, or else what its index lists, or else the same in PyTorch's own format. Throws ERR_NOT_FOUND (saying what is there
 * instead, or naming the missing shard) and ERR_BAD_CHECKPOINT for a malformed index.
 */
export async function findWeights(folder: ModelFolder): Promise<FoundWeights> {
  for (const { kind, single, index, suffix } of SOURCES) {
    const path = await folder.resolve(single, folder.path);
    if (path !== undefined) return { kind, paths: [path] };
    const tree = index === undefined ? undefined : await readJsonInside(folder, index, MAX_INDEX_BYTES);
    if (index !== undefined && tree !== undefined) return { kind, ...(await findShards(folder, index, tree, suffix)) };
  }
  throw await noTensors(folder);
}

async function findShards(
  folder: ModelFolder,
  index: string,
  tree: JsonTree,
  suffix: RegExp,
): Promise<{ readonly paths: readonly string[]; readonly index: WeightIndex }> {
  const map = isObject(tree) ? tree.get('weight_map') : undefined;
  const fail = (problem: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${folder.path}/${index}: ${problem}`, { hint: 'Fetch the file again.' });
  if (!isObject(map)) throw fail('no weight_map');
  const weightMap = new Map<string, string>();
  for (const [tensor, file] of map) {
    if (typeof file !== 'string') throw fail(`the file of tensor ${quote(tensor)} is not a string`);
    if (!suffix.test(file)) throw fail(`tensor ${quote(tensor)} is in ${quote(file)}, which is no ${index.split('.')[1]} file`);
    weightMap.set(tensor, file);
  }
  const paths: string[] = [];
  for (const file of [...new Set(weightMap.values())].sort()) {
    const path = await folder.resolve(file, index);
    if (path === undefined) {
      throw new LowbitError('ERR_NOT_FOUND', `${folder.path} has no ${quote(file)}, which its index lists`, {
        hint: 'The download is incomplete: fetch the missing shard.',
        details: { file, folder: folder.path },
      });
    }
    paths.push(path);
  }
  return { paths, index: { name: index, weightMap } };
}

/** Checks that every tensor is in the file that the index says, and that no file has others. Throws ERR_BAD_CHECKPOINT. */
export function checkWeightMap(
  { name: index, weightMap }: WeightIndex,
  files: readonly { readonly path: string; readonly names: Iterable<string> }[],
): void {
  const fail = (problem: string, tensor: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', problem, {
      hint: 'Index and shards come from different versions, or one is damaged: fetch them again.',
      details: { tensor },
    });
  const seen = new Set<string>();
  for (const { path, names } of files) {
    for (const name of names) {
      const listed = weightMap.get(name);
      if (listed === undefined) throw fail(`${baseName(path)} has the tensor ${quote(name)}, which ${index} does not list`, name);
      if (!samePath(listed, path)) throw fail(`${index} says that ${quote(name)} is in ${listed}, but it is in ${baseName(path)}`, name);
      seen.add(name);
    }
  }
  for (const [name, file] of weightMap) {
    if (!seen.has(name)) throw fail(`${index} says that ${quote(name)} is in ${file}, but it is not there`, name);
  }
}

function samePath(listed: string, path: string): boolean {
  const plain = `/${path.replaceAll('\\', '/')}`;
  return plain.endsWith(`/${listed.replaceAll('\\', '/')}`);
}

async function noTensors(folder: ModelFolder): Promise<LowbitError> {
  const names = await folder.names();
  const other = names.filter((name) => /\.(?:bin|pt|pth|gguf|h5|msgpack|ckpt|onnx|safetensors)$/.test(name)).slice(0, 3);
  const hint = other.some((name) => name.endsWith('.safetensors'))
    ? 'Name the file model.safetensors, or add the model.safetensors.index.json that belongs to the shards.'
    : other.some((name) => name.endsWith('.gguf'))
      ? `Name the file itself: ${folder.path}/${other.find((name) => name.endsWith('.gguf'))}.`
      : other.length > 0
        ? 'Save the model as safetensors (in Python: `model.save_pretrained(folder, safe_serialization=True)`). Of PyTorch files, pytorch_model.bin and qmodel.pt are read.'
        : 'Download the weights, too: *.safetensors and the index if there is one.';
  const there = other.length > 0 ? ` (there is ${other.join(', ')})` : '';
  return new LowbitError('ERR_NOT_FOUND', `${folder.path} has no model.safetensors and no ${INDEX}${there}`, {
    hint,
    details: { folder: folder.path, found: other },
  });
}
