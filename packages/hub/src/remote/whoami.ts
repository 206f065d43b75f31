// Whose a token is.

import { LowbitError } from '@lowbit/core';
import type { HubClient } from './client.ts';
import { isRecord, readJson } from './json.ts';

const MAX_BYTES = 2 ** 20;

/** Whose a token is. */
export interface TokenOwner {
  readonly name: string;
  /** `read`, `write`, `fineGrained`; undefined where the hub does not say. */
  readonly role: string | undefined;
}

/** Asks whose the client's token is. Throws ERR_ACCESS_DENIED for one that the hub does not know, ERR_NETWORK, ERR_LIMIT. */
export async function tokenOwner(client: HubClient, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<TokenOwner> {
  const answer = await client.get(`${client.endpoint}/api/whoami-v2`, { repo: 'your account', signal });
  const said = await readJson(answer, MAX_BYTES);
  if (!isRecord(said) || typeof said.name !== 'string') {
    throw new LowbitError('ERR_NETWORK', `${client.endpoint} does not say whose the token is`, { hint: 'Check HF_ENDPOINT.' });
  }
  const access = isRecord(said.auth) ? said.auth.accessToken : undefined;
  const role = isRecord(access) ? access.role : undefined;
  return { name: said.name, role: typeof role === 'string' ? role : undefined };
}
