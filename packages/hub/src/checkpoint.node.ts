// A checkpoint folder on disk.

import { createHash } from 'node:crypto';
import { basename, dirname } from 'node:path';
import { LowbitError, type StoredLinear, type WeightOrigin } from '@lowbit/core';
import { type OpenCheckpointOptions, openModelFolder, type StoredCheckpoint } from './checkpoint.ts';
import { modelFolder, openFolder } from './folder.node.ts';
import type { ModelFolder } from './folder.ts';
import { ggufFolder, isGguf } from './gguf/folder.ts';
import { statIfThere } from './io.node.ts';
import type { FileSource } from './reading.ts';

export interface FolderCheckpoint extends StoredCheckpoint {
  /** Absolute path. */
  readonly folder: string;
}

/**
 * Opens a model folder, one file of weights (`*.safetensors`) with the config.json beside it, or a `*.gguf` file, which needs nothing beside it. Reads config.json and headers, never weights. `file('config.json')` gives the bytes of the config, too.
 * Throws ERR_NOT_FOUND (no folder, no config.json, no weights, a missing shard), ERR_BAD_CHECKPOINT, ERR_BAD_SAFETENSORS, ERR_BAD_PICKLE,
 * ERR_TENSOR_MISMATCH (a quantized layer that does not fit together), and ERR_UNSUPPORTED_FORMAT for a quantization that nothing here reads; for
 * GGUF files what `ggufFolder` throws.
 */
export async function openCheckpoint(dir: string, options: OpenCheckpointOptions = {}): Promise<FolderCheckpoint> {
  if (typeof dir !== 'string' || dir === '') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'openCheckpoint needs the path of a model folder', {
      hint: "Pass a text such as './model'.",
    });
  }
  const file = await weightsFile(dir);
  const folder = await openFolder(file === undefined ? dir : dirname(dir));
  const origin = (source: FileSource, path: string, stored: StoredLinear | undefined) => linearOrigin(folder.path, source, path, stored);
  const files = modelFolder(folder);
  const of = file === undefined ? files : await singleFile(files, file, options.signal);
  return { ...(await openModelFolder(of, options, origin)), folder: folder.path };
}

/** The name of a file of weights that was given in place of its folder. */
async function weightsFile(path: string): Promise<string | undefined> {
  if (!path.endsWith('.safetensors') && !isGguf(path)) return undefined;
  const info = await statIfThere(path);
  return info?.isFile() ? basename(path) : undefined;
}

/** The folder as if that file were all of its weights. */
async function singleFile(files: ModelFolder, file: string, signal: AbortSignal | undefined): Promise<ModelFolder> {
  if (isGguf(file)) return ggufFolder(files, file, { signal });
  return { ...files, resolve: (name, from) => files.resolve(name === 'model.safetensors' ? file : name, from) };
}

/** Another one when anything changes that the numbers of a linear are read from: its files, or which of their tensors it takes and how. */
function linearOrigin(folder: string, source: FileSource, path: string, stored: StoredLinear | undefined): WeightOrigin | undefined {
  if (source.state === undefined) return undefined;
  const constants = Object.entries(stored?.constants ?? {}).map(([part, { data }]) => [part, Buffer.from(data).toString('base64')]);
  return {
    label: folder,
    model: digest(source.state),
    weight: `${path} ${digest(JSON.stringify([stored?.parts ?? 'as it is', constants]))}`,
  };
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
