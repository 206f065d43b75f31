// Where a model comes from, as a checkpoint.

import {
  type BrowserStore,
  directoryFolder,
  filesFolder,
  type ModelFolder,
  openBrowserStore,
  openCheckpoint,
  type StoredCheckpoint,
  urlFolder,
} from '@lowbit/hub';
import type { Source } from '../protocol.ts';

let store: Promise<BrowserStore> | undefined;

export function openStore(): Promise<BrowserStore> {
  store ??= openBrowserStore({ name: 'lowbit-playground' });
  store.catch(() => {
    store = undefined; // the user may allow storage and try again
  });
  return store;
}

async function folderOf(source: Source): Promise<ModelFolder> {
  switch (source.kind) {
    case 'example': {
      // The worker's script lies in assets/ beside models/ in a build, in src/ on the development server.
      const root = new URL(import.meta.env.DEV ? '/models/tiny-llama/' : '../models/tiny-llama/', import.meta.url);
      const files = await (await fetch(new URL('files.json', root))).json();
      return urlFolder(root, { files });
    }
    case 'files':
      return filesFolder(source.files);
    case 'directory':
      return directoryFolder(source.handle);
    case 'saved':
      return (await openStore()).folder(source.name);
  }
}

export function labelOf(source: Source, checkpoint: StoredCheckpoint): string {
  return source.kind === 'example' ? 'tiny-llama' : checkpoint.label;
}

export async function openSource(source: Source, signal: AbortSignal): Promise<StoredCheckpoint> {
  return openCheckpoint(await folderOf(source), { signal });
}
