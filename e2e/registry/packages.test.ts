// Each published package as an archive: what is in it, what it asks for, and what linters of packages say.

import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../../fixtures/needs.ts';
import { ensureBuilt } from '../cli-process.ts';
import { must, pack, publishedPackages, toolsProblem } from './registry.mjs';

const dir = mkdtempSync(join(tmpdir(), 'lowbit-archives-'));
let archives: string[] = [];
beforeAll(() => {
  ensureBuilt();
  archives = pack(publishedPackages(), dir);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license?: string;
  readonly engines?: { readonly node?: string };
  readonly scripts?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}
const manifestAt = (folder: string): Manifest => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));

describe.each(publishedPackages().map((folder) => ({ name: basename(folder), folder })))('package $name', ({ folder }) => {
  const files = (): string[] => {
    const prefix = `${manifestAt(folder).name.replace('@', '').replace('/', '-')}-${manifestAt(folder).version}.tgz`;
    const archive = archives.find((path) => basename(path) === prefix)!;
    return must('tar', ['-tzf', archive], dir)
      .trim()
      .split('\n')
      .map((path) => path.replace(/^package\//, ''))
      .sort();
  };

  it('has its licence, its README and what was built, and neither sources of TypeScript nor tests', () => {
    const found = files();
    expect(found).toEqual(expect.arrayContaining(['LICENSE', 'README.md', 'package.json', 'dist/index.js', 'dist/index.d.ts']));
    const stray = found.filter((path) =>
      /(^|\/)(src|test|tests|node_modules|build)\/|\.test\.|\.map$|\.tsbuildinfo$|(?<!\.d)\.ts$|\.node$/.test(path),
    );
    expect(stray).toEqual([]);
  });

  it('says what it is, runs nothing when it is installed, and asks for its siblings by versions that exist', () => {
    const { license, engines, scripts = {}, dependencies = {}, peerDependencies = {}, optionalDependencies = {} } = manifestAt(folder);
    expect([license, engines?.node]).toEqual(['Apache-2.0', expect.stringMatching(/^>=20\./)]);
    expect(Object.keys(scripts).filter((name) => /^(pre|post)?(install|prepare|prepublish)$/.test(name))).toEqual([]);
    const siblings = Object.entries({ ...dependencies, ...peerDependencies, ...optionalDependencies }).filter(([name]) =>
      /^(@lowbit\/|lowbit$)/.test(name),
    );
    for (const [name, range] of siblings) expect([name, range]).toEqual([name, expect.stringMatching(/^workspace:/)]);
  });

  it('depends on packages with permissive licences, which run nothing at install either', () => {
    const seen = new Map<string, string>();
    const visit = (from: string): void => {
      for (const name of Object.keys(manifestAt(from).dependencies ?? {})) {
        const home = resolved(name, from);
        if (seen.has(home)) continue;
        const { license = 'none', scripts = {} } = manifestAt(home);
        const runs = Object.keys(scripts).filter((key) => /^(pre|post)?install$/.test(key));
        seen.set(home, `${name}: ${license}${runs.length > 0 ? `, runs ${runs.join(' and ')}` : ''}`);
        visit(home);
      }
    };
    visit(folder);
    const odd = [...seen.values()].filter((line) => !/: (MIT|ISC|Apache-2\.0|BSD-[23]-Clause|0BSD)$/.test(line));
    expect(odd).toEqual([]);
  });
});

/** The folder of an installed package, itself and no link to it: what it depends on is beside that. */
function resolved(name: string, from: string): string {
  const places = createRequire(join(from, 'package.json')).resolve.paths(name) ?? [];
  const home = places.map((place) => join(place, name)).find((path) => existsSync(join(path, 'package.json')));
  if (home === undefined) throw new Error(`${name} is not installed for ${from}`);
  return realpathSync(home);
}

it('linters of packages find nothing in any', (context) => {
  const problem = toolsProblem();
  needs(context, 'registry', problem === undefined, problem ?? '');
  const tools = fileURLToPath(new URL('tools', import.meta.url));
  const found = JSON.parse(must(process.execPath, [join(tools, 'lint-packages.mjs'), ...archives], tools));
  expect(Object.keys(found)).toHaveLength(archives.length);
  expect(found).toEqual(Object.fromEntries(archives.map((path) => [basename(path), []])));
});
