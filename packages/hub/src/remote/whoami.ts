// Whose a token is.

import type { HubClient } from './client.ts';

export interface TokenOwner {
  readonly name: string;
  /** `read`, `write`, `fineGrained`; undefined where the hub does not say. */
  readonly role: string | undefined;
}

/** Asks whose the client's token is. Throws ERR_ACCESS_DENIED for one that the hub does not know, ERR_NETWORK. */
export async function tokenOwner(client: HubClient, { signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<TokenOwner> {
  const { response, drop } = await client.get(`${client.endpoint}/api/whoami-v2`, { repo: 'your account', signal });
  try {
    const said = (await response.json()) as { name?: unknown; auth?: { accessToken?: { role?: unknown } } } | null;
    const role = said?.auth?.accessToken?.role;
    return { name: String(said?.name ?? 'unknown'), role: typeof role === 'string' ? role : undefined };
  } finally {
    await drop();
  }
}
