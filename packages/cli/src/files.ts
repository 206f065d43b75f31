// Files that people name on the command line.

import type { Stats } from 'node:fs';
import { open, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isLowbitError, LowbitError } from '@lowbit/core';

const MAX_BYTES = 256 * 2 ** 20;

const REASONS: Readonly<Record<string, readonly [code: string, problem: string, hint: string]>> = {
  ENOENT: ['ERR_NOT_FOUND', 'it does not exist', 'Check the path.'],
  ENOTDIR: ['ERR_NOT_FOUND', 'a part of the path is a file', 'Check the path.'],
  EISDIR: ['ERR_IO', 'it is a folder', 'Name a file in it.'],
  EACCES: ['ERR_IO', 'permission denied', 'Check who may read it.'],
};

/** What is at a path, links followed; undefined where there is nothing of that name. `what` names it in the message. Throws ERR_IO for what cannot be looked at. */
export async function statIfThere(path: string, what: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (cause) {
    const errno = (cause as NodeJS.ErrnoException).code ?? '';
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    const [, problem = (cause as Error).message, hint = 'Check the path.'] = REASONS[errno] ?? [];
    throw new LowbitError('ERR_IO', `${what}: cannot look at ${path}: ${problem}`, { hint, details: { path, errno }, cause });
  }
}

/** A whole UTF-8 file, named after a flag. Throws ERR_NOT_FOUND, ERR_IO, ERR_LIMIT (over 256 MiB), ERR_BAD_ARGUMENT (not UTF-8, or empty). */
export async function readTextFile(path: string, flag: string): Promise<string> {
  const details = { flag, path };
  const text = new TextDecoder('utf-8', { fatal: true });
  const bytes = await readBytes(path, flag);
  try {
    const decoded = text.decode(bytes);
    if (decoded.trim() !== '') return decoded;
  } catch (cause) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${flag}: ${path} is not UTF-8 text`, { hint: 'Save it as UTF-8.', details, cause });
  }
  throw new LowbitError('ERR_BAD_ARGUMENT', `${flag}: ${path} is empty`, { hint: 'Name a file with text.', details });
}

/** A whole file, named after a flag. Throws ERR_NOT_FOUND, ERR_IO, ERR_LIMIT (over 256 MiB). */
export async function readBytes(path: string, flag: string): Promise<Uint8Array> {
  const details = { flag, path };
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      if (size > MAX_BYTES) {
        throw new LowbitError('ERR_LIMIT', `${flag}: ${path} has ${size} bytes, more than ${MAX_BYTES}`, {
          hint: 'Take a part of it.',
          details,
        });
      }
      return await file.readFile();
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (isLowbitError(cause)) throw cause;
    const [code = 'ERR_IO', problem = (cause as Error).message, hint = 'Check the path.'] =
      REASONS[(cause as NodeJS.ErrnoException).code ?? ''] ?? [];
    throw new LowbitError(code, `${flag}: cannot read ${path}: ${problem}`, { hint, details, cause });
  }
}

/** A JSON file, named after a flag. Throws as `readTextFile`, and ERR_BAD_ARGUMENT if it is not JSON. */
export async function readJsonFile(path: string, flag: string): Promise<unknown> {
  const text = await readTextFile(path, flag);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${flag}: ${path} is not JSON: ${(cause as Error).message}`, {
      details: { flag, path },
      cause,
    });
  }
}

/**
 * Looks whether a file can be written later, before the work that it is to keep. Throws ERR_NOT_FOUND (no such folder), ERR_IO (it is a folder, or cannot
 * be looked at), ERR_OUTPUT_EXISTS (it is there, and not to be replaced).
 */
export async function checkWritable(path: string | undefined, flag: string, { replace = false } = {}): Promise<void> {
  if (path === undefined) return;
  const details = { flag, path };
  const folder = await statIfThere(dirname(path), flag);
  if (!folder?.isDirectory()) {
    throw new LowbitError('ERR_NOT_FOUND', `${flag}: cannot write ${path}: there is no folder ${dirname(path)}`, {
      hint: 'Make the folder, or name another file.',
      details,
    });
  }
  const there = await statIfThere(path, flag);
  if (there?.isDirectory())
    throw new LowbitError('ERR_IO', `${flag}: cannot write ${path}: it is a folder`, { hint: 'Name a file in it.', details });
  // A terminal or /dev/null is there, too, and loses nothing.
  if (!there?.isFile() || replace) return;
  throw new LowbitError('ERR_OUTPUT_EXISTS', `${flag}: ${path} exists`, {
    hint: 'Name another file, or pass --overwrite to replace it.',
    details,
  });
}

/** Writes a file named after a flag; one that is there is replaced. Throws ERR_NOT_FOUND, ERR_IO. */
export async function writeTextFile(path: string, text: string, flag: string): Promise<void> {
  try {
    await writeFile(path, text);
  } catch (cause) {
    const [code, problem, hint] = REASONS[(cause as NodeJS.ErrnoException).code ?? ''] ?? [];
    const message = `${flag}: cannot write ${path}: ${problem ?? (cause as Error).message}`;
    throw new LowbitError(code ?? 'ERR_IO', message, { hint: hint ?? 'Name another file.', details: { flag, path }, cause });
  }
}

/** All of stdin as text, without the newline at its end that shells add. Throws the signal's reason when aborted. */
export async function readStdin(signal: AbortSignal): Promise<string> {
  const { stdin } = process;
  const stop = (): void => void stdin.destroy();
  signal.throwIfAborted();
  signal.addEventListener('abort', stop, { once: true });
  try {
    stdin.setEncoding('utf8');
    let text = '';
    for await (const piece of stdin) text += piece as string;
    return text.replace(/\r?\n$/, '');
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
