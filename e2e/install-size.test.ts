// What installing puts on disk. docs/decisions/026-install-size.md says where the bytes of core and a method are. Needs the build.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const bytes = (path: string): number =>
  statSync(path).isDirectory() ? readdirSync(path).reduce((sum, name) => sum + bytes(join(path, name)), 0) : statSync(path).size;

describe.each(['hqq', 'bnb', 'higgs'])('core and %s', (method) => {
  it('take less than 300,000 bytes', (context) => {
    const folders = ['core', method].map((name) => join(root, 'packages', name));
    needs(
      context,
      'build',
      folders.every((folder) => existsSync(join(folder, 'dist'))),
      'the packages are not built',
    );
    const files = folders.flatMap((folder) => ['dist', 'package.json', 'README.md'].map((name) => join(folder, name)));
    const total = [...files, join(root, 'LICENSE'), join(root, 'LICENSE')].reduce((sum, file) => sum + bytes(file), 0);
    expect(total).toBeGreaterThan(50_000);
    expect(total).toBeLessThan(300_000);
  });
});

it('kernels-cpu, which the command depends on, takes less than 600,000 bytes without an addon, and runs nothing at install', (context) => {
  const folder = join(root, 'packages/kernels-cpu');
  needs(context, 'build', existsSync(join(folder, 'dist')), 'the packages are not built');
  const { files, scripts } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
    readonly files: readonly string[];
    readonly scripts: Readonly<Record<string, string>>;
  };
  const own = files.filter((name) => name !== 'LICENSE').map((name) => join(folder, name));
  const total = [...own, join(folder, 'package.json'), join(root, 'LICENSE')].reduce((sum, file) => sum + bytes(file), 0);
  expect(total).toBeGreaterThan(50_000);
  expect(total).toBeLessThan(600_000);
  // npm builds what has a binding.gyp even where no script says so.
  expect([Object.keys(scripts).filter((name) => /install|prepare/.test(name)), existsSync(join(folder, 'binding.gyp'))]).toEqual([
    [],
    false,
  ]);
  expect(files.some((name) => /build\/|\.node$/.test(name))).toBe(false);
});
