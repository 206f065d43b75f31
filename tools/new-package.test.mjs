// @ts-check
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { checkLayers } from './check-layers.mjs';
import { newPackage, problemWith } from './new-package.mjs';

const real = fileURLToPath(new URL('..', import.meta.url));
const core = readFileSync(join(real, 'packages/core/package.json'), 'utf8');

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'lowbit-new-'));
  put({ 'packages/core/package.json': core, ...newPackage('kernels-metal', 'Kernels for Metal', core) });
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** @type {(files: Record<string, string>) => void} */
function put(files) {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

it('makes what the layers allow', () => {
  expect(checkLayers(root)).toEqual([]);
});

it('makes a manifest like that of the other packages', () => {
  const made = JSON.parse(readFileSync(join(root, 'packages/kernels-metal/package.json'), 'utf8'));
  const other = JSON.parse(readFileSync(join(real, 'packages/testing/package.json'), 'utf8'));
  // That one also has what is compiled into it.
  const { '@lowbit/layouts': _, '@lowbit/program': __, ...devDependencies } = other.devDependencies;
  expect(made).toEqual({ ...other, devDependencies, name: '@lowbit/kernels-metal', description: 'Kernels for Metal' });
});

it('refuses names that are none, and those that are taken', () => {
  expect(problemWith(undefined, undefined, root)).toContain('usage');
  expect(problemWith('kernels-rocm', undefined, root)).toContain('usage');
  for (const name of ['Kernels', '../x', 'a--b', '-a', 'a_b']) expect(problemWith(name, 'Something', root)).toContain('a name has');
  expect(problemWith('kernels-rocm', 'Ends with a full stop.', root)).toContain('one line');
  expect(problemWith('kernels-metal', 'Kernels for Metal', root)).toContain('exists');
  expect(problemWith('kernels-rocm', 'Kernels for ROCm', root)).toBeUndefined();
});
