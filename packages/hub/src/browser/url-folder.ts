// A model folder on a web server, read in ranges. Servers cannot be asked what a folder holds, so the caller says it.

import { isLowbitError, LowbitError } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import { insideParts, type ModelFolder, tooLarge } from '../folder.ts';
import { bodyPieces, fill, readContentRange } from '../http.ts';
import { browser } from './dom.ts';

/** Of `urlFolder`. */
export interface UrlFolderOptions {
  /** Every file with its bytes: `{ 'config.json': 633, ... }`. Nothing else is asked for, and nothing of another size is taken. */
  readonly files: Readonly<Record<string, number>>;
}

/**
 * Files below an address of this site. They are read by range requests, whole files under 1 MiB in one; redirects are refused. What it throws while
 * reading: ERR_IO for a server that cannot be reached, answers with an error or other bytes than were asked for, or ignores ranges; ERR_BAD_CHECKPOINT for
 * a file of another size or one that changes while it is read. No more than the announced bytes are taken from a server.
 */
export function urlFolder(base: string | URL, options: UrlFolderOptions): ModelFolder {
  const files = options?.files;
  if (typeof files !== 'object' || files === null) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'urlFolder needs the option files', {
      hint: "Pass the bytes of every file: { files: { 'config.json': 633, ... } }.",
      details: { option: 'files' },
    });
  }
  const root = new URL(base, browser.location?.href);
  if (!root.pathname.endsWith('/')) root.pathname += '/';
  const label = root.href.replace(/\/$/, '');
  const sizes = new Map(Object.entries(files));
  const known = (name: string, from = label) => {
    insideParts(label, name, from);
    return sizes.get(name);
  };
  const open = async (path: string): Promise<RandomFile> => {
    const name = path.slice(label.length + 1);
    const size = known(name);
    if (size === undefined) throw new LowbitError('ERR_NOT_FOUND', `${path} is not among the files of ${label}`, { details: { path } });
    return urlFile(new URL(name.split('/').map(encodeURIComponent).join('/'), root).href, path, size);
  };
  return {
    path: label,
    names: async () => [...sizes.keys()].filter((name) => !name.includes('/')),
    resolve: async (name, from) => (known(name, from) === undefined ? undefined : `${label}/${name}`),
    bytes: async (name) => known(name),
    async read(name, maxBytes) {
      const size = known(name);
      if (size === undefined) return undefined;
      if (size > maxBytes) throw tooLarge(`${label}/${name}`, size, maxBytes);
      const data = new Uint8Array(size);
      await (await open(`${label}/${name}`)).read(data, 0);
      return data;
    },
    open,
  };
}

/** Smaller files are asked for whole: not every server knows ranges, and none is needed. */
const WHOLE = 2 ** 20;

function urlFile(url: string, path: string, size: number): RandomFile {
  let tag: string | undefined;
  const fail = (problem: string, hint: string, cause?: unknown) =>
    new LowbitError('ERR_IO', `cannot read ${path}: ${problem}`, { hint, details: { url }, ...(cause === undefined ? {} : { cause }) });
  const changed = (problem: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${path}: ${problem}`, {
      hint: 'Reload the page: the file on the server is another one now.',
      details: { url },
    });

  async function ask(range: readonly [from: number, to: number] | undefined, signal: AbortSignal | undefined): Promise<Response> {
    try {
      return await fetch(url, {
        redirect: 'error',
        signal: signal ?? null,
        ...(range === undefined ? {} : { headers: { range: `bytes=${range[0]}-${range[1] - 1}` } }),
      });
    } catch (cause) {
      signal?.throwIfAborted();
      throw fail('the server cannot be reached, or redirects', 'Check the connection and try again.', cause);
    }
  }

  /** Throws if these are not the bytes that were asked for, as far as headers tell. */
  function checkAnswer(response: Response, range: readonly [from: number, to: number] | undefined): void {
    if (!response.ok) throw fail(`the server answers ${response.status}`, 'Check the address.');
    const etag = response.headers.get('etag') ?? undefined;
    if (range !== undefined) {
      if (response.status !== 206) throw fail('the server ignores range requests', 'Serve the files from a server that knows them.');
      const text = response.headers.get('content-range');
      const said = readContentRange(text);
      if (said?.total !== undefined && said.total !== size) throw changed(`it has ${said.total} bytes, expected ${size}`);
      // Another site may hide the header from the page.
      if (!(text === null && isElsewhere(url)) && (said?.from !== range[0] || said.to !== range[1]))
        throw fail('the server sends other bytes than were asked for', 'Serve the files from a server that knows range requests.');
    }
    tag ??= etag;
    if (etag !== tag) throw changed('it changed while it was read');
  }

  /** Fills `into` with bytes from `from` on, or with the whole file. */
  async function receive(into: Uint8Array, from: number | undefined, signal: AbortSignal | undefined): Promise<void> {
    const range = from === undefined ? undefined : ([from, from + into.byteLength] as const);
    const response = await ask(range, signal);
    try {
      checkAnswer(response, range);
    } catch (error) {
      await response.body?.cancel().catch(() => {});
      throw error;
    }
    const tooMany = () =>
      range === undefined
        ? changed(`it has more than the ${size} bytes that were expected`)
        : fail(`more than the ${into.byteLength} bytes that were asked for came`, 'Try again.');
    let came: number;
    try {
      came = await fill(into, bodyPieces(response), tooMany);
    } catch (cause) {
      signal?.throwIfAborted();
      throw isLowbitError(cause) ? cause : fail('the connection broke', 'Check the connection and try again.', cause);
    }
    if (came === into.byteLength) return;
    throw range === undefined
      ? changed(`it has ${came} bytes, expected ${size}`)
      : fail(`${came} bytes came, ${into.byteLength} were asked for`, 'Try again.');
  }

  return {
    path,
    name: path.replace(/^.*\//, ''),
    size,
    far: true,
    get state() {
      return tag === undefined ? undefined : JSON.stringify([url, size, tag]);
    },
    async read(into, at, signal) {
      const end = Math.min(size, at + into.byteLength);
      if (end <= at) return 0;
      const part = into.subarray(0, end - at);
      if (size >= WHOLE) await receive(part, at, signal);
      else {
        const whole = new Uint8Array(size);
        await receive(whole, undefined, signal);
        part.set(whole.subarray(at, end));
      }
      return part.byteLength;
    },
    async close() {},
  };
}

function isElsewhere(url: string): boolean {
  const page = browser.location?.href;
  return page !== undefined && new URL(url).origin !== new URL(page).origin;
}
