// @ts-check
// Builds the addon where there is a C++ toolchain; says so and goes on where there is none, unless LOWBIT_REQUIRE names kernels-cuda. Kernels are embedded
// where there is nvcc; without it (or with LOWBIT_NVCC=off) the addon is for tests: they bring a driver that has kernels of its own.
//
// Usage: node build-native.mjs (in this folder). Result: build/Release/lowbit_cuda.node. Does nothing when that is up to date.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CUBINS, compileKernels, findNvcc, PTX, toolkitVersion } from './nvcc.mjs';

const home = fileURLToPath(new URL('.', import.meta.url));
const addon = join(home, 'build', 'Release', 'lowbit_cuda.node');
const stamp = join(home, 'build', 'stamp');

/** @type {(dir: string) => string[]} */
const filesBelow = (dir) =>
  readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });

/** @type {(nvcc: string | undefined) => string} what the addon is made of */
function fingerprint(nvcc) {
  const files = ['CMakeLists.txt', 'package.json', 'nvcc.mjs'].map((name) => join(home, name));
  const hash = createHash('sha256').update(
    `${process.platform} ${process.arch} ${process.env.CXX ?? ''} ${nvcc ? toolkitVersion(nvcc) : ''}\n`,
  );
  for (const file of [...files, ...filesBelow(join(home, 'native')).sort()])
    hash.update(file.slice(home.length)).update(readFileSync(file));
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

/** @type {(nvcc: string | undefined) => void} writes the source with the compiled kernels in it, or with none */
function embed(nvcc) {
  const folder = join(home, 'build', 'kernels');
  const source = join(folder, 'image.cpp');
  mkdirSync(folder, { recursive: true });
  if (!nvcc) return copyFileSync(join(home, 'native', 'driver', 'no_image.cpp'), source);
  const fatbin = join(folder, 'kernels.fatbin');
  compileKernels(nvcc, fatbin);
  const bytes = readFileSync(fatbin);
  const rows = Array.from({ length: Math.ceil(bytes.length / 32) }, (_, i) => [...bytes.subarray(32 * i, 32 * i + 32)].join(','));
  const facts = `"${[...CUBINS, PTX].join(' ')}", ${toolkitVersion(nvcc)}`;
  const array = `alignas(16) const unsigned char kBytes[] = {${rows.join(',\n')}};`;
  writeFileSync(source, `#include "device.h"\nnamespace lowbit {\n${array}\nconst Image kImage = {kBytes, sizeof kBytes, ${facts}};\n}\n`);
}

function main() {
  const nvcc = process.env.LOWBIT_NVCC === 'off' ? undefined : findNvcc();
  const wanted = fingerprint(nvcc);
  if (existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return 0;
  const required = (process.env.LOWBIT_REQUIRE ?? '').split(',').includes('kernels-cuda');
  const lacks = missing();
  if (lacks !== undefined) {
    console.warn(`kernels-cuda: NOT BUILT, this machine has no ${lacks}. Its tests are skipped; everything else works without it.`);
    console.warn('kernels-cuda: to build it, install cmake, make and g++ 12 or clang 15 or later, and build again.');
    if (required) console.error('kernels-cuda: LOWBIT_REQUIRE names it, so this is an error.');
    return required ? 1 : 0;
  }
  const bin = cmakeJs();
  if (bin === undefined) {
    console.error(
      'kernels-cuda: the tools of its build are not installed. Run: npm install --no-save cmake-js node-addon-api node-api-headers',
    );
    return 1;
  }
  embed(nvcc);
  if (!nvcc) console.warn('kernels-cuda: built without nvcc: tests run, a GPU does not. LOWBIT_NVCC=path/to/nvcc names one.');
  const options = ['--directory', home, '--log-level', 'warn', '--parallel', String(availableParallelism())];
  const { status } = spawnSync(process.execPath, [bin, 'compile', ...options], { stdio: 'inherit', cwd: home });
  if (status !== 0 || !existsSync(addon)) {
    console.error('kernels-cuda: the build failed, see above. Remove packages/kernels-cuda/build to start afresh.');
    return 1;
  }
  writeFileSync(stamp, wanted);
  return 0;
}

process.exitCode = main();
