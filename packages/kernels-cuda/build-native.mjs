// @ts-check
// Builds the addon where there is a C++ toolchain; says so and goes on where there is none, unless LOWBIT_REQUIRE names kernels-cuda. Kernels are embedded
// where there is nvcc; without it (or with LOWBIT_NVCC=off) the addon is for tests: they bring a driver that has kernels of its own.
//
// Usage: node build-native.mjs (in this folder). Result: build/Release/lowbit_cuda.node. Does nothing when that is up to date.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildAddon } from '@lowbit/addon/build';
import { CUBINS, compileKernels, findNvcc, PTX, toolkitVersion } from './nvcc.mjs';

const home = fileURLToPath(new URL('.', import.meta.url));

/** @type {(nvcc: string | undefined) => void} writes the source with the compiled kernels in it, or with none */
function embed(nvcc) {
  const folder = join(home, 'build', 'kernels');
  const source = join(folder, 'image.cpp');
  mkdirSync(folder, { recursive: true });
  if (!nvcc) {
    console.warn('kernels-cuda: built without nvcc: tests run, a GPU does not. LOWBIT_NVCC=path/to/nvcc names one.');
    return copyFileSync(join(home, 'native', 'driver', 'no_image.cpp'), source);
  }
  const fatbin = join(folder, 'kernels.fatbin');
  compileKernels(nvcc, fatbin);
  const bytes = readFileSync(fatbin);
  const rows = Array.from({ length: Math.ceil(bytes.length / 32) }, (_, i) => [...bytes.subarray(32 * i, 32 * i + 32)].join(','));
  const facts = `"${[...CUBINS, PTX].join(' ')}", ${toolkitVersion(nvcc)}`;
  const array = `alignas(16) const unsigned char kBytes[] = {${rows.join(',\n')}};`;
  writeFileSync(source, `#include "device.h"\nnamespace lowbit {\n${array}\nconst Image kImage = {kBytes, sizeof kBytes, ${facts}};\n}\n`);
}

const nvcc = process.env.LOWBIT_NVCC === 'off' ? undefined : findNvcc();
process.exitCode = buildAddon({
  home: new URL('.', import.meta.url).href,
  file: 'lowbit_cuda.node',
  sources: ['nvcc.mjs'],
  facts: nvcc ? String(toolkitVersion(nvcc)) : '',
  prepare: () => embed(nvcc),
});
