// A finished model folder to a hub. Creating repositories, Git LFS, parts of large files and Xet are `@huggingface/hub`'s; what a folder holds, the model
// card, whom the token is told, patience and progress are ours.

import { readFile, stat } from 'node:fs/promises';
import { basename, join, relative, sep } from 'node:path';
import { type CallOptions, checkOptionNames, isLowbitError, LowbitError } from '@lowbit/core';
import { openCheckpoint } from '../checkpoint.node.ts';
import type { OpenCheckpointOptions } from '../checkpoint.ts';
import { guarded, statIfThere } from '../io.node.ts';
import { isCarried } from '../model-files.ts';
import { JOURNAL_FILE } from '../safetensors/journal.ts';
import { type CardFacts, modelCard } from './card.ts';
import { wait } from './client.ts';
import { CountedFile } from './counted-file.node.ts';
import { placeOf, unreachable } from './errors.ts';
import { parseRepoName } from './repo.ts';
import { type HubSettings, hubSettings } from './settings.node.ts';

/** `layouts` and `codecs`: for a folder of a method of third parties, which is opened to see that it is whole. */
export interface PushOptions extends CallOptions, Pick<OpenCheckpointOptions, 'layouts' | 'codecs'> {
  /** `org/name`; it is created if it is not there. */
  readonly to: string;
  /** Of a new repository; default: as the account says. */
  readonly private?: boolean | undefined;
  /** For the model card, where the folder has no README.md. */
  readonly card?: Partial<CardFacts> | undefined;
  readonly message?: string | undefined;
  readonly settings?: HubSettings | undefined;
  readonly fetch?: typeof fetch | undefined;
}

const OPTIONS = Object.keys({
  ...{ to: true, private: true, card: true, message: true, settings: true, fetch: true, layouts: true, codecs: true },
  ...{ signal: true, onProgress: true },
} satisfies Record<keyof PushOptions, true>);

/** What will be there. */
export interface PushPlan {
  readonly to: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** Text of README.md. */
  readonly card: string;
}

export interface Pushed extends PushPlan {
  readonly url: string;
  readonly commit: string;
}

/**
 * What `pushModel` would send; nothing is asked or sent. Throws what `openCheckpoint` throws, ERR_BAD_CHECKPOINT for a folder whose making was interrupted,
 * ERR_BAD_ARGUMENT for a name.
 */
export async function planPush(folder: string, options: PushOptions): Promise<PushPlan> {
  checkOptionNames('planPush', options, OPTIONS);
  const { name, revision } = parseRepoName(options.to);
  if (revision !== 'main')
    throw new LowbitError('ERR_BAD_ARGUMENT', `models are pushed to main, not to ${revision}`, { hint: `Name ${name}.` });
  await refuseUnfinished(folder);
  const { layouts, codecs, signal } = options;
  await using checkpoint = await openCheckpoint(folder, { signal, ...(layouts ? { layouts } : {}), ...(codecs ? { codecs } : {}) });
  const weights = checkpoint.source.files.map(({ path, size }) => ({
    name: relative(checkpoint.folder, path).replaceAll(sep, '/'),
    bytes: size,
  }));
  const file = async (name: string) => {
    const path = join(checkpoint.folder, name);
    return { name, bytes: (await guarded('read', path, () => stat(path))).size };
  };
  const config = await file('config.json');
  // Shards of PyTorch's own format have an index of another name.
  const kind = weights[0]?.name.endsWith('.safetensors') ? 'model.safetensors' : 'pytorch_model.bin';
  const index = weights.length > 1 ? [await file(`${kind}.index.json`)] : [];
  const carried = [...checkpoint.fileBytes].filter(([file]) => isCarried(file)).map(([file, bytes]) => ({ name: file, bytes }));
  const own = checkpoint.fileBytes.has('README.md')
    ? await guarded('read', folder, () => readFile(join(folder, 'README.md'), 'utf8'))
    : undefined;
  const facts = { layout: checkpoint.layout ?? 'safetensors', recipe: [], loadsIn: [], ...options.card };
  const card = own ?? modelCard(name.split('/')[1]!, facts);
  const readme = { name: 'README.md', bytes: new TextEncoder().encode(card).byteLength };
  return { to: name, card, files: [readme, config, ...weights, ...index, ...carried] };
}

/**
 * Pushes a model folder as one commit. Contents that the hub has already, those of an interrupted push among them, are not sent again.
 * @throws what `planPush` throws, ERR_ACCESS_DENIED (no token, or one that may not write), ERR_OFFLINE_MISS, ERR_NETWORK; abort throws the signal's reason
 */
export async function pushModel(folder: string, options: PushOptions): Promise<Pushed> {
  const { signal, onProgress } = options;
  const settings = options.settings ?? (await hubSettings());
  const plan = await planPush(folder, options);
  if (settings.offline) throw new LowbitError('ERR_OFFLINE_MISS', 'HF_HUB_OFFLINE allows no connection', { hint: 'Unset it to push.' });
  if (settings.token === undefined) {
    throw new LowbitError('ERR_ACCESS_DENIED', 'pushing needs a token, and none was found', {
      hint: `Make one that may write on ${settings.endpoint}/settings/tokens, and set HF_TOKEN or write it to ${settings.tokenFrom}.`,
    });
  }
  const library = await client();
  const total = 2 * plan.files.reduce((sum, { bytes }) => sum + bytes, 0); // each is read for its digest, and to be sent
  let done = 0;
  const operations = plan.files.map(({ name, bytes }) => ({
    operation: 'addOrUpdate' as const,
    path: name,
    content:
      name === 'README.md'
        ? new Blob([plan.card])
        : new CountedFile(join(folder, name), 0, bytes, (count) => {
            done = Math.min(total, done + count);
            onProgress?.({ phase: 'push', done, total, unit: 'bytes', item: name });
          }),
  }));
  const repo = { type: 'model' as const, name: plan.to };
  const common = { repo, hubUrl: settings.endpoint, fetch: patientFetch(settings, options) };
  try {
    await library
      .createRepo({
        ...common,
        accessToken: '',
        ...(options.private === undefined ? {} : { visibility: options.private ? 'private' : 'public' }),
      })
      .catch((error: unknown) => {
        if ((error as { statusCode?: unknown }).statusCode !== 409) throw error; // it is there
      });
    const output = await library.commit({
      ...common,
      operations,
      title: options.message ?? `Upload ${basename(plan.to)} with lowbit`,
      ...(signal === undefined ? {} : { abortSignal: signal }),
    });
    onProgress?.({ phase: 'push', done: total, total, unit: 'bytes' });
    return { ...plan, url: `${settings.endpoint}/${plan.to}`, commit: output?.commit.oid ?? '' };
  } catch (error) {
    signal?.throwIfAborted();
    throw asOurs(error, plan.to, settings);
  }
}

async function refuseUnfinished(folder: string): Promise<void> {
  const journal = await statIfThere(join(folder, JOURNAL_FILE));
  if (journal === undefined && !/\.partial[\\/]*$/.test(folder)) return;
  throw new LowbitError('ERR_BAD_CHECKPOINT', `${folder} is the unfinished work of an interrupted run`, {
    hint: 'Finish it: repeat the run with --resume, then push the folder that it makes.',
    details: { folder },
  });
}

async function client(): Promise<typeof import('@huggingface/hub')> {
  try {
    return await import('@huggingface/hub');
  } catch (cause) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'pushing needs the package @huggingface/hub, which is not installed', {
      hint: 'npm install @huggingface/hub (the package lowbit brings it along).',
      cause,
    });
  }
}

const ATTEMPTS = 6;
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

/** A fetch that tells the token to the hub alone, and tries again what may be repeated: everything but a commit and a new repository. */
function patientFetch({ endpoint, token }: HubSettings, { signal, fetch: given = globalThis.fetch }: PushOptions): typeof fetch {
  const { origin } = new URL(endpoint);
  return async (input, init = {}) => {
    const url = String(input instanceof Request ? input.url : input);
    const headers = new Headers(init.headers);
    if (new URL(url).origin === origin) headers.set('Authorization', `Bearer ${token}`);
    else if (headers.get('Authorization')?.includes(token!)) headers.delete('Authorization');
    const once = /\/(?:commit\/[^/]+|repos\/create)$/.test(placeOf(url));
    for (let attempt = 1; ; attempt++) {
      let problem: unknown;
      try {
        const response = await given(input, { ...init, headers, signal: init.signal ?? signal ?? null });
        if (once || attempt >= ATTEMPTS || !PASSING.has(response.status)) return response;
        await response.body?.cancel();
      } catch (error) {
        problem = error;
        (init.signal ?? signal)?.throwIfAborted();
        if (once || attempt >= ATTEMPTS) throw unreachable(url, problem, attempt);
      }
      await wait(250 * 2 ** attempt * (1 + Math.random() / 4), init.signal ?? signal);
    }
  };
}

function asOurs(error: unknown, repo: string, { endpoint, tokenFrom }: HubSettings): unknown {
  const status = (error as { statusCode?: unknown }).statusCode;
  if (isLowbitError(error) || typeof status !== 'number') return error;
  const details = { repo, status };
  if (status === 401 || status === 403) {
    return new LowbitError('ERR_ACCESS_DENIED', `the token of ${tokenFrom} may not write to ${repo} (status ${status})`, {
      hint: `Make one that may write on ${endpoint}/settings/tokens, and check the name: ${repo.split('/')[0]} must be you or an organization of yours.`,
      details,
      cause: error,
    });
  }
  return new LowbitError('ERR_NETWORK', `${endpoint} refused the push to ${repo}: ${(error as Error).message}`, {
    hint: 'Try again: what has arrived is not sent again.',
    details,
    cause: error,
  });
}
