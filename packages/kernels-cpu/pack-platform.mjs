// @ts-check
// Makes the package that brings the addon to one platform, from what was built here: a folder to `npm publish`, or to install from.
//
// Usage: node pack-platform.mjs --out DIR (a new folder). Needs the addon (build-native.mjs) and the package's own build (dist).
// A release runs it on each platform, publishes what it makes, and then this package with them as optionalDependencies: docs/decisions/016.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const home = fileURLToPath(new URL('.', import.meta.url));
const addon = join(home, 'build', 'Release', 'lowbit_cpu.node');
/** An addon that is larger has something in it that does not belong there: symbols, another copy of the kernels. */
const MOST_BYTES = 2_000_000;

/** The newest version of the C library that a file asks for, such as `2.34`; undefined where it asks for none by version. */
function glibc(/** @type {string} */ file) {
  const versions = [...readFileSync(file, 'latin1').matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, major, minor]) => [
    Number(major),
    Number(minor),
  ]);
  versions.sort(([a = 0, b = 0], [c = 0, d = 0]) => a - c || b - d);
  return versions.at(-1)?.join('.');
}

/**
 * What the folder holds beside the addon.
 * @param {{ name: string, version: string, license: string, engines: object, bytes: number }} facts
 */
function texts({ name, version, license, engines, bytes }) {
  const libc = process.platform === 'linux' ? (name.endsWith('-musl') ? 'musl' : 'glibc') : undefined;
  const needs = libc === 'glibc' ? ` with glibc ${glibc(addon) ?? ''} or later`.replace('  ', ' ') : libc === 'musl' ? ' with musl' : '';
  const manifest = {
    ...{ name, version, description: `The addon of @lowbit/kernels-cpu for ${process.platform}-${process.arch}`, license },
    ...{ os: [process.platform], cpu: [process.arch], ...(libc ? { libc: [libc] } : {}) },
    ...{ main: basename(addon), files: [basename(addon), 'README.md', 'LICENSE'], engines, preferUnplugged: true },
    publishConfig: { access: 'public' },
  };
  const readme = `# ${name}

The native addon of @lowbit/kernels-cpu ${version} for ${process.platform} on ${process.arch}${needs}, ${bytes} bytes. Install that package: it takes
this one by itself where it fits. There is nothing to import here.
`;
  return { 'package.json': `${JSON.stringify(manifest, null, 2)}\n`, 'README.md': readme };
}

/** @type {(problem: string) => number} */
function fail(problem) {
  console.error(`pack-platform: ${problem}`);
  return 1;
}

async function main() {
  const { values } = parseArgs({ options: { out: { type: 'string' } } });
  if (!values.out) return fail('name a new folder: node pack-platform.mjs --out DIR');
  const out = resolve(values.out);
  if (existsSync(out) && readdirSync(out).length > 0) return fail(`${values.out} is not empty; name a new folder`);
  if (!existsSync(addon)) return fail('the addon is not built: run node build-native.mjs first');
  if (!existsSync(join(home, 'dist', 'index.js'))) return fail('the package is not built: run pnpm build first');
  const bytes = statSync(addon).size;
  if (bytes >= MOST_BYTES) return fail(`the addon has ${bytes} bytes, ${MOST_BYTES} or more; was it built with symbols?`);
  const { platformPackage } = await import('./dist/index.js');
  const { version, license, engines } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  const name = platformPackage();

  mkdirSync(out, { recursive: true });
  for (const [file, text] of Object.entries(texts({ name, version, license, engines, bytes }))) writeFileSync(join(out, file), text);
  copyFileSync(join(home, '..', '..', 'LICENSE'), join(out, 'LICENSE'));
  copyFileSync(addon, join(out, basename(addon)));

  // What was made is what is tried, and in a process of its own: a library that crashes must not look like one that was packed.
  const code = `import { cpu } from ${JSON.stringify(new URL('dist/index.js', import.meta.url).href)};
    const { createRequire } = await import('node:module');
    const file = createRequire(import.meta.url).resolve(${JSON.stringify(out)});
    const probe = await cpu({ binding: file }).probe();
    console.log(probe.ok ? probe.detail : probe.reason);
    process.exitCode = probe.ok ? 0 : 1;`;
  const tried = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  if (tried.status !== 0) {
    rmSync(out, { recursive: true });
    return fail(`what was made does not load: ${tried.stdout}${tried.stderr}`);
  }
  console.log(`${name}@${version}: ${bytes} bytes, loads here (${tried.stdout.trim()})`);
  return 0;
}

process.exitCode = await main();
