// What a hub says of a model: the commit that a revision means, and the files of that commit with their sizes and the digests of their contents.
// Answers are checked before anything is done with them: names become paths, digests become file names.

import { LowbitError, quote } from '@lowbit/core';
import type { Answer, HubClient } from './client.ts';
import { isRecord, readJson } from './json.ts';
import { isCommit, type RepoName } from './repo.ts';

/** A file of a commit. */
export interface RemoteEntry {
  /** With `/` between folders. */
  readonly path: string;
  readonly size: number;
  /** SHA-256 of its content (64 hexadecimal digits), or the name that git gives to it (40): SHA-1 of `blob SIZE\0` and the content. */
  readonly etag: string;
}

/** A model at a commit. */
export interface RemoteListing {
  readonly name: string;
  /** As it was asked for. */
  readonly revision: string;
  readonly commit: string;
  readonly entries: ReadonlyMap<string, RemoteEntry>;
  readonly gated: boolean;
  readonly private: boolean;
  /** Of its model card, where it says so. */
  readonly license: string | undefined;
  readonly pipelineTag: string | undefined;
}

const MAX_ENTRIES = 100_000;
/** The Hub's own pages have 1000 entries. */
const MAX_PAGES = 1000;
const DIGEST = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;

/** Asks for the listing of a model. Throws what `HubClient.get` throws, and ERR_BAD_CHECKPOINT for an answer that is none. */
export async function listModel(
  client: HubClient,
  { name, revision }: RepoName,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<RemoteListing> {
  const api = `${client.endpoint}/api/models/${name}`;
  const ask = async (url: string): Promise<[value: unknown, answer: Answer]> => {
    const answer = await client.get(url, { repo: name, signal });
    return [await readJson(answer), answer];
  };
  const [info] = await ask(`${api}/revision/${encodeURIComponent(revision)}`);
  const fail = (problem: string): never => {
    throw new LowbitError('ERR_BAD_CHECKPOINT', `what ${client.endpoint} says of ${name}: ${problem}`, {
      hint: 'Check HF_ENDPOINT.',
      details: { repo: name },
    });
  };
  if (!isRecord(info) || typeof info.sha !== 'string' || !isCommit(info.sha)) return fail('no commit');
  const entries = new Map<string, RemoteEntry>();
  let pages = 0;
  let items = 0;
  for (let next: string | undefined = `${api}/tree/${info.sha}?recursive=true&expand=false`; next !== undefined; ) {
    const [page, answer]: [unknown, Answer] = await ask(next);
    if (!Array.isArray(page)) return fail('no list of files');
    items += page.length;
    if (items > MAX_ENTRIES) return fail(`more than ${MAX_ENTRIES} files and folders`);
    for (const item of page as unknown[]) {
      if (!isRecord(item) || item.type !== 'file') continue;
      const { path, lfs } = item;
      const { oid, size } = isRecord(lfs) ? lfs : item;
      if (typeof path !== 'string' || path.length > 1024) return fail('a file without a name');
      if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return fail(`${quote(path)} has no size`);
      if (typeof oid !== 'string' || !DIGEST.test(oid)) return fail(`${quote(path)} has no digest`);
      entries.set(path, { path, size, etag: oid });
    }
    const following: string | undefined = nextPage(answer.response.headers.get('link'));
    if (following !== undefined && ++pages >= MAX_PAGES) return fail(`a list of more than ${MAX_PAGES} pages`);
    if (following !== undefined && new URL(following, next).origin !== new URL(client.endpoint).origin)
      return fail('its list goes on elsewhere');
    next = following === undefined ? undefined : new URL(following, next).href;
  }
  const card = isRecord(info.cardData) ? info.cardData : {};
  return {
    name,
    revision,
    commit: info.sha,
    entries,
    gated: info.gated !== undefined && info.gated !== false,
    private: info.private === true,
    license: typeof card.license === 'string' ? card.license : undefined,
    pipelineTag: typeof info.pipeline_tag === 'string' ? info.pipeline_tag : undefined,
  };
}

/** The address of `rel="next"` in a Link header. */
function nextPage(link: string | null): string | undefined {
  return link === null ? undefined : /<([^<>]{1,4096})>\s*;\s*rel="?next"?/.exec(link)?.[1];
}
