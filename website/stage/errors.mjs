// @ts-check
// The codes of errors that the packages throw, as their sources have them, and which package throws which.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../pages.mjs';

/** Codes of Node and of the native addon that the sources compare with, and no package throws. The kit throws ERR_TEST_... at what it tests, and catches them. */
const NODES = new Set(['ERR_MODULE_NOT_FOUND', 'ERR_PACKAGE_PATH_NOT_EXPORTED', 'ERR_OUT_OF_MEMORY']);

/** @type {(dir: string) => string[]} */
function sources(dir) {
  return readdirSync(join(root, dir), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.includes('.test.'))
    .map((name) => `${dir}/${name.replaceAll('\\', '/')}`);
}

/** @returns {ReadonlyMap<string, readonly string[]>} packages that name it by code */
export function errorCodes() {
  /** @type {Map<string, string[]>} */
  const codes = new Map();
  for (const dir of readdirSync(join(root, 'packages'))) {
    const { name } = JSON.parse(readFileSync(join(root, 'packages', dir, 'package.json'), 'utf8'));
    for (const file of sources(`packages/${dir}/src`)) {
      for (const [, code = ''] of readFileSync(join(root, file), 'utf8').matchAll(/'(ERR_[A-Z0-9_]+)'/g)) {
        if (NODES.has(code) || code.startsWith('ERR_TEST_')) continue;
        const packages = codes.get(code) ?? [];
        if (!packages.includes(name)) codes.set(code, [...packages, name]);
      }
    }
  }
  return new Map([...codes].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** @type {(text: string) => string[]} codes that the page has a section of */
export const documentedCodes = (text) => [...text.matchAll(/^## (ERR_\w+)$/gm)].map(([, code = '']) => code);

/** @type {(text: string) => string} the page, with the packages that each code is found in. Throws where page and sources differ. */
export function errorsText(text) {
  const codes = errorCodes();
  const documented = documentedCodes(text);
  const missing = [...codes.keys()].filter((code) => !documented.includes(code));
  const gone = documented.filter((code) => !codes.has(code));
  if (missing.length + gone.length > 0)
    throw new Error(`docs/errors.md: no section of ${missing.join(', ') || '-'}; nothing throws ${gone.join(', ') || '-'}`);
  return text.replace(/^## (ERR_\w+)$/gm, (line, code) => `${line}\n\n*In the sources of ${(codes.get(code) ?? []).join(', ')}.*`);
}
