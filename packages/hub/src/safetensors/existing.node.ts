// What is where an output folder is to be, and whether it may be replaced.

import { lstat, readdir } from 'node:fs/promises';
import { parse } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { errnoOf, guarded } from '../io.node.ts';
import { isModelFile } from '../model-files.ts';

/** False only if there is nothing of that name. Throws ERR_IO. */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    return guarded('open', path, () => Promise.reject(error));
  }
}

/** Throws ERR_OUTPUT_EXISTS if there is something at `folder` that must stay. */
export async function checkOutput(folder: string, { overwrite }: { readonly overwrite: boolean }): Promise<void> {
  if (parse(folder).root === folder) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${folder} cannot be an output folder`, { hint: 'Name a new folder.' });
  }
  if (!(await exists(folder))) return;
  const refuse = (problem: string, hint: string) =>
    new LowbitError('ERR_OUTPUT_EXISTS', `${folder} ${problem}`, { hint, details: { path: folder } });
  if (!overwrite) throw refuse('exists', 'Choose another output folder, or pass --overwrite (overwrite: true) to replace it.');
  const info = await guarded('open', folder, () => lstat(folder));
  const entries = info.isDirectory() ? await guarded('open', folder, () => readdir(folder, { withFileTypes: true })) : undefined;
  // A slip of the keyboard must not replace a home folder or a project.
  const stranger = entries?.find((entry) => !entry.isFile() || !isModelFile(entry.name));
  const names = entries?.map((entry) => entry.name) ?? [];
  const whole = names.length === 0 || (names.includes('config.json') && names.some((name) => name.endsWith('.safetensors')));
  if (entries === undefined || stranger !== undefined || !whole) {
    const problem =
      entries === undefined
        ? 'is no folder'
        : stranger === undefined
          ? 'holds no whole model'
          : `holds ${stranger.name}, which is not of a model`;
    throw refuse(`${problem}: it is not replaced`, 'Choose another output folder, or remove it yourself.');
  }
}
