// Runs the built command line as its users do: as a process, with pipes.

import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
/** The built command. */
export const main: string = process.env.LOWBIT_CLI ?? join(root, 'packages/cli/dist/main.js');

/** The trained model that comes with the repository. */
export const TINY: string = join(root, 'examples/tiny-llama');

/** Builds the packages if nobody has; `npm test` has. */
export function ensureBuilt(): void {
  if (existsSync(main)) return;
  const built = spawnSync(join(root, 'node_modules/.bin/turbo'), ['run', 'build'], {
    cwd: root,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  if (built.status !== 0) throw new Error(`the build failed:\n${built.stdout}\n${built.stderr}`);
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Called with stderr so far whenever it grows. */
  readonly onStderr?: (stderr: string, child: ChildProcessWithoutNullStreams) => void;
  /** Called with stdout so far whenever it grows. */
  readonly onStdout?: (stdout: string, child: ChildProcessWithoutNullStreams) => void;
}

/** Runs `lowbit ARGS` to its end. */
export function lowbit(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { CI: _, NO_COLOR: __, HF_HUB_DISABLE_PROGRESS_BARS: ___, LOWBIT_DEBUG: ____, ...env } = process.env;
  const child = spawn(process.execPath, [main, ...args], { env: { ...env, ...options.env }, cwd: options.cwd });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    options.onStdout?.(stdout, child);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    options.onStderr?.(stderr, child);
  });
  child.stdin.on('error', () => {}); // the command may end without reading its input
  child.stdin.end(options.input ?? '');
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** What a failure prints under --json. */
export interface Failure {
  readonly error: { readonly code: string; readonly message: string; readonly hint: string | null; readonly details: object };
}

/** Runs `lowbit ARGS --json` and parses stdout, which must be one JSON value: a `T`, or a `Failure` where one is expected. */
export async function lowbitJson<T = Failure>(
  args: readonly string[],
  options: RunOptions = {},
): Promise<{ readonly code: number | null; readonly json: T; readonly stderr: string }> {
  const { code, stdout, stderr } = await lowbit([...args, '--json'], options);
  return { code, json: JSON.parse(stdout) as T, stderr };
}

/** SHA-256 of every file of a folder, by name. */
export function digests(folder: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((name) => [
        name,
        createHash('sha256')
          .update(readFileSync(join(folder, name)))
          .digest('hex'),
      ]),
  );
}
