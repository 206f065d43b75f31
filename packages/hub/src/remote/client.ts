// Requests to a hub, for Node and browsers: patient with what passes, strict with what does not. A token goes to the hub's own origin and nowhere else.

import { LowbitError } from '@lowbit/core';
import { placeOf, refusal, unreachable } from './errors.ts';

/** Of `createHubClient`. */
export interface HubClientOptions {
  /** Default `https://huggingface.co`. */
  readonly endpoint?: string | undefined;
  readonly token?: string | undefined;
  /** Longest silence of a server; default 10 s, at most 2^31 - 1 ms (24 days). */
  readonly timeoutMs?: number | undefined;
  /** Attempts in a row that bring nothing before it is given up; default 6. */
  readonly attempts?: number | undefined;
  /** Wait before the second attempt, doubled before each further one; default 500 ms, that is 15 s in all. */
  readonly delayMs?: number | undefined;
  readonly fetch?: typeof fetch | undefined;
}

/** Requests to one hub, with patience. */
export interface HubClient {
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly hasToken: boolean;
  readonly timeoutMs: number;
  /** What was asked and received so far. */
  readonly traffic: { requests: number; bytes: number; retries: number };
  /**
   * A GET that is answered with 2xx, after redirects. Passing failures (429, 5xx, broken connections) are tried again. `repo` is for messages. Throws
   * ERR_NETWORK, ERR_NOT_FOUND, ERR_GATED_REPO, ERR_ACCESS_DENIED; abort throws the signal's reason.
   */
  get(url: string, options: GetOptions): Promise<Answer>;
  /** Waits before attempt number `failures` + 1, or throws what failed if there is none. */
  again(failures: number, failure: unknown, url: string, signal: AbortSignal | undefined): Promise<void>;
}

export interface GetOptions {
  readonly repo: string;
  readonly range?: readonly [from: number, to: number] | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Answers of these statuses are given out as they are. */
  readonly accept?: readonly number[];
}

export interface Answer {
  readonly response: Response;
  /** Where it came from, after redirects. */
  readonly url: string;
  /** Headers of the hub's own answers, which tell what it is that the last one sends. */
  readonly etag: string | null;
  readonly commit: string | null;
  /** Reads on; throws when the server is silent for too long. */
  body(): AsyncGenerator<Uint8Array, void>;
  /** In place of `body`. */
  drop(): Promise<void>;
}

/** The longest that a timer waits; it ends at once what is longer. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);
const MAX_REDIRECTS = 5;
/** A longer wait than this is for the caller to decide on. */
const LONGEST_WAIT_MS = 60_000;

/** A failure that may pass, and when the server wants to be asked again. */
class Passing extends Error {
  readonly waitMs: number | undefined;
  constructor(cause: unknown, waitMs?: number) {
    super('passing', { cause });
    this.waitMs = waitMs;
  }
}

/** Throws ERR_BAD_ARGUMENT for an endpoint that is no http(s) address. */
export function createHubClient(options: HubClientOptions = {}): HubClient {
  const { token, attempts = 6, delayMs = 500 } = options;
  const timeoutMs = Math.min(options.timeoutMs ?? 10_000, LONGEST_TIMER_MS);
  const fetcher = options.fetch ?? globalThis.fetch;
  const endpoint = checkEndpoint(options.endpoint ?? 'https://huggingface.co');
  const { origin } = new URL(endpoint);
  const traffic = { requests: 0, bytes: 0, retries: 0 };

  async function again(failures: number, failure: unknown, url: string, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const cause = failure instanceof Passing ? failure.cause : failure;
    const asked = failure instanceof Passing ? failure.waitMs : undefined;
    if (failures >= attempts || (asked ?? 0) > LONGEST_WAIT_MS) throw unreachable(url, cause, failures);
    traffic.retries++;
    // Not all at the same time: many workers may have been refused at once.
    await wait(asked ?? delayMs * 2 ** (failures - 1) * (1 + Math.random() / 4), signal);
  }

  async function get(url: string, request: GetOptions): Promise<Answer> {
    for (let failures = 0; ; ) {
      try {
        return await once(url, request);
      } catch (error) {
        request.signal?.throwIfAborted();
        if (!(error instanceof Passing)) throw error;
        await again(++failures, error, url, request.signal);
      }
    }
  }

  async function once(first: string, { repo, range, signal, accept = [] }: GetOptions): Promise<Answer> {
    let url = first;
    let etag: string | null = null;
    let commit: string | null = null;
    const silence = watchSilence(timeoutMs, signal);
    try {
      for (let redirects = 0; ; redirects++) {
        const own = new URL(url).origin === origin;
        const response = await ask(url, headersFor(own, range), silence);
        if (own) {
          etag = response.headers.get('x-linked-etag') ?? (response.ok ? response.headers.get('etag') : null) ?? etag;
          commit = response.headers.get('x-repo-commit') ?? commit;
        }
        const location = response.status >= 300 && response.status < 400 ? response.headers.get('location') : null;
        if (location !== null) {
          await response.body?.cancel();
          if (redirects === MAX_REDIRECTS) throw unreachable(first, new Error('it redirects in circles'), 1);
          url = checkRedirect(new URL(location, url), url);
          continue;
        }
        silence.pause();
        if (response.ok || accept.includes(response.status)) {
          return { response, url, etag, commit, body: () => read(response, silence), drop: () => drop(response, silence) };
        }
        await response.body?.cancel();
        const error = refusal(response, url, { repo, endpoint, token: token !== undefined });
        throw PASSING.has(response.status) ? new Passing(error, retryAfter(response.headers.get('retry-after'))) : error;
      }
    } catch (error) {
      silence.end();
      throw error;
    }
  }

  function headersFor(own: boolean, range: GetOptions['range']): Record<string, string> {
    return {
      'Accept-Encoding': 'identity',
      ...(own && token !== undefined ? { Authorization: `Bearer ${token}` } : {}),
      ...(range === undefined ? {} : { Range: `bytes=${range[0]}-${range[1] - 1}` }),
    };
  }

  async function ask(url: string, headers: Record<string, string>, silence: Silence): Promise<Response> {
    traffic.requests++;
    try {
      silence.start();
      const response = await fetcher(url, { headers, redirect: 'manual', signal: silence.signal });
      // Browsers hide redirects from pages. They follow them without the token, but also without the headers of the first answer.
      return response.type === 'opaqueredirect' ? await fetcher(url, { headers, signal: silence.signal }) : response;
    } catch (error) {
      throw new Passing(silence.reason(error));
    }
  }

  async function* read(response: Response, silence: Silence): AsyncGenerator<Uint8Array, void> {
    const reader = response.body?.getReader();
    try {
      while (reader !== undefined) {
        silence.start();
        const { done, value } = await reader.read();
        silence.pause();
        if (done) return;
        traffic.bytes += value.byteLength;
        yield value;
      }
    } catch (error) {
      throw silence.reason(error);
    } finally {
      silence.end();
      await reader?.cancel().catch(() => {}); // it may have failed already
    }
  }

  async function drop(response: Response, silence: Silence): Promise<void> {
    silence.end();
    await response.body?.cancel().catch(() => {});
  }

  return { endpoint, hasToken: token !== undefined, timeoutMs, traffic, get, again };
}

/** Whether a failure of reading a body is one to try again after. */
export function isPassing(error: unknown): boolean {
  return !(error instanceof LowbitError);
}

interface Silence {
  readonly signal: AbortSignal;
  start(): void;
  pause(): void;
  end(): void;
  /** What a failure was, if it was not the connection. */
  reason(error: unknown): unknown;
}

/** Ends a request after so much time without a byte, or when the caller wants it. */
function watchSilence(ms: number, outer: AbortSignal | undefined): Silence {
  const controller = new AbortController();
  const stop = (): void => controller.abort(outer!.reason);
  if (outer?.aborted) stop();
  outer?.addEventListener('abort', stop, { once: true });
  let timer: ReturnType<typeof setTimeout> | undefined;
  let silent: Error | undefined;
  const pause = (): void => clearTimeout(timer);
  return {
    signal: controller.signal,
    start() {
      pause();
      timer = setTimeout(() => {
        silent = new Error(`nothing came for ${ms / 1000} s`);
        controller.abort(silent);
      }, ms);
    },
    pause,
    end() {
      pause();
      outer?.removeEventListener('abort', stop);
    },
    reason(error) {
      return outer?.aborted ? outer.reason : (silent ?? error);
    },
  };
}

export function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/** Milliseconds of a Retry-After header: seconds, or a date. */
function retryAfter(text: string | null): number | undefined {
  if (text === null) return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function checkEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url !== undefined && /^https?:$/.test(url.protocol) && url.username === '' && url.search === '') return text.replace(/\/+$/, '');
  throw new LowbitError('ERR_BAD_ARGUMENT', `the endpoint ${JSON.stringify(placeOf(text))} is no http(s) address`, {
    hint: 'HF_ENDPOINT is something like https://huggingface.co.',
  });
}

/** From https only to https, and nowhere else than the web. */
function checkRedirect(to: URL, from: string): string {
  if (to.protocol === 'https:' || (to.protocol === 'http:' && from.startsWith('http:'))) return to.href;
  throw new LowbitError('ERR_NETWORK', `${placeOf(from)} redirects to ${to.protocol}//${to.host}, which is not followed`, {
    hint: 'Check HF_ENDPOINT, and proxies on the way.',
  });
}
