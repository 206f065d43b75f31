// @ts-check
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { UNPUBLISHED } from '../tsup.shared.ts';
import { checkLayers, compiledIn, importsOf, positionalSwitches } from './check-layers.mjs';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'lowbit-layers-'));
  put('packages/core/package.json', { name: '@lowbit/core' });
  put('packages/hqq/package.json', { name: '@lowbit/hqq', peerDependencies: { '@lowbit/core': 'workspace:^' } });
  put('packages/bnb/package.json', { name: '@lowbit/bnb', devDependencies: { '@lowbit/layouts': 'workspace:*' } });
  put('packages/layouts/package.json', { name: '@lowbit/layouts', private: true, peerDependencies: { '@lowbit/core': 'workspace:^' } });
  put('packages/addon/package.json', { name: '@lowbit/addon', peerDependencies: { '@lowbit/core': 'workspace:^' } });
  put('packages/kernels-x/package.json', { name: '@lowbit/kernels-x', dependencies: { '@lowbit/addon': 'workspace:^' } });
  put('packages/cli/package.json', { name: 'lowbit', dependencies: { '@lowbit/core': 'workspace:^', '@lowbit/hqq': 'workspace:^' } });
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** @type {(path: string, content: string | object) => void} */
function put(path, content) {
  const file = join(root, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content, null, 2));
}

/** `rule file:line` of each violation. */
const found = () => checkLayers(root).map(({ rule, file, line }) => `${rule} ${file}:${line}`);

/** @type {[string, string, string, string][]} */
const badImports = [
  ['a static import across the star', 'packages/hqq/src/a.ts', "import { x } from '@lowbit/hub';", 'star'],
  ['a type import across the star', 'packages/hqq/src/a.ts', "import type { X } from '@lowbit/hub';", 'star'],
  ['a dynamic import across the star', 'packages/hqq/src/a.ts', "export const x = () => import('@lowbit/hub/deep');", 'star'],
  ['an import type node across the star', 'packages/hqq/src/a.ts', "export type X = import('@lowbit/hub').X;", 'star'],
  ['a re-export across the star', 'packages/hqq/src/a.ts', "export * from '@lowbit/hub';", 'star'],
  ['a test across the star', 'packages/hqq/src/a.test.ts', "import '@lowbit/hub';", 'star'],
  ['a library importing the kit outside of its tests', 'packages/hqq/src/a.ts', "import '@lowbit/testing';", 'star'],
  ['core importing the kit outside of its tests', 'packages/core/src/a.ts', "import '@lowbit/testing';", 'core-import'],
  ['a library importing the cli', 'packages/hqq/src/a.ts', "import 'lowbit';", 'star'],
  ['a foundation importing a library', 'packages/addon/src/a.ts', "import '@lowbit/hqq';", 'star'],
  ['core importing what is compiled into libraries', 'packages/core/src/a.ts', "import '@lowbit/layouts';", 'core-import'],
  ['what is compiled in importing a library', 'packages/layouts/src/a.ts', "import '@lowbit/hqq';", 'star'],
  ['what is compiled in importing a foundation', 'packages/layouts/src/a.ts', "import '@lowbit/addon';", 'star'],
  ['an undeclared import of what is compiled in', 'packages/hqq/src/a.ts', "import '@lowbit/layouts';", 'undeclared'],
  ['core importing a foundation', 'packages/core/src/a.ts', "import '@lowbit/addon';", 'core-import'],
  ['core importing a library', 'packages/core/src/a.ts', "import '@lowbit/hqq';", 'core-import'],
  ['core importing anything', 'packages/core/src/a.ts', "import 'left-pad';", 'undeclared'],
  ['spec importing the rest of core', 'packages/core/src/spec/a.ts', "import type { X } from '../b.ts';", 'spec'],
  ['spec importing a package', 'packages/core/src/spec/a.ts', "import type { X } from 'left-pad';", 'spec'],
  ['node in a portable file', 'packages/hqq/src/a.ts', "import { open } from 'node:fs/promises';", 'node'],
  ['node without its prefix', 'packages/hqq/src/a.ts', "import { open } from 'fs/promises';", 'node'],
  ['the own barrel by path', 'packages/hqq/src/deep/a.ts', "import { x } from '../index.ts';", 'barrel'],
  ['the own barrel by name', 'packages/hqq/src/a.ts', "import { x } from '@lowbit/hqq';", 'barrel'],
  ['the barrel of the cli', 'packages/cli/src/main.ts', "import { x } from './index.ts';", 'barrel'],
  ['the shared fixtures outside of a test', 'packages/hqq/src/a.ts', "import '../../../fixtures/golden.ts';", 'outside'],
  ['a path into another package', 'packages/hqq/src/a.ts', "import { x } from '../../core/src/b.ts';", 'outside'],
];

/** @type {[string, string, string][]} */
const goodImports = [
  ['a library importing core', 'packages/hqq/src/a.ts', "import { x } from '@lowbit/core'; import '@lowbit/core/deep';"],
  ['a library importing what is compiled in', 'packages/bnb/src/a.ts', "import { x } from '@lowbit/layouts';"],
  ['a library importing a foundation', 'packages/kernels-x/src/a.ts', "import { Addon } from '@lowbit/addon';"],
  ['the cli importing everything', 'packages/cli/src/a.ts', "import '@lowbit/core'; import '@lowbit/hqq'; import 'node:fs';"],
  ['node in a node file', 'packages/hqq/src/a.node.ts', "import 'node:fs';"],
  ['node and a test tool in a test', 'packages/hqq/src/a.test.ts', "import 'node:fs'; import 'vitest';"],
  ['a test of a library importing the kit', 'packages/hqq/src/a.test.ts', "import { seeded } from '@lowbit/testing';"],
  ['a test of core importing the kit', 'packages/core/src/a.test.ts', "import { seeded } from '@lowbit/testing';"],
  ['a test reading the shared fixtures', 'packages/hqq/src/a.test.ts', "import '../../../fixtures/golden.ts';"],
  ['the barrel re-exporting', 'packages/hqq/src/index.ts', "export * from './a.ts';"],
  ['an inner index', 'packages/core/src/spec/b.ts', "export * from './deep/index.ts';"],
  ['a name in a comment or a string', 'packages/core/src/a.ts', "// import '@lowbit/hqq'\nexport const x = \"import '@lowbit/hqq'\";"],
];

describe('check-layers', () => {
  it.each(badImports)('reports %s', (_name, file, text, rule) => {
    put(file, `// first line\n${text}\n`);
    expect(found()).toEqual([`${rule} ${file}:2`]);
  });

  it.each(goodImports)('accepts %s', (_name, file, text) => {
    put(file, text);
    expect(found()).toEqual([]);
  });

  it('reports forbidden dependencies in package.json', () => {
    put('packages/core/package.json', { name: '@lowbit/core', dependencies: { 'left-pad': '1' }, devDependencies: { '@lowbit/hqq': '1' } });
    put('packages/hqq/package.json', { name: '@lowbit/hqq', devDependencies: { '@lowbit/hub': '1' } });
    expect(found().sort()).toEqual([
      'core-dependency packages/core/package.json:4',
      'core-dependency packages/core/package.json:7',
      'star packages/hqq/package.json:4',
    ]);
  });

  it('reports a file over 700 lines, and only over', () => {
    put('packages/hqq/src/long.ts', 'export {};\n'.repeat(701));
    put('packages/hqq/src/full.ts', 'export {};\n'.repeat(700));
    put('tools/long.mjs', 'export {};\n'.repeat(701));
    expect(found().sort()).toEqual(['length packages/hqq/src/long.ts:701', 'length tools/long.mjs:701']);
  });

  it('finds every form of import with its line', () => {
    const text =
      "import a from 'a';\nimport type { B } from 'b';\nexport { c } from 'c';\nconst d = await import('d');\nimport e = require('e');\n";
    expect(importsOf('x.ts', text).map(({ specifier, line }) => specifier + line)).toEqual(['a1', 'b2', 'c3', 'd4', 'e5']);
  });

  it('prints each violation with its place and remedy, and exits 1', () => {
    put('packages/hqq/src/a.ts', "import 'node:fs';\n");
    const tool = fileURLToPath(new URL('./check-layers.mjs', import.meta.url));
    const bad = spawnSync(process.execPath, [tool, root], { encoding: 'utf8' });
    expect(bad.status).toBe(1);
    expect(bad.stderr).toContain("packages/hqq/src/a.ts:1: imports 'node:fs'.");
    expect(bad.stderr).toContain('move this part to a *.node.ts file');
    put('packages/hqq/src/a.ts', 'export {};\n');
    const good = spawnSync(process.execPath, [tool, root], { encoding: 'utf8' });
    expect([good.status, good.stdout]).toEqual([0, 'layers: ok\n']);
  });
});

describe('switches by their place', () => {
  /** @type {(text: string) => string[]} */
  const switches = (text) => positionalSwitches('a.ts', text).map(({ name, parameter, line }) => `${line} ${name}(${parameter})`);

  it.each([
    ['a function', 'export function f(a: string, b: boolean) {}', '1 f(b)'],
    ['a default', '\nexport async function f(b = false) {}', '2 f(b)'],
    ['an optional one', 'export function f(b?: boolean | undefined) {}', '1 f(b)'],
    ['an arrow function', 'export const f = (b: boolean): void => {};', '1 f(b)'],
    ['a method', 'export class C { m(b: boolean) {} }', '1 C.m(b)'],
  ])('are found: %s', (_, text, expected) => {
    expect(switches(text)).toEqual([expected]);
  });

  it.each([
    ['by its name', 'export function f(a: string, { b }: { readonly b: boolean }) {}'],
    ['the datum itself', 'export function check(condition: boolean): asserts condition {}'],
    ['within a file', 'function f(b: boolean) {} class C { m(b: boolean) {} }'],
    ['a private method', 'export class C { #m(b: boolean) {} private n(b: boolean) {} }'],
  ])('are none: %s', (_, text) => {
    expect(switches(text)).toEqual([]);
  });

  it('fail the check', () => {
    put('packages/hqq/src/a.ts', 'export function f(b: boolean) {}');
    expect(found()).toEqual(['switch packages/hqq/src/a.ts:1']);
  });
});

it('packages that are not published are those that the build compiles in', () => {
  const packages = new URL('../packages/', import.meta.url);
  const manifests = readdirSync(packages).map((name) => JSON.parse(readFileSync(new URL(`${name}/package.json`, packages), 'utf8')));
  const unpublished = manifests.filter((manifest) => manifest.private).map(({ name }) => name);
  expect([...compiledIn].sort()).toEqual(unpublished.sort());
  expect(Object.keys(UNPUBLISHED).sort()).toEqual(unpublished);
});
