// @ts-check
// Makes the package that brings an addon to one platform, from what was built here: a folder to `npm publish`, or to install from. A release runs it on each
// platform, publishes what it makes, and then the package that the addon belongs to with them as optionalDependencies: docs/decisions/015.
//
// Used by packages/*/pack-platform.mjs: node pack-platform.mjs --out DIR (a new folder) [--target linux-x64-musl, for what build-native.mjs built for there: this
// runs in a Node.js of that platform, since what is made is loaded]. Needs the addon (build-native.mjs) and the package's own build (dist).
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/** The newest version of the C library that a file asks for, such as `2.34`; undefined where it asks for none by version. */
function glibc(/** @type {string} */ file) {
  const versions = [...readFileSync(file, 'latin1').matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, major, minor]) => [
    Number(major),
    Number(minor),
  ]);
  versions.sort(([a = 0, b = 0], [c = 0, d = 0]) => a - c || b - d);
  return versions.at(-1)?.join('.');
}

/** @type {(addon: string, name: string) => { libc?: string, needs: string }} the C library that an addon asks for */
function library(addon, name) {
  if (process.platform !== 'linux') return { needs: '' };
  if (name.endsWith('-musl')) return { libc: 'musl', needs: ' with musl' };
  const version = glibc(addon);
  return { libc: 'glibc', needs: version === undefined ? ' with glibc' : ` with glibc ${version} or later` };
}

/**
 * @param {object} addon
 * @param {string} addon.home URL of the package's folder
 * @param {string} addon.file what its build makes in `build/Release`
 * @param {number} addon.mostBytes an addon that is larger has something in it that does not belong there
 * @param {(file: string) => string} addon.describe what is in the built file, for its README; throws where it cannot be released, with the reason
 * @param {(folder: string) => { works: boolean, said: string }} addon.tryIt loads what was made, in a process of its own: a library that crashes must not look like one that was packed
 * @returns {Promise<number>} what the process should exit with
 */
export async function packPlatform({ home: url, file, mostBytes, describe, tryIt }) {
  const fail = (/** @type {string} */ problem) => {
    console.error(`pack-platform: ${problem}`);
    return 1;
  };
  const home = fileURLToPath(url);
  const { values } = parseArgs({ options: { out: { type: 'string' }, target: { type: 'string' } } });
  const addon = join(home, 'build', values.target ?? '', 'Release', file);
  if (!values.out) return fail('name a new folder: node pack-platform.mjs --out DIR');
  const out = resolve(values.out);
  if (existsSync(out) && readdirSync(out).length > 0) return fail(`${values.out} is not empty; name a new folder`);
  if (!existsSync(addon)) return fail('the addon is not built: run node build-native.mjs first');
  if (!existsSync(join(home, 'dist', 'index.js'))) return fail('the package is not built: run pnpm build first');
  const bytes = statSync(addon).size;
  if (bytes >= mostBytes) return fail(`the addon has ${bytes} bytes, ${mostBytes} or more; was it built with symbols?`);
  let holds;
  try {
    holds = describe(addon);
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
  const { name: owner, version, license, engines } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  const name = (await import(new URL('dist/index.js', url).href)).platformPackage();
  if (values.target && name !== `${owner}-${values.target}`)
    return fail(`this Node.js takes ${name}; pack ${values.target} in one of its own`);
  const { libc, needs } = library(addon, name);
  const manifest = {
    ...{ name, version, description: `The addon of ${owner} for ${process.platform}-${process.arch}`, license },
    ...{ os: [process.platform], cpu: [process.arch], ...(libc ? { libc: [libc] } : {}) },
    ...{ main: basename(addon), files: [basename(addon), 'README.md', 'LICENSE'], engines, preferUnplugged: true },
    publishConfig: { access: 'public' },
  };
  const readme = `# ${name}

The native addon of ${owner} ${version} for ${process.platform} on ${process.arch}${needs}, ${bytes} bytes${holds}. Install that package: it takes
this one by itself where it fits. There is nothing to import here.
`;

  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(join(out, 'README.md'), readme);
  copyFileSync(fileURLToPath(new URL('../LICENSE', import.meta.url)), join(out, 'LICENSE'));
  copyFileSync(addon, join(out, basename(addon)));
  const { works, said } = tryIt(out);
  if (!works) {
    rmSync(out, { recursive: true });
    return fail(`what was made does not load: ${said}`);
  }
  console.log(`${name}@${version}: ${bytes} bytes, loads here (${said.trim()})`);
  return 0;
}
