// Which files of a model are downloaded.

import { findWeights, insideParts, type ModelFolder } from '../folder.ts';
import { noGguf } from '../gguf/folder.ts';
import { isCarried, isLicence } from '../model-files.ts';
import type { RemoteEntry, RemoteListing } from './listing.ts';

/** Which files of a model are downloaded. */
export interface SelectOptions {
  /** Patterns of Python's fnmatch; in place of what a model needs. */
  readonly allow?: readonly string[] | undefined;
  /** Patterns of what is left out. */
  readonly ignore?: readonly string[] | undefined;
}

/**
 * What a model needs: its config, tokenizer and settings, licence, and the tensors in the best form there is, safetensors or else pickles that are read as
 * data. Throws ERR_BAD_CHECKPOINT for names that lead out of the folder, ERR_NOT_FOUND as `openCheckpoint` if there are no tensors or a shard is missing.
 */
export async function selectFiles(
  listing: RemoteListing,
  folder: ModelFolder,
  { allow, ignore = [], file }: SelectOptions & { readonly file?: string | undefined },
): Promise<readonly RemoteEntry[]> {
  const wanted =
    allow === undefined ? await neededFiles(listing, folder, file) : [...listing.entries.keys()].filter((path) => matches(path, allow));
  const chosen = wanted.filter((path) => !matches(path, ignore));
  for (const path of chosen) insideParts(folder.path, path, folder.path);
  return chosen.map((path) => listing.entries.get(path)!);
}

async function neededFiles({ entries }: RemoteListing, folder: ModelFolder, file: string | undefined): Promise<string[]> {
  if (file !== undefined) {
    if (!entries.has(file)) throw await noGguf(folder, file);
    return [...[...entries.keys()].filter((path) => !path.includes('/') && isLicence(path)), file];
  }
  const { paths, index } = await findWeights(folder);
  const small = [...entries.keys()].filter((path) => path === 'config.json' || (!path.includes('/') && isCarried(path)));
  return [...small, ...(index === undefined ? [] : [index.name]), ...paths];
}

function matches(path: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => fnmatch(path, pattern));
}

/** Python's fnmatch: `*` and `?` match `/`, too; `[...]` and `[!...]`. A pattern that ends in `/` matches all below. */
function fnmatch(path: string, pattern: string): boolean {
  const source = (pattern.endsWith('/') ? `${pattern}*` : pattern).replace(
    /\*+|\?|\[(!?)([^\]]+)\]|[.+^${}()|[\]\\]/g,
    (piece, not: string | undefined, set: string | undefined) => {
      if (piece.startsWith('*')) return '.*';
      if (piece === '?') return '.';
      return set === undefined ? `\\${piece}` : `[${not ? '^' : ''}${set.replace(/[\\\]^]/g, '\\$&')}]`;
    },
  );
  return new RegExp(`^${source}$`, 's').test(path);
}
