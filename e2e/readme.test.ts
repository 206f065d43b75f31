// The example of the README, run as it stands.

import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const generated = join(root, 'e2e', '.generated');
let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-readme-'));
  await symlink(join(root, 'examples'), join(dir, 'examples'));
  await mkdir(generated, { recursive: true });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(dir, { recursive: true, force: true });
  await rm(generated, { recursive: true, force: true });
});

it('quantizes, loads and streams', async () => {
  const [, code] = /```ts\n([\s\S]*?)```/.exec(await readFile(join(root, 'README.md'), 'utf8')) ?? [];
  expect(code!.trim().split('\n').length).toBeLessThanOrEqual(24);
  const file = join(generated, 'readme-example.ts');
  await writeFile(file, code!);
  const printed: string[] = [];
  const logged: unknown[][] = [];
  vi.spyOn(process, 'cwd').mockReturnValue(dir);
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => printed.push(String(text)) > 0);
  vi.spyOn(console, 'log').mockImplementation((...values) => void logged.push(values));
  await import(/* @vite-ignore */ file);
  vi.restoreAllMocks();
  const [weightError, loadsIn] = logged[0] as [number, string[]];
  expect(weightError).toBeGreaterThan(0.005);
  expect(weightError).toBeLessThan(0.01);
  expect(loadsIn.join(' ')).toContain('hqq');
  expect(printed.join('').length).toBeGreaterThan(60);
});
