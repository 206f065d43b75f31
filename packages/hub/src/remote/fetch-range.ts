// Bytes of a remote file, in order, whatever happens on the way: a connection that breaks is taken up again where it broke. Large files are redirected to a
// storage by links that expire; a link is used until it does.

import { LowbitError } from '@lowbit/core';
import { readContentRange } from '../http.ts';
import { type Answer, type HubClient, isPassing } from './client.ts';
import { corrupted, unreachable } from './errors.ts';
import type { RemoteEntry, RemoteListing } from './listing.ts';

/** A file of a listing, and where it was last read from. */
export interface RemoteSource {
  readonly client: HubClient;
  readonly listing: RemoteListing;
  readonly entry: RemoteEntry;
  link: string | undefined;
}

export function remoteSource(client: HubClient, listing: RemoteListing, entry: RemoteEntry): RemoteSource {
  return { client, listing, entry, link: undefined };
}

/** The address of a file. */
function addressOf({ client, listing, entry }: Pick<RemoteSource, 'client' | 'listing' | 'entry'>): string {
  const path = entry.path.split('/').map(encodeURIComponent).join('/');
  return `${client.endpoint}/${listing.name}/resolve/${listing.commit}/${path}`;
}

/** Statuses of a link that is not valid any more. */
const EXPIRED = [400, 401, 403, 404, 410];

/**
 * Gives bytes [from, to) to `take`, in order. Throws ERR_INTEGRITY if the file is another one than that of the listing, as far as headers tell, and what
 * `HubClient.get` throws.
 */
export async function fetchRange(
  source: RemoteSource,
  from: number,
  to: number,
  take: (piece: Uint8Array, at: number) => void | Promise<void>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { client, entry } = source;
  const whole = from === 0 && to === entry.size;
  let at = from;
  for (let failures = 0; at < to; ) {
    const before = at;
    try {
      const answer = await open(source, whole && at === 0 ? undefined : [at, to], signal);
      await checked(answer, () => checkAnswer(source, answer, at, to));
      let room = to - at;
      for await (const piece of answer.body()) {
        if (piece.byteLength > room) throw corrupted(entry.path, 'more bytes came than were asked for', { size: entry.size });
        await take(piece, at);
        at += piece.byteLength;
        room -= piece.byteLength;
        if (room === 0) break; // the connection may go on without an end
      }
      if (at < to) throw new Error(`the connection ended ${to - at} bytes early`);
    } catch (error) {
      signal?.throwIfAborted();
      if (!isPassing(error)) throw error;
      failures = at > before ? 1 : failures + 1;
      await client.again(failures, error, addressOf(source), signal);
    }
  }
}

async function open(source: RemoteSource, range: readonly [number, number] | undefined, signal: AbortSignal | undefined): Promise<Answer> {
  const { client, listing } = source;
  const options = { repo: listing.name, range, signal };
  if (source.link !== undefined) {
    const answer = await client.get(source.link, { ...options, accept: EXPIRED });
    if (answer.response.ok) return answer;
    await answer.drop();
    source.link = undefined;
  }
  const address = addressOf(source);
  const answer = await client.get(address, options);
  await checked(answer, () => checkIdentity(source, answer));
  if (new URL(answer.url).origin !== new URL(address).origin) source.link = answer.url;
  return answer;
}

async function checked(answer: Answer, check: () => void): Promise<void> {
  try {
    check();
  } catch (error) {
    await answer.drop();
    throw error;
  }
}

/** The hub's own headers say which content this is. */
function checkIdentity({ entry, listing }: RemoteSource, { etag, commit }: Answer): void {
  const said = etag?.replace(/^W\//, '').replaceAll('"', '');
  if (said !== undefined && said !== entry.etag) {
    throw corrupted(entry.path, 'the server sends another content than it has listed', { expected: entry.etag, actual: said });
  }
  if (commit !== null && commit !== listing.commit) {
    throw corrupted(entry.path, 'the server sends another commit than was asked for', { expected: listing.commit, actual: commit });
  }
}

function checkAnswer(source: RemoteSource, { response }: Answer, at: number, to: number): void {
  const { entry } = source;
  const { status, headers } = response;
  const length = headers.get('content-length');
  if (status === 206) {
    const said = readContentRange(headers.get('content-range'));
    if (said?.from !== at || said.to !== to) throw unreachable(addressOf(source), new Error('it sends other bytes than were asked for'), 1);
    if (said.total !== undefined && said.total !== entry.size) {
      throw corrupted(entry.path, `it has ${said.total} bytes, and ${entry.size} by the listing`, {
        expected: entry.size,
        actual: said.total,
      });
    }
    return;
  }
  if (at > 0 || to < entry.size) {
    throw new LowbitError('ERR_NETWORK', `the server of ${entry.path} does not send parts of files`, {
      hint: 'Download the model as a whole with other means, and pass its folder.',
      details: { file: entry.path },
    });
  }
  if (length !== null && Number(length) !== entry.size && headers.get('content-encoding') === null) {
    throw corrupted(entry.path, `it has ${length} bytes, and ${entry.size} by the listing`, {
      expected: entry.size,
      actual: Number(length),
    });
  }
}
