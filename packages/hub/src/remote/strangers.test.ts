// Answers that are none of a hub: a page to sign in to a network, lists and texts without an end.

import { describe, expect, it } from 'vitest';
import { failure } from '../testing.node.ts';
import { createHubClient, type HubClient } from './client.ts';
import { listModel } from './listing.ts';
import { tokenOwner } from './whoami.ts';

const COMMIT = '0'.repeat(40);
const ENDPOINT = 'https://hub.example';

function clientOf(answer: (url: URL) => Response, more: object = {}): HubClient {
  return createHubClient({ endpoint: ENDPOINT, delayMs: 1, attempts: 2, ...more, fetch: async (url) => answer(new URL(String(url))) });
}

const repo = { name: 'org/name', revision: 'main' };

/** A body that gives `piece` for ever, and tells how many it gave. */
function endless(piece: Uint8Array<ArrayBuffer>): {
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>>;
  given: number;
  ended: boolean;
} {
  const state = { given: 0, ended: false };
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull(controller) {
      state.given++;
      controller.enqueue(piece);
    },
    cancel() {
      state.ended = true;
    },
  });
  return Object.assign(state, { body });
}

describe('lists of files', () => {
  const listing = (page: (asked: number) => readonly object[]) => {
    let asked = 0;
    const client = clientOf((url) => {
      if (!url.pathname.includes('/tree/')) return Response.json({ sha: COMMIT });
      const headers = { Link: `<${ENDPOINT}${url.pathname}?cursor=${++asked}>; rel="next"` };
      return Response.json(page(asked), { headers });
    });
    return { client, count: () => asked };
  };

  it('that go on without an end are given up', async () => {
    const { client, count } = listing(() => []);
    expect(await failure(() => listModel(client, repo))).toMatchObject({
      code: 'ERR_BAD_CHECKPOINT',
      message: expect.stringContaining('more than 1000 pages'),
      hint: 'Check HF_ENDPOINT.',
    });
    expect(count()).toBe(1000);
  });

  it('are bounded by what they list, folders among it', async () => {
    const page = Array.from({ length: 30_000 }, () => ({ type: 'directory' }));
    const { client, count } = listing(() => page);
    expect((await failure(() => listModel(client, repo))).message).toContain('more than 100000 files and folders');
    expect(count()).toBe(4);
  });
});

describe('whose a token is', () => {
  it('is what a hub says', async () => {
    const owner = (value: unknown) => tokenOwner(clientOf(() => Response.json(value)));
    expect(await owner({ name: 'me', auth: { accessToken: { role: 'write' } } })).toEqual({ name: 'me', role: 'write' });
    expect(await owner({ name: 'me', auth: 5 })).toEqual({ name: 'me', role: undefined });
    for (const value of [null, [], {}, { name: 5 }]) {
      expect(await failure(() => owner(value))).toMatchObject({ code: 'ERR_NETWORK', hint: 'Check HF_ENDPOINT.' });
    }
  });

  it('is not told by a page to sign in', async () => {
    const client = clientOf(() => new Response('<html>Welcome to our airport</html>'));
    expect(await failure(() => tokenOwner(client))).toMatchObject({
      code: 'ERR_NETWORK',
      message: expect.stringContaining('what is no JSON'),
      hint: expect.stringContaining('sign in'),
    });
  });

  it('is not read without an end', async () => {
    const stream = endless(new Uint8Array(65_536));
    expect((await failure(() => tokenOwner(clientOf(() => new Response(stream.body))))).code).toBe('ERR_LIMIT');
    expect([stream.ended, stream.given < 20]).toEqual([true, true]);
  });
});

it('a time that no timer can wait is the longest that one can', async () => {
  for (const timeoutMs of [Number.POSITIVE_INFINITY, 3e9]) {
    const client = createHubClient({
      endpoint: ENDPOINT,
      timeoutMs,
      attempts: 1,
      fetch: (_, init) =>
        new Promise((resolve, reject) => {
          init!.signal!.addEventListener('abort', () => reject(init!.signal!.reason));
          setTimeout(() => resolve(Response.json({ name: 'me' })), 20); // a timer that overflows ends after 1 ms
        }),
    });
    expect(client.timeoutMs).toBe(2 ** 31 - 1);
    expect((await tokenOwner(client)).name).toBe('me');
  }
});
