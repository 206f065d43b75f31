// A model folder on a web server, read in ranges. Servers cannot be asked what a folder holds, so the caller says it.

import { LowbitError } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import { insideParts, type ModelFolder, tooLarge } from '../folder.ts';
import { browser } from './dom.ts';

export interface UrlFolderOptions {
  /** Every file with its bytes: `{ 'config.json': 633, ... }`. Nothing else is asked for, and nothing of another size is taken. */
  readonly files: Readonly<Record<string, number>>;
}

/**
 * Files below an address of this site. They are read by range requests, whole files under 1 MiB in one; redirects are refused. What it throws while
 * reading: ERR_IO for a server that cannot be reached, answers with an error, or ignores ranges; ERR_BAD_CHECKPOINT for a file of another size or one
 * that changes while it is read.
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

  async function fetchRange(from: number, to: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const ranged = size >= WHOLE;
    let response: Response;
    try {
      response = await fetch(url, {
        redirect: 'error',
        signal: signal ?? null,
        ...(ranged ? { headers: { range: `bytes=${from}-${to - 1}` } } : {}),
      });
    } catch (cause) {
      signal?.throwIfAborted();
      throw fail('the server cannot be reached, or redirects', 'Check the connection and try again.', cause);
    }
    if (!response.ok) throw fail(`the server answers ${response.status}`, 'Check the address.');
    if (ranged && response.status !== 206) {
      await response.body?.cancel();
      throw fail('the server ignores range requests', 'Serve the files from a server that knows them.');
    }
    const etag = response.headers.get('etag') ?? undefined;
    tag ??= etag;
    if (etag !== tag) throw changed('it changed while it was read');
    const data = new Uint8Array(await response.arrayBuffer());
    const total = ranged ? Number(response.headers.get('content-range')?.match(/\/(\d+)$/)?.[1] ?? Number.NaN) : data.byteLength;
    if (!Number.isNaN(total) && total !== size) throw changed(`it has ${total} bytes, expected ${size}`);
    return ranged ? data : data.subarray(from, to);
  }

  return {
    path,
    name: path.replace(/^.*\//, ''),
    size,
    get state() {
      return tag === undefined ? undefined : JSON.stringify([url, size, tag]);
    },
    async read(into, at, signal) {
      const end = Math.min(size, at + into.byteLength);
      if (end <= at) return 0;
      const data = await fetchRange(at, end, signal);
      if (data.byteLength !== end - at) throw fail(`${data.byteLength} bytes came, ${end - at} were asked for`, 'Try again.');
      into.set(data);
      return data.byteLength;
    },
    async close() {},
  };
}
