// Old output folders that `overwrite` puts aside, as `.NAME.replaced-PID` beside the new one, for the moment in which the new one takes their name. A
// run that is killed there leaves them. Whoever holds the lock of the output knows that all of them are left over: their runs held it, too.

import { lstat, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { guarded } from '../io.node.ts';

/** Where this process puts the old folder of that name. */
export function asidePath(folder: string): string {
  return `${dirname(folder)}/${prefixOf(folder)}${process.pid}`;
}

/** Removes every folder that was put aside. Only under the lock, and while there is something at `folder`. */
export async function removeReplaced(folder: string): Promise<void> {
  for (const path of await replacedOf(folder)) await guarded('remove', path, () => rm(path, { recursive: true, force: true }));
}

/** Gives the newest folder that was put aside its name back, if there is one. Only under the lock, and while there is nothing at `folder`. */
export async function restoreReplaced(folder: string): Promise<void> {
  const times = await Promise.all((await replacedOf(folder)).map(async (path) => ({ path, at: (await lstat(path)).ctimeMs })));
  const newest = times.sort((a, b) => b.at - a.at)[0];
  if (newest !== undefined) await guarded('write', folder, () => rename(newest.path, folder));
}

async function replacedOf(folder: string): Promise<readonly string[]> {
  const [parent, prefix] = [dirname(folder), prefixOf(folder)];
  const entries = await guarded('open', parent, () => readdir(parent, { withFileTypes: true }));
  return entries
    .filter((entry) => entry.isDirectory() && entry.name.startsWith(prefix) && /^\d+$/.test(entry.name.slice(prefix.length)))
    .map(({ name }) => join(parent, name));
}

function prefixOf(folder: string): string {
  return `.${basename(folder)}.replaced-`;
}
