// @ts-check
// Builds the addon where there is a C++ toolchain; says so and goes on where there is none, unless LOWBIT_REQUIRE names kernels-cpu.
//
// Usage: node build-native.mjs (in this folder). Result: build/Release/lowbit_cpu.node. Does nothing when that is up to date.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const home = fileURLToPath(new URL('.', import.meta.url));
const addon = join(home, 'build', 'Release', 'lowbit_cpu.node');
const stamp = join(home, 'build', 'stamp');

/** @type {(dir: string) => string[]} */
const filesBelow = (dir) =>
  readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });

/** What the addon is made of. */
function fingerprint() {
  const files = [join(home, 'CMakeLists.txt'), join(home, 'package.json'), ...filesBelow(join(home, 'native')).sort()];
  const hash = createHash('sha256').update(`${process.platform} ${process.arch} ${process.env.CXX ?? ''}\n`);
  for (const file of files) hash.update(file.slice(home.length)).update(readFileSync(file));
  return hash.digest('hex');
}

/** @type {(command: string, ...args: string[]) => boolean} */
const works = (command, ...args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/** What the machine lacks, as text; undefined if nothing. */
function missing() {
  const lacks = [];
  if (!works('cmake', '--version')) lacks.push('cmake');
  if (process.platform !== 'win32') {
    if (!['c++', 'g++', 'clang++', process.env.CXX ?? ''].some((name) => name !== '' && works(name, '--version')))
      lacks.push('a C++ compiler');
    if (!works('make', '--version') && !works('ninja', '--version')) lacks.push('make or ninja');
  }
  return lacks.length > 0 ? lacks.join(' and ') : undefined;
}

/** Path of cmake-js's command, if it is installed: those who only use the package do without. */
function cmakeJs() {
  try {
    return join(dirname(createRequire(import.meta.url).resolve('cmake-js/package.json')), 'bin', 'cmake-js');
  } catch {
    return undefined;
  }
}

function main() {
  const wanted = fingerprint();
  if (existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return 0;
  const required = (process.env.LOWBIT_REQUIRE ?? '').split(',').includes('kernels-cpu');
  const lacks = missing();
  if (lacks !== undefined) {
    console.warn(`kernels-cpu: NOT BUILT, this machine has no ${lacks}. Its tests are skipped; everything else works without it.`);
    console.warn('kernels-cpu: to build it, install cmake, make and g++ 12 or clang 15 or later, and build again.');
    if (required) console.error('kernels-cpu: LOWBIT_REQUIRE names it, so this is an error.');
    return required ? 1 : 0;
  }
  const bin = cmakeJs();
  if (bin === undefined) {
    console.error(
      'kernels-cpu: the tools of its build are not installed. Run: npm install --no-save cmake-js node-addon-api node-api-headers',
    );
    return 1;
  }
  const args = [bin, 'compile', '--directory', home, '--log-level', 'warn', '--parallel', String(availableParallelism())];
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit', cwd: home });
  if (status !== 0 || !existsSync(addon)) {
    console.error('kernels-cpu: the build failed, see above. Remove packages/kernels-cpu/build to start afresh.');
    return 1;
  }
  writeFileSync(stamp, wanted);
  return 0;
}

process.exitCode = main();
