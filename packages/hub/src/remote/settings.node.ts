// Where models, tokens and caches are, by the variables that the Python libraries obey (huggingface_hub/constants.py), so that both share them.

import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { errnoOf, guarded } from '../io.node.ts';
import { createHubClient, type HubClient, type HubClientOptions } from './client.ts';

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

/** Reads variables and the token file. Throws ERR_IO for a token file that cannot be read. */
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
    timeoutMs: timeout > 0 ? timeout * 1000 : 10_000,
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
    const token = clean(env[name]);
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
  return { token: clean(text), tokenFrom: path };
}

/** A token without what editors and shells add to it; undefined for what cannot be one, such as two lines. */
function clean(text: string | undefined): string | undefined {
  const token = text?.trim();
  return token !== undefined && /^[\x21-\x7e]{1,1024}$/.test(token) ? token : undefined;
}

function homeOf(env: Env): string {
  return env.HOME || env.USERPROFILE || homedir();
}

function expand(path: string, env: Env): string {
  return /^~(?=$|[\\/])/.test(path) ? join(homeOf(env), path.slice(1)) : path;
}
