// Where models, tokens and caches are, by the variables that the Python libraries obey (huggingface_hub/constants.py), so that both share them.

import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { errnoOf, guarded } from '../io.node.ts';
import { createHubClient, type HubClient, type HubClientOptions, LONGEST_TIMER_MS } from './client.ts';

/** Address, token and cache, as the environment has them. */
export interface HubSettings {
  readonly endpoint: string;
  /** The folder that holds `models--ORG--NAME`. */
  readonly cacheDir: string;
  readonly token: string | undefined;
  /** Where the token is, or would be looked for last: the name of a variable, or a path. */
  readonly tokenFrom: string;
  /** HF_HUB_OFFLINE: only what is in the cache. */
  readonly offline: boolean;
  /** Longest silence of a server, in milliseconds. */
  readonly timeoutMs: number;
}

type Env = Readonly<Record<string, string | undefined>>;

const ON = new Set(['1', 'ON', 'YES', 'TRUE']);
const on = (value: string | undefined): boolean => ON.has((value ?? '').toUpperCase());

/** Reads variables and the token file. Throws ERR_IO for a token file that cannot be read, ERR_BAD_ARGUMENT for a token that cannot be one. */
export async function hubSettings(env: Env = process.env): Promise<HubSettings> {
  const home = hubHome(env);
  const { token, tokenFrom } = await findToken(env, home);
  const timeout = Number(env.HF_HUB_DOWNLOAD_TIMEOUT);
  return {
    endpoint: (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, ''),
    cacheDir: resolve(expand(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, 'hub'), env)),
    token,
    tokenFrom,
    offline: on(env.HF_HUB_OFFLINE) || on(env.TRANSFORMERS_OFFLINE),
    timeoutMs: timeout > 0 ? Math.min(timeout * 1000, LONGEST_TIMER_MS) : 10_000,
  };
}

/** A client as the settings say. */
export function hubClient({ endpoint, token, timeoutMs }: HubSettings, more: HubClientOptions = {}): HubClient {
  return createHubClient({ endpoint, token, timeoutMs, ...more });
}

function hubHome(env: Env): string {
  return expand(env.HF_HOME || join(env.XDG_CACHE_HOME || join(homeOf(env), '.cache'), 'huggingface'), env);
}

async function findToken(env: Env, home: string): Promise<Pick<HubSettings, 'token' | 'tokenFrom'>> {
  for (const name of ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN']) {
    const token = clean(env[name], name);
    if (token !== undefined) return { token, tokenFrom: name };
  }
  const path = expand(env.HF_TOKEN_PATH || join(home, 'token'), env);
  if (on(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return { token: undefined, tokenFrom: path };
  const text = await guarded('read', path, async () => {
    try {
      return await readFile(path, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
      throw error;
    }
  });
  return { token: clean(text, path), tokenFrom: path };
}

/**
 * A token without what editors and shells add to it; undefined for none. What cannot be one, such as two lines, is refused and not told: without it a private
 * model would seem not to exist.
 */
function clean(text: string | undefined, from: string): string | undefined {
  const token = text?.trim() ?? '';
  if (token === '') return undefined;
  if (/^[\x21-\x7e]{1,1024}$/.test(token)) return token;
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `what ${from} holds is no token: tokens are one word of at most 1024 letters, digits and signs`,
    {
      hint: 'Copy the token again, without spaces, quotes or line breaks in it, or unset the variable (remove the file) to go without.',
      details: { from },
    },
  );
}

function homeOf(env: Env): string {
  return env.HOME || env.USERPROFILE || homedir();
}

function expand(path: string, env: Env): string {
  return /^~(?=$|[\\/])/.test(path) ? join(homeOf(env), path.slice(1)) : path;
}
