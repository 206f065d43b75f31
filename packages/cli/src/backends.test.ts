import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type BackendSettings, findBackends } from './backends.ts';

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-backends-'));
  for (const [file, text] of Object.entries(FILES)) {
    mkdirSync(dirname(join(dir, file)), { recursive: true });
    writeFileSync(join(dir, file), text);
  }
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const provider = (name: string): string =>
  `{ spec: 1, name: ${name}, probe: async () => ({ ok: true, detail: 'here' }), open: async () => { throw new Error('not today'); } }`;
const manifest = (fields: object): string => JSON.stringify({ name: 'x', version: '1.0.0', ...fields });

const FILES: Readonly<Record<string, string>> = {
  'default.mjs': `export default ${provider("'default'")};`,
  'named.mjs': `export const backend = ${provider("'named'")}; export default 5;`,
  'factory.mjs': `export default async (settings) => (${provider("'factory ' + JSON.stringify(settings)")});`,
  'common.cjs': `exports.backend = ${provider("'common'")};`,
  'broken.mjs': "throw new Error('boom\\nmore');",
  'lacking.mjs': "import 'a-package-that-is-not-there';",
  'nothing.mjs': 'export const x = 1;',
  'old.mjs': `export default { ...${provider("'old'")}, spec: 0 };`,
  'empty.mjs': 'export default () => undefined;',
  'node_modules/plain/package.json': manifest({ main: 'main.js' }),
  'node_modules/plain/main.js': `module.exports = () => (${provider("'plain'")});`,
  // What `require.resolve` alone does not find: exports for `import` only.
  'node_modules/@some/one/package.json': manifest({
    type: 'module',
    exports: { '.': { types: './x.d.ts', import: { node: './main.js' } }, './sub': { import: './sub.js' } },
  }),
  'node_modules/@some/one/main.js': `export default ${provider("'scoped'")};`,
  'node_modules/@some/one/sub.js': `export default ${provider("'sub'")};`,
};

const named = async (choice: string, settings: BackendSettings = {}): Promise<string> => {
  const [found, ...others] = await findBackends(choice, { ...settings, from: dir });
  expect(others).toEqual([]);
  return found!.name;
};

describe('findBackends', () => {
  it('knows its own by name, in order of preference', async () => {
    const names = async (...args: Parameters<typeof findBackends>) => (await findBackends(...args)).map(({ name }) => name);
    expect(await names()).toEqual(['cpu', 'reference']);
    expect(await names('auto', { threads: 2, precision: 'fast' })).toEqual(['cpu', 'reference']);
    expect(await names('cpu', { isa: 'scalar' })).toEqual(['cpu']);
    expect(await names('reference', { threads: undefined } as object)).toEqual(['reference']);
  });

  it('takes modules by path, whatever they export it as', async () => {
    expect(await named('./default.mjs')).toBe('default');
    expect(await named(join(dir, 'named.mjs'))).toBe('named');
    expect(await named(pathToFileURL(join(dir, 'common.cjs')).href)).toBe('common');
    expect(await named('./factory.mjs')).toBe('factory {}');
    expect(await named('./factory.mjs', { threads: 3 })).toBe('factory {"threads":3}');
    expect(await named('./factory.mjs', { weightMemory: 6e9 })).toBe('factory {"weightMemory":6000000000}');
  });

  it('takes packages by name, from where the user stands', async () => {
    expect(await named('plain')).toBe('plain');
    expect(await named('@some/one')).toBe('scoped');
    expect(await named('@some/one/sub')).toBe('sub');
    await expect(findBackends('plain', { from: tmpdir() })).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
  });

  const failing: [string, BackendSettings, string, RegExp, RegExp][] = [
    ['reference', { threads: 2 }, 'ERR_BAD_ARGUMENT', /no setting threads/, /one thread/],
    ['cpu', { weightMemory: 6e9 }, 'ERR_BAD_ARGUMENT', /no option weightMemory/, /isa/],
    ['cpu', { threads: 0 }, 'ERR_BAD_ARGUMENT', /threads cannot be 0/, /whole number/],
    ['gpu', {}, 'ERR_NOT_FOUND', /no backend 'gpu'/, /auto, cpu, reference, a path such as/],
    ['webgpu', {}, 'ERR_NOT_FOUND', /no backend 'webgpu'/, /--backend @lowbit\/kernels-webgpu/],
    ['default.mjs', {}, 'ERR_NOT_FOUND', /no backend 'default\.mjs'/, /write \.\/default\.mjs/],
    ['./absent.mjs', {}, 'ERR_NOT_FOUND', /absent\.mjs: the file does not exist/, /a path such as/],
    ['@some/one/other', {}, 'ERR_NOT_FOUND', /no backend/, /installed package/],
    ['./broken.mjs', {}, 'ERR_BACKEND_UNAVAILABLE', /could not be loaded: boom$/, /import it/],
    ['./lacking.mjs', {}, 'ERR_BACKEND_UNAVAILABLE', /a-package-that-is-not-there/, /installed/],
    ['./nothing.mjs', {}, 'ERR_BAD_ARGUMENT', /exports no backend/, /default export/],
    ['./old.mjs', {}, 'ERR_BAD_ARGUMENT', /exports no backend/, /spec 1/],
    ['./empty.mjs', {}, 'ERR_BAD_ARGUMENT', /makes no backend/, /BackendProvider/],
    ['./default.mjs', { threads: 2 }, 'ERR_BAD_ARGUMENT', /takes no setting threads/, /function of the settings/],
  ];

  it.each(failing)('refuses %s with %j', async (choice, settings, code, message, hint) => {
    await expect(findBackends(choice, { ...settings, from: dir })).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    });
  });
});
