// `lowbit login`: which token is used, and whose it is. It is read, never written and never shown.

import { hubClient, hubSettings, tokenOwner } from '@lowbit/hub';
import type { Context } from '../context.ts';
import { pairs } from '../table.ts';

/** What `lowbit login --json` prints. */
export interface LoginReport {
  readonly endpoint: string;
  /** A variable or a file; null if there is no token. */
  readonly token: string | null;
  /** Null if nobody was asked, or there is no token. */
  readonly user: string | null;
  /** `read`, `write` or `fineGrained`, where the Hub says so. */
  readonly role: string | null;
}

/** Runs the command. Throws ERR_ACCESS_DENIED for a token that the Hub does not know. */
export async function loginCommand(context: Context): Promise<void> {
  const settings = await hubSettings();
  const { endpoint, token, tokenFrom, offline } = settings;
  const owner = token === undefined || offline ? undefined : await tokenOwner(hubClient(settings), { signal: context.signal });
  const report: LoginReport = {
    endpoint,
    token: token === undefined ? null : tokenFrom,
    user: owner?.name ?? null,
    role: owner?.role ?? null,
  };
  if (context.json) return context.emit(report);
  const facts = pairs([
    ['hub', endpoint],
    ['token', token === undefined ? 'none' : `found in ${tokenFrom}`],
    ...(owner === undefined ? [] : [['belongs to', `${owner.name}${owner.role === undefined ? '' : ` (${owner.role})`}`] as const]),
    ...(offline ? [['offline', 'HF_HUB_OFFLINE is set: nobody was asked whose it is'] as const] : []),
  ]);
  const way = `Make one on ${endpoint}/settings/tokens, and set HF_TOKEN, or write it to ${tokenFrom} (as \`hf auth login\` does). Public models need none.`;
  return context.print(`${facts}\n${token === undefined ? `\n${way}\n` : ''}`);
}
