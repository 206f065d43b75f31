// Models in a browser's storage. A model NAME is a folder `NAME@1` that holds the file `.whole`, which is made last: a tab that is closed in mid-save
// leaves a folder without it, which is never listed as a model and which the same job can go on with. A replacement is `NAME@2`: the highest whole one
// counts, others are removed when nobody reads them.

import { LowbitError, quote } from '@lowbit/core';
import type { ModelFolder } from '../folder.ts';
import { JOURNAL_FILE } from '../safetensors/journal.ts';
import { blobFolder } from './blob-folder.ts';
import { cacheRoot } from './cache-storage.ts';
import { browser } from './dom.ts';
import { guarded } from './io.ts';
import { type TabLock, tryLock } from './locks.ts';
import { isWritable, opfsRoot } from './opfs.ts';
import type { StorageFolder, StorageRoot } from './storage.ts';

/** Made last: a folder with it is a whole model. */
export const WHOLE_FILE = '.whole';

/** Of `openBrowserStore`. */
export interface BrowserStoreOptions {
  /** Stores of other names know nothing of each other. Letters, digits, `-`. Default `lowbit`. */
  readonly name?: string;
  /** Default: the private file system (`opfs`), or the Cache API where that cannot be written. */
  readonly kind?: 'opfs' | 'cache';
}

/** A saved model, or what is left of an interrupted run. */
export interface StoredModel {
  readonly name: string;
  /** `unfinished`: what an interrupted run has left, for the same job to go on with. */
  readonly state: 'whole' | 'unfinished';
  /** Of all its files. */
  readonly bytes: number;
}

/** A model of the store, to be read. While it is open no tab can remove it. */
export interface StoredFolder extends ModelFolder {
  [Symbol.asyncDispose](): Promise<void>;
}

/** Models that are saved in this browser. */
export interface BrowserStore {
  readonly name: string;
  readonly kind: 'opfs' | 'cache';
  models(): Promise<readonly StoredModel[]>;
  /** Opens a whole model. Throws ERR_NOT_FOUND. Dispose it, or the checkpoint that is opened from it. */
  folder(name: string): Promise<StoredFolder>;
  /** Removes a model and what is unfinished of it, or that only. Throws ERR_IO while a tab reads or writes it, ERR_NOT_FOUND. */
  remove(name: string, options?: { readonly only?: 'unfinished' | undefined }): Promise<void>;
  /** Bytes that the browser says this site may still store, and that it stores; undefined where it does not say. */
  space(): Promise<{ readonly free: number; readonly used: number } | undefined>;
  /** Asks the browser not to clear this site's storage by itself; false if it refuses. */
  persist(): Promise<boolean>;
}

/** One folder of a model. */
export interface Version {
  /** `NAME@NUMBER`. */
  readonly folder: string;
  readonly number: number;
  readonly whole: boolean;
}

/** What the sink needs of a store beside its public side. */
export interface StoreInside extends BrowserStore {
  readonly root: StorageRoot;
  versions(name: string): Promise<readonly Version[]>;
  /** Removes a folder unless it is being read. */
  removeVersion(version: Version): Promise<boolean>;
  lockForWriting(name: string): Promise<TabLock | undefined>;
}

/**
 * Opens the models of this site. In a window private files are copied whenever they are changed: open the store in a worker for large models.
 * Throws ERR_IO where the browser gives the page no storage.
 */
export async function openBrowserStore({ name = 'lowbit', kind }: BrowserStoreOptions = {}): Promise<BrowserStore> {
  if (!/^[A-Za-z0-9-]{1,50}$/.test(name)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `a store cannot be called ${quote(name)}`, {
      hint: 'Use 1 to 50 letters, digits and dashes.',
      details: { name },
    });
  }
  return createStore(name, await openRoot(name, kind));
}

async function openRoot(name: string, kind: BrowserStoreOptions['kind']): Promise<StorageRoot> {
  const { navigator, caches } = browser;
  let cause: unknown;
  if (kind !== 'cache' && navigator?.storage?.getDirectory) {
    try {
      const origin = await navigator.storage.getDirectory();
      const directory = await origin.getDirectoryHandle(`${name}-models`, { create: true });
      if (kind === 'opfs' || (await isWritable(directory))) return opfsRoot(directory);
    } catch (error) {
      cause = error; // private windows of some browsers
    }
  }
  if (kind !== 'opfs' && caches) {
    try {
      return cacheRoot(await caches.open(`${name}-models`));
    } catch (error) {
      cause ??= error;
    }
  }
  throw new LowbitError('ERR_IO', 'this page has no storage for models', {
    hint: 'Open it over https or localhost, outside of a private window, and allow its data.',
    cause,
  });
}

/** Throws ERR_BAD_ARGUMENT for what cannot name a model in a store. */
export function checkModelName(name: string): void {
  if (/^[A-Za-z0-9][\w.-]{0,99}$/.test(name)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `a stored model cannot be called ${quote(name)}`, {
    hint: 'Use at most 100 letters, digits, dots, dashes and underscores, and begin with a letter or digit.',
    details: { name },
  });
}

function createStore(store: string, root: StorageRoot): StoreInside {
  const writeLock = (name: string) => `lowbit/${store}/${root.kind}/write/${name}`;
  const readLock = (folder: string) => `lowbit/${store}/${root.kind}/read/${folder}`;

  async function allVersions(): Promise<(Version & { readonly name: string; readonly files: readonly string[] })[]> {
    const found = [];
    for (const folder of await root.folders()) {
      const [, name, number] = /^(.+)@(\d+)$/.exec(folder) ?? [];
      if (name === undefined || number === undefined) continue;
      const files = await root.folder(folder).names();
      found.push({ name, folder, number: Number(number), whole: files.includes(WHOLE_FILE), files });
    }
    return found.sort((a, b) => a.number - b.number);
  }
  const versions = async (name: string) => (await allVersions()).filter((version) => version.name === name);

  async function models(): Promise<readonly StoredModel[]> {
    const list = new Map<string, StoredModel>();
    for (const { name, folder, whole, files } of await allVersions()) {
      // Without a journal it is what is left of a removal.
      if (!whole && !files.includes(JOURNAL_FILE)) continue;
      const state = whole ? 'whole' : 'unfinished';
      list.set(`${name}/${state}`, { name, state, bytes: await folderBytes(root.folder(folder)) });
    }
    return [...list.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }

  async function folder(name: string): Promise<StoredFolder> {
    checkModelName(name);
    // Again when it was replaced between looking and locking.
    for (let attempt = 0; attempt < 3; attempt++) {
      const version = (await versions(name)).findLast(({ whole }) => whole);
      if (version === undefined) break;
      const lock = await tryLock(readLock(version.folder), 'shared');
      if (lock === undefined) continue;
      const files = root.folder(version.folder);
      let names: readonly string[] = [];
      try {
        names = await files.names();
      } finally {
        if (!names.includes(WHOLE_FILE)) await lock.release();
      }
      if (!names.includes(WHOLE_FILE)) continue;
      const opened = blobFolder(
        name,
        async () => names,
        async (parts) => (parts.length === 1 ? files.blob(parts[0]!) : undefined),
      );
      return { ...opened, [Symbol.asyncDispose]: () => lock.release() };
    }
    throw new LowbitError('ERR_NOT_FOUND', `no model ${quote(name)} is saved in this browser`, { details: { name } });
  }

  async function removeVersion({ folder, whole }: Version): Promise<boolean> {
    const lock = await tryLock(readLock(folder), 'exclusive');
    if (lock === undefined) return false;
    try {
      // From here on it is no model any more, whatever happens.
      if (whole) await root.folder(folder).remove(WHOLE_FILE);
      await root.removeFolder(folder);
      return true;
    } finally {
      await lock.release();
    }
  }

  async function remove(name: string, { only }: { readonly only?: 'unfinished' | undefined } = {}): Promise<void> {
    checkModelName(name);
    const busy = (what: string) =>
      new LowbitError('ERR_IO', `cannot remove ${name}: it is being ${what}, here or in another tab`, {
        hint: 'Close the model there and try again.',
        details: { name },
      });
    const lock = await tryLock(writeLock(name), 'exclusive');
    if (lock === undefined) throw busy('written');
    try {
      const found = (await versions(name)).filter(({ whole }) => only === undefined || !whole);
      if (found.length === 0)
        throw new LowbitError('ERR_NOT_FOUND', `no model ${quote(name)} is saved in this browser`, { details: { name } });
      for (const version of found) if (!(await guarded('remove', name, () => removeVersion(version)))) throw busy('read');
    } finally {
      await lock.release();
    }
  }

  return {
    name: store,
    kind: root.kind,
    root,
    models: () => guarded('list', 'the saved models', models),
    folder: (name) => guarded('open', name, () => folder(name)),
    remove,
    async space() {
      const { usage, quota } = (await browser.navigator?.storage?.estimate?.()) ?? {};
      return usage === undefined || quota === undefined ? undefined : { free: Math.max(0, quota - usage), used: usage };
    },
    persist: async () => (await browser.navigator?.storage?.persist?.()) ?? false,
    versions,
    removeVersion,
    lockForWriting: (name) => tryLock(writeLock(name), 'exclusive'),
  };
}

async function folderBytes(folder: StorageFolder): Promise<number> {
  let sum = 0;
  for (const name of await folder.names()) sum += (await folder.blob(name))?.size ?? 0;
  return sum;
}
