// @ts-check
// Builds an addon where there is a C++ toolchain; says so and goes on where there is none, unless LOWBIT_REQUIRE names its package. With cmake-js and the
// headers of node-api-headers: a build downloads nothing.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/** @type {(dir: string) => string[]} */
const filesBelow = (dir) =>
  readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });

/** @type {(command: string, ...args: string[]) => boolean} */
const works = (command, ...args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/**
 * Other platforms that are built for here: `node build-native.mjs --target linux-x64-musl`, into `build/linux-x64-musl`.
 * @type {Readonly<Record<string, { arch: string, processor: string }>>}
 */
const TARGETS = {
  'linux-x64-musl': { arch: 'x64', processor: 'x86_64' },
  'linux-arm64-musl': { arch: 'arm64', processor: 'aarch64' },
};
const zig = process.env.LOWBIT_ZIG || 'zig';
const toolchain = fileURLToPath(new URL('toolchains/musl.cmake', import.meta.url));

/** @type {(target: string | undefined) => string | undefined} what the machine lacks, as text; undefined if nothing */
function missing(target) {
  const lacks = [];
  if (target !== undefined && !works(zig, 'version')) lacks.push('zig (pip install ziglang; LOWBIT_ZIG=path/to/zig names it)');
  if (!works('cmake', '--version')) lacks.push('cmake');
  if (process.platform !== 'win32') {
    if (target === undefined && !['c++', 'g++', 'clang++', process.env.CXX ?? ''].some((name) => name !== '' && works(name, '--version')))
      lacks.push('a C++ compiler');
    if (!works('make', '--version') && !works('ninja', '--version')) lacks.push('make or ninja');
  }
  return lacks.length > 0 ? lacks.join(' and ') : undefined;
}

/** @type {(home: string) => string | undefined} path of cmake-js's command, if it is installed: those who only use the package do without */
function cmakeJs(home) {
  try {
    return join(dirname(createRequire(join(home, 'package.json')).resolve('cmake-js/package.json')), 'bin', 'cmake-js');
  } catch {
    return undefined;
  }
}

/** @type {(home: string, sources: readonly string[], facts: string) => string} what an addon is made of */
function fingerprint(home, sources, facts) {
  const hash = createHash('sha256').update(`${process.platform} ${process.arch} ${process.env.CXX ?? ''} ${facts}\n`);
  const files = ['CMakeLists.txt', 'package.json', ...sources].map((name) => join(home, name));
  for (const file of [...files, ...filesBelow(join(home, 'native')).sort()])
    hash.update(file.slice(home.length)).update(readFileSync(file));
  return hash.digest('hex');
}

/** @type {typeof import('@lowbit/addon/build').buildAddon} */
export function buildAddon({ home: url, file, sources = [], facts = '', prepare }) {
  const home = fileURLToPath(url);
  const name = basename(home);
  const { target } = parseArgs({ options: { target: { type: 'string' } } }).values;
  if (target !== undefined && TARGETS[target] === undefined) {
    console.error(`${name}: --target ${target} is not known: ${Object.keys(TARGETS).join(' or ')}.`);
    return 2;
  }
  const out = join(home, 'build', target ?? '');
  const addon = join(out, 'Release', file);
  const stamp = join(out, 'stamp');
  const wanted = fingerprint(home, sources, `${facts}${target ?? ''}`);
  if (existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return 0;
  const required = (process.env.LOWBIT_REQUIRE ?? '').split(',').some((one) => one.trim() === name);
  const lacks = missing(target);
  if (target !== undefined && lacks !== undefined) {
    console.error(`${name}: cannot be built for ${target}, this machine has no ${lacks}.`);
    return 1;
  }
  if (lacks !== undefined) {
    console.warn(`${name}: NOT BUILT, this machine has no ${lacks}. Its tests are skipped; everything else works without it.`);
    console.warn(`${name}: to build it, install cmake, make and g++ 12 or clang 15 or later, and build again.`);
    if (required) console.error(`${name}: LOWBIT_REQUIRE names it, so this is an error.`);
    return required ? 1 : 0;
  }
  const bin = cmakeJs(home);
  if (bin === undefined) {
    console.error(`${name}: the tools of its build are not installed. Run: npm install --no-save cmake-js node-addon-api node-api-headers`);
    return 1;
  }
  prepare?.();
  const args = [bin, 'compile', '--directory', home, '--log-level', 'warn', '--parallel', String(availableParallelism())];
  const cross = target === undefined ? undefined : TARGETS[target];
  if (cross) args.push('--out', out, '--arch', cross.arch, `--CDCMAKE_TOOLCHAIN_FILE=${toolchain}`);
  const env = { ...process.env, ...(cross && { LOWBIT_ZIG: zig, LOWBIT_MUSL_PROCESSOR: cross.processor }) };
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit', cwd: home, env });
  if (status !== 0 || !existsSync(addon)) {
    console.error(`${name}: the build failed, see above. Remove the folder build in ${name} to start afresh.`);
    return 1;
  }
  writeFileSync(stamp, wanted);
  return 0;
}
