// @ts-check
// Begins a package of the repository as the others are: `pnpm new:package NAME "What it is"` makes packages/NAME, which builds, passes `pnpm check` and is published.
//
// Usage: node tools/new-package.mjs NAME DESCRIPTION
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/**
 * The files of a new package by path, relative to the root of the repository.
 * @param {string} name the folder's; the package is @lowbit/NAME
 * @param {string} description one line, for package.json, the README and the changeset
 * @param {string} core package.json of @lowbit/core, which new packages go with
 * @returns {Record<string, string>}
 */
export function newPackage(name, description, core) {
  const { engines, license } = JSON.parse(core);
  const id = `@lowbit/${name}`;
  const manifest = {
    name: id,
    version: '0.0.0',
    description,
    type: 'module',
    license,
    sideEffects: false,
    engines,
    files: ['dist', 'README.md', 'LICENSE'],
    exports: { '.': { types: './dist/index.d.ts', default: './dist/index.js' }, './package.json': './package.json' },
    publishConfig: { access: 'public' },
    scripts: { build: 'tsup && node ../../tools/compact-declarations.mjs' },
    peerDependencies: { '@lowbit/core': 'workspace:>=0.0.0 <1.0.0' },
    devDependencies: { '@lowbit/core': 'workspace:*' },
  };
  return {
    [`packages/${name}/package.json`]: `${JSON.stringify(manifest, null, 2)}\n`,
    [`packages/${name}/tsup.config.ts`]: `import { library } from '../../tsup.shared.ts';

const config: ReturnType<typeof library> = library();
export default config;
`,
    [`packages/${name}/README.md`]: `# ${id}

${description}.

\`\`\`sh
npm i @lowbit/core ${id}
\`\`\`
`,
    [`packages/${name}/src/index.ts`]: `// The public names of ${id}.

export { CONTRACT } from './contract.ts';
`,
    [`packages/${name}/src/contract.ts`]: `/** The version of core's contracts that this package was written for. */
export const CONTRACT = 1;
`,
    [`packages/${name}/src/contract.test.ts`]: `import { referenceBackend } from '@lowbit/core';
import { expect, it } from 'vitest';
import { CONTRACT } from './contract.ts';

it('knows the contracts of this core', () => {
  expect(CONTRACT).toBe(referenceBackend().spec);
});
`,
    [`.changeset/new-${name}.md`]: `---
"${id}": minor
---

\`${id}\`: ${description}.
`,
  };
}

/**
 * What is wrong with a call, or undefined.
 * @param {string | undefined} name
 * @param {string | undefined} description
 * @param {string} root
 * @returns {string | undefined}
 */
export function problemWith(name, description, root) {
  if (!name || !description) return 'usage: pnpm new:package NAME "What it is"';
  if (!/^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/.test(name))
    return `${name}: a name has lower-case letters, digits and single dashes (kernels-metal)`;
  if (/[.\n]$|\n/.test(description)) return 'the description is one line without a full stop';
  if (existsSync(join(root, 'packages', name))) return `packages/${name} exists`;
  return undefined;
}

if (process.argv[1] && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const [name, description] = process.argv.slice(2);
  const problem = problemWith(name, description, root);
  if (problem !== undefined) {
    console.error(problem);
    process.exitCode = 2;
  } else {
    const files = newPackage(String(name), String(description), readFileSync(join(root, 'packages/core/package.json'), 'utf8'));
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
      console.log(path);
    }
    console.log('\nNext: npx pnpm install, npx turbo run build, node tools/api-report.mjs --write, then npx pnpm check.');
    console.log(
      'If others are to import it: a row in the tables of README.md and ARCHITECTURE.md, and in package.json where e2e tests use it.',
    );
  }
}
