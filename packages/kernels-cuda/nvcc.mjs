// @ts-check
// The kernels by nvcc: the fat binary that the addon embeds, and what the assembler says of each kernel.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('native/kernels/all.cu', import.meta.url));

/** Code of each, and PTX of the last for what comes after them. */
export const CUBINS = ['sm_80', 'sm_86', 'sm_89', 'sm_90'];
export const PTX = 'compute_80';

/** Path of nvcc: LOWBIT_NVCC, the PATH, CUDA_HOME, the usual place. undefined: there is none. */
export function findNvcc() {
  const { LOWBIT_NVCC: named, CUDA_HOME: home } = process.env;
  const candidates = named ? [named] : ['nvcc', ...(home ? [join(home, 'bin', 'nvcc')] : []), '/usr/local/cuda/bin/nvcc'];
  return candidates.find((path) => spawnSync(path, ['--version'], { stdio: 'ignore' }).status === 0);
}

/**
 * Version of the toolkit, 1000 * major + 10 * minor.
 * @param {string} nvcc
 */
export function toolkitVersion(nvcc) {
  const { stdout } = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
  const found = /release (\d+)\.(\d+)/.exec(stdout);
  if (!found) throw new Error(`${nvcc} tells no version`);
  return 1000 * Number(found[1]) + 10 * Number(found[2]);
}

/**
 * @typedef {{ kernel: string, target: string, registers: number, stack: number, spilled: number }} Assembled
 */

/**
 * Writes the fat binary to `out`. Throws with nvcc's own words where it does not compile.
 * @param {string} nvcc
 * @param {string} out
 * @returns {readonly Assembled[]}
 */
export function compileKernels(nvcc, out) {
  const code = CUBINS.map((target) => `arch=${target.replace('sm_', 'compute_')},code=${target}`);
  const targets = [...code, `arch=${PTX},code=${PTX}`].flatMap((one) => ['-gencode', one]);
  // Compressed in the way that every driver knows.
  const args = ['-fatbin', '-std=c++17', '-O3', '--fmad=false', '-Xptxas', '-v', '-Xfatbin', '-compress-all', ...targets];
  const { status, stderr, stdout, error } = spawnSync(nvcc, [...args, source, '-o', out], { encoding: 'utf8' });
  if (status !== 0 || !existsSync(out)) throw new Error(`nvcc failed: ${error?.message ?? ''}${stdout ?? ''}${stderr ?? ''}`);
  return assembled(`${stdout}${stderr}`);
}

/**
 * What ptxas -v says.
 * @param {string} text
 * @returns {readonly Assembled[]}
 */
export function assembled(text) {
  /** @type {Assembled[]} */
  const kernels = [];
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '(\w+)' for '(\w+)'/.exec(line);
    if (entry) kernels.push({ kernel: entry[1] ?? '', target: entry[2] ?? '', registers: -1, stack: -1, spilled: -1 });
    const last = kernels.at(-1);
    const memory = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (last && memory) Object.assign(last, { stack: Number(memory[1]), spilled: Number(memory[2]) + Number(memory[3]) });
    const used = /Used (\d+) registers/.exec(line);
    if (last && used) last.registers = Number(used[1]);
  }
  return kernels;
}
