// The cache of the Hugging Face libraries, as huggingface_hub keeps it: contents once, under their digests, in `blobs`; a folder for each commit in
// `snapshots`, of relative links to them; and in `refs` the commit that a branch or tag meant the last time.

import { lstat, mkdir, readdir, readFile, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, sep } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { errnoOf, guarded } from '../io.node.ts';
import { isCommit, parseRepoName, type RepoName, readRepoName } from './repo.ts';

/** Places of a model in the cache. */
export interface CachePlaces {
  /** `models--ORG--NAME`. */
  readonly repo: string;
  readonly blobs: string;
  readonly locks: string;
  snapshot(commit: string): string;
  ref(revision: string): string;
}

export function cachePlaces(cacheDir: string, name: string): CachePlaces {
  const folder = `models--${name.replaceAll('/', '--')}`;
  const repo = join(cacheDir, folder);
  return {
    repo,
    blobs: join(repo, 'blobs'),
    locks: join(cacheDir, '.locks', folder),
    snapshot: (commit) => join(repo, 'snapshots', commit),
    ref: (revision) => join(repo, 'refs', ...revision.split('/')),
  };
}

/** The commit that a revision meant when it was last asked for; undefined if it never was. */
async function cachedCommit(cacheDir: string, { name, revision }: RepoName): Promise<string | undefined> {
  if (isCommit(revision)) return revision;
  const text = await readIfThere(cachePlaces(cacheDir, name).ref(revision));
  const commit = text?.trim();
  return commit !== undefined && isCommit(commit) ? commit : undefined;
}

/** Notes the commit that a revision means, for offline use. */
export async function writeRef(cacheDir: string, { name, revision }: RepoName, commit: string): Promise<void> {
  if (isCommit(revision)) return;
  const path = cachePlaces(cacheDir, name).ref(revision);
  await guarded('write', path, async () => {
    if ((await readIfThere(path)) === commit) return;
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, commit);
  });
}

/**
 * The folder of a model in the cache, without asking anybody. Throws ERR_OFFLINE_MISS if it is not there.
 */
export async function cachedSnapshot(cacheDir: string, repo: RepoName): Promise<string> {
  const commit = await cachedCommit(cacheDir, repo);
  const path = commit === undefined ? undefined : cachePlaces(cacheDir, repo.name).snapshot(commit);
  if (path !== undefined && (await isFolder(path))) return path;
  throw new LowbitError(
    'ERR_OFFLINE_MISS',
    `${repo.name}@${repo.revision} is not in the cache ${cacheDir}, and HF_HUB_OFFLINE allows no connection`,
    {
      hint: `Unset HF_HUB_OFFLINE, or fetch it where there is a connection (\`lowbit pull ${repo.name}\`) and copy the cache.`,
      details: { ...repo, cacheDir },
    },
  );
}

/** A model in the cache. */
export interface CachedRepo {
  /** `org/name`. */
  readonly name: string;
  readonly path: string;
  /** Of all contents, unfinished ones among them. */
  readonly bytes: number;
  /** Of unfinished downloads. */
  readonly unfinished: number;
  readonly commits: readonly string[];
  /** Branches and tags. */
  readonly refs: readonly string[];
  readonly lastUsed: Date;
}

/** Models in the cache, by name. Those of datasets and spaces are not listed. An absent cache is an empty one. */
export async function listHubCache(cacheDir: string): Promise<readonly CachedRepo[]> {
  const repos: CachedRepo[] = [];
  for (const folder of await namesOf(cacheDir)) {
    const name = /^models--([^-].*?)--(.+)$/.exec(folder)?.slice(1).join('/');
    const path = join(cacheDir, folder);
    if (name === undefined || readRepoName(name) === undefined || !(await isFolder(path))) continue;
    repos.push(await describe(name, path));
  }
  return repos.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function describe(name: string, path: string): Promise<CachedRepo> {
  let bytes = 0;
  let unfinished = 0;
  let lastUsed = 0;
  // Without links there are files in the snapshots themselves. What programs note beside is not counted.
  for (const file of [...(await filesBelow(join(path, 'blobs'))), ...(await filesBelow(join(path, 'snapshots')))]) {
    const info = await lstat(file).catch(() => undefined); // others use the cache, too
    if (info === undefined || !info.isFile()) continue;
    bytes += info.size;
    if (file.endsWith('.incomplete')) unfinished += info.size;
    lastUsed = Math.max(lastUsed, info.atimeMs, info.mtimeMs);
  }
  const refs = join(path, 'refs');
  return {
    name,
    path,
    bytes,
    unfinished,
    commits: (await namesOf(join(path, 'snapshots'))).filter(isCommit),
    refs: (await filesBelow(refs)).map((file) => file.slice(refs.length + 1).replaceAll(sep, '/')).sort(),
    lastUsed: new Date(lastUsed),
  };
}

/** Removes a model from the cache, contents and all. Throws ERR_NOT_FOUND if it is not there. */
export async function removeFromHubCache(cacheDir: string, name: string): Promise<CachedRepo> {
  const repo = parseRepoName(name);
  const { repo: path, locks } = cachePlaces(cacheDir, repo.name);
  // A link in its place would lead elsewhere.
  if (!(await isFolder(path)) || (await guarded('open', path, () => lstat(path))).isSymbolicLink()) {
    throw new LowbitError('ERR_NOT_FOUND', `${repo.name} is not in the cache ${cacheDir}`, {
      hint: '`lowbit cache ls` lists what there is.',
      details: { name: repo.name, cacheDir },
    });
  }
  const facts = await describe(repo.name, path);
  await guarded('remove', path, () => rm(path, { recursive: true, force: true }));
  await rm(locks, { recursive: true, force: true });
  return facts;
}

/** The model, revision and commit of a folder that is a snapshot of a cache; undefined for any other. */
export async function snapshotOf(folder: string): Promise<{ readonly name: string; readonly commit: string } | undefined> {
  const path = await realpath(folder).catch(() => folder);
  const found = /[\\/]models--([^\\/]+?)--([^\\/]+)[\\/]snapshots[\\/]([0-9a-f]{40})$/.exec(path);
  return found === null ? undefined : { name: `${found[1]}/${found[2]}`, commit: found[3]! };
}

async function filesBelow(folder: string): Promise<string[]> {
  const files: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) files.push(...(await filesBelow(path)));
    else files.push(path);
  }
  return files;
}

async function namesOf(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    return guarded('open', folder, () => Promise.reject(error));
  }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (info) => info.isDirectory(),
    () => false,
  );
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    return guarded('read', path, () => Promise.reject(error));
  }
}
