// Model folders on disk as outputs of a plan.

import { realpath, stat } from 'node:fs/promises';
import { basename, resolve, sep } from 'node:path';
import { LowbitError } from '@lowbit/core';
import type { FolderCheckpoint } from './checkpoint.node.ts';
import type { RemoteCheckpoint } from './remote/checkpoint.ts';
import { exists } from './safetensors/existing.node.ts';
import { checkFree } from './safetensors/partial.node.ts';
import { createSafetensorsSink } from './safetensors/sink.node.ts';
import type { ModelOutput, WriteModelOptions } from './write-model.ts';

/** Throws ERR_BAD_ARGUMENT unless `out` is the path of a folder. */
export function checkOut(call: string, out: unknown): void {
  if (typeof out === 'string' && out !== '') return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs the folder to write`, {
    hint: "Pass { out: './new-folder', ... }.",
    details: { option: 'out' },
  });
}

/** The folder `out`, for a model that is read from a folder on disk, or from a hub. */
export function folderOutput(checkpoint: FolderCheckpoint | RemoteCheckpoint, out: string): ModelOutput {
  const { files, state } = checkpoint.source;
  return {
    sourceFiles: async () =>
      'remote' in checkpoint
        ? state! // digests of contents
        : Promise.all(files.map(async ({ path, size }) => [basename(path), size, Math.floor((await stat(path)).mtimeMs)])),
    open: (options) => createSafetensorsSink(out, options),
  };
}

/**
 * Whether a model may be written to `out`, said before long work that is to be written there: throws ERR_OUTPUT_EXISTS for a folder, or the work of an
 * interrupted run, that neither `resume` nor `overwrite` allows for, ERR_BAD_ARGUMENT (also where it is `source`, if that is a path), ERR_IO. Whoever writes finds out again.
 */
export async function checkOutputFree(
  out: string,
  options: Pick<WriteModelOptions, 'resume' | 'overwrite'> & { readonly source?: string } = {},
): Promise<void> {
  checkOut('checkOutputFree', out);
  const { source } = options;
  if (source !== undefined && (await exists(source))) await assertApart(source, out);
  const folder = resolve(out);
  await checkFree(folder, `${folder}.partial`, options);
}

/** Throws ERR_BAD_ARGUMENT if the output would take the place of the source, by whatever name. */
export async function assertApart(source: string, out: string): Promise<void> {
  const [from, to] = [await realpath(source), await realpath(out).catch(() => resolve(out))];
  if (from !== to && !from.startsWith(to + sep)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `the output ${out} ${from === to ? 'is' : 'holds'} the source ${source}`, {
    hint: 'Choose a folder apart from the source.',
    details: { out: to, source: from },
  });
}
