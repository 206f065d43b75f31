// What is in a model folder: which files hold the tensors, and access to the other files that never leaves the folder.
// Folders come from strangers, so a weight_map or a symbolic link must not make us read (and later copy or upload) files from elsewhere.

import { open, readdir, realpath, stat } from 'node:fs/promises';
import { basename, join, resolve, sep } from 'node:path';
import { LowbitError, quote } from '@lowbit/core';
import { isObject, type JsonTree, parseJsonFile } from '@lowbit/core/layouts';
import { errnoOf, guarded, readFully } from './io.node.ts';

/** A folder and the places that its symbolic links may point to. */
export interface Folder {
  /** As given, resolved against the working directory. */
  readonly path: string;
  /** Real paths that a file of the folder may lie under. */
  readonly roots: readonly string[];
}

const INDEX = 'model.safetensors.index.json';
/** Where tensors may be, best first. hqq's own `save_quantized` writes qmodel.pt. */
const SOURCES = [
  { kind: 'safetensors', single: 'model.safetensors', index: INDEX, suffix: /\.safetensors$/ },
  { kind: 'torch', single: 'pytorch_model.bin', index: 'pytorch_model.bin.index.json', suffix: /\.(?:bin|pt|pth)$/ },
  { kind: 'torch', single: 'qmodel.pt', index: undefined, suffix: /\.pt$/ },
] as const;
const MAX_INDEX_BYTES = 64 * 1024 * 1024;

/** Opens a folder. Throws ERR_NOT_FOUND if there is none, ERR_IO if it is a file or not readable. */
export async function openFolder(dir: string): Promise<Folder> {
  const path = resolve(dir);
  const info = await guarded('open', path, () => stat(path));
  if (!info.isDirectory()) {
    throw new LowbitError('ERR_IO', `cannot open ${path}: it is a file, not a model folder`, {
      hint: 'Pass the folder that holds config.json.',
      details: { path },
    });
  }
  const real = await guarded('open', path, () => realpath(path));
  // The Hugging Face cache keeps the bytes in <repo>/blobs and links to them from <repo>/snapshots/<revision>.
  const cache = new RegExp(`^(.*\\${sep}models--[^\\${sep}]+)\\${sep}snapshots\\${sep}[^\\${sep}]+$`).exec(real);
  return { path, roots: cache === null ? [real] : [real, join(cache[1]!, 'blobs')] };
}

/**
 * Absolute path of a file inside the folder, or undefined if it does not exist. Throws ERR_BAD_CHECKPOINT for names with `..`, absolute names
 * and links out of the folder (`from` says who named it).
 */
export async function resolveInside(folder: Folder, name: string, from: string): Promise<string | undefined> {
  const refuse = (problem: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${from} names the file ${quote(name)}, ${problem}`, {
      hint: 'Only files inside of the model folder are read. Copy the file into the folder if it belongs there.',
      details: { file: name, folder: folder.path },
    });
  const parts = name.split(/[/\\]/);
  if (name.includes('\0') || /^[A-Za-z]:/.test(name) || parts.some((part) => part === '' || part === '.' || part === '..')) {
    throw refuse('which is not a plain name inside of the folder');
  }
  const path = join(folder.path, ...parts);
  let real: string;
  try {
    real = await realpath(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    return guarded('open', path, () => Promise.reject(error));
  }
  if (!folder.roots.some((root) => real === root || real.startsWith(root + sep))) throw refuse('which is a link to outside of the folder');
  return path;
}

/** A whole file, at most `maxBytes` of it; undefined if there is none. Throws ERR_LIMIT if it is larger. */
export async function readInside(folder: Folder, name: string, maxBytes: number): Promise<Uint8Array | undefined> {
  const path = await resolveInside(folder, name, folder.path);
  if (path === undefined) return undefined;
  return guarded('read', path, async () => {
    // Before opening: a named pipe would block for ever.
    if (!(await stat(path)).isFile()) return undefined;
    const handle = await open(path, 'r');
    try {
      const { size } = await handle.stat();
      if (size > maxBytes) {
        throw new LowbitError('ERR_LIMIT', `${path} has ${size} bytes, more than the ${maxBytes} that are read of such a file`, {
          details: { path, bytes: size, limit: maxBytes },
        });
      }
      const data = new Uint8Array(size);
      return data.subarray(0, await readFully(handle, data, 0));
    } finally {
      await handle.close();
    }
  });
}

/** Reads a JSON file of the folder as a tree of bounded depth. Throws ERR_BAD_CHECKPOINT if it is malformed. */
export async function readJsonInside(folder: Folder, name: string, maxBytes: number): Promise<JsonTree | undefined> {
  const bytes = await readInside(folder, name, maxBytes);
  return bytes === undefined ? undefined : parseJsonFile(bytes, join(folder.path, name));
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
export async function findWeights(folder: Folder): Promise<FoundWeights> {
  for (const { kind, single, index, suffix } of SOURCES) {
    const path = await resolveInside(folder, single, folder.path);
    if (path !== undefined) return { kind, paths: [path] };
    const tree = index === undefined ? undefined : await readJsonInside(folder, index, MAX_INDEX_BYTES);
    if (index !== undefined && tree !== undefined) return { kind, ...(await findShards(folder, index, tree, suffix)) };
  }
  throw await noTensors(folder);
}

async function findShards(
  folder: Folder,
  index: string,
  tree: JsonTree,
  suffix: RegExp,
): Promise<{ readonly paths: readonly string[]; readonly index: WeightIndex }> {
  const map = isObject(tree) ? tree.get('weight_map') : undefined;
  const fail = (problem: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${join(folder.path, index)}: ${problem}`, { hint: 'Fetch the file again.' });
  if (!isObject(map)) throw fail('no weight_map');
  const weightMap = new Map<string, string>();
  for (const [tensor, file] of map) {
    if (typeof file !== 'string') throw fail(`the file of tensor ${quote(tensor)} is not a string`);
    if (!suffix.test(file)) throw fail(`tensor ${quote(tensor)} is in ${quote(file)}, which is no ${index.split('.')[1]} file`);
    weightMap.set(tensor, file);
  }
  const paths: string[] = [];
  for (const file of [...new Set(weightMap.values())].sort()) {
    const path = await resolveInside(folder, file, index);
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
      if (listed === undefined) throw fail(`${basename(path)} has the tensor ${quote(name)}, which ${index} does not list`, name);
      if (!samePath(listed, path)) throw fail(`${index} says that ${quote(name)} is in ${listed}, but it is in ${basename(path)}`, name);
      seen.add(name);
    }
  }
  for (const [name, file] of weightMap) {
    if (!seen.has(name)) throw fail(`${index} says that ${quote(name)} is in ${file}, but it is not there`, name);
  }
}

function samePath(listed: string, path: string): boolean {
  return path.endsWith(sep + listed.split(/[/\\]/).join(sep));
}

async function noTensors(folder: Folder): Promise<LowbitError> {
  const names = await guarded('open', folder.path, () => readdir(folder.path));
  const other = names.filter((name) => /\.(?:bin|pt|pth|gguf|h5|msgpack|ckpt|onnx|safetensors)$/.test(name)).slice(0, 3);
  const hint = other.some((name) => name.endsWith('.safetensors'))
    ? 'Name the file model.safetensors, or add the model.safetensors.index.json that belongs to the shards.'
    : other.some((name) => name.endsWith('.gguf'))
      ? 'Use the safetensors version of the model; GGUF files are not read.'
      : other.length > 0
        ? 'Save the model as safetensors (in Python: `model.save_pretrained(folder, safe_serialization=True)`). Of PyTorch files, pytorch_model.bin and qmodel.pt are read.'
        : 'Download the weights, too: *.safetensors and the index if there is one.';
  const there = other.length > 0 ? ` (there is ${other.join(', ')})` : '';
  return new LowbitError('ERR_NOT_FOUND', `${folder.path} has no model.safetensors and no ${INDEX}${there}`, {
    hint,
    details: { folder: folder.path, found: other },
  });
}
