// What the command loads before it knows what to do: each module costs the time of `lowbit --help`.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { ensureBuilt } from './cli-process.ts';

const command = fileURLToPath(new URL('../packages/cli/bin/lowbit.js', import.meta.url));

beforeAll(ensureBuilt);

let folder = '';
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lowbit-cold-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

it('--help loads neither models nor the hub', () => {
  const [list, hooks, register] = ['list.txt', 'hooks.mjs', 'register.mjs'].map((name) => join(folder, name)) as [string, string, string];
  writeFileSync(
    hooks,
    `import { appendFileSync } from 'node:fs';
export async function load(url, context, next) {
  appendFileSync(${JSON.stringify(list)}, url + '\\n');
  return next(url, context);
}`,
  );
  writeFileSync(register, `import { register } from 'node:module';\nregister(${JSON.stringify(pathToFileURL(hooks).href)});`);
  const { status, stdout } = spawnSync(process.execPath, ['--import', pathToFileURL(register).href, command, '--help'], {
    encoding: 'utf8',
  });
  expect({ status, first: stdout.split('\n')[0] }).toEqual({ status: 0, first: 'Usage: lowbit [options] [command]' });
  const loaded = readFileSync(list, 'utf8');
  expect(loaded).toContain('/packages/core/dist/');
  expect(loaded).not.toMatch(/\/packages\/(?:models|hub|kernels-[a-z]+)\/|@huggingface/);
});
