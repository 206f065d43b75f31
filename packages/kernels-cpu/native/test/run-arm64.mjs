// @ts-check
// Builds the C++ tests and the addon for arm64 on another machine, and runs the tests under qemu-user on three processors, so that each instruction set
// is there on one that has no better. What they compute has the same bytes as on this machine, whose addon is built (build-native.mjs).
//
// Usage: node native/test/run-arm64.mjs [check | build | PROCESSOR]; default build and every processor. check: exit 3 and what this machine lacks.
// Needs g++-aarch64-linux-gnu and qemu-user (packages of Debian and Ubuntu), cmake, and make or ninja. e2e/arm64.test.ts runs it.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const home = fileURLToPath(new URL('../..', import.meta.url));
const out = join(home, 'build', 'arm64');
const parallel = ['--parallel', String(availableParallelism())];

/** What runs on processors of qemu, the best first. */
const PROCESSORS = /** @type {Readonly<Record<string, readonly string[]>>} */ ({
  max: ['i8mm', 'dotprod', 'neon', 'scalar'],
  'cortex-a76': ['dotprod', 'neon', 'scalar'],
  'cortex-a57': ['neon', 'scalar'],
});

/** @type {(command: string) => boolean} */
const works = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
const emulator = ['qemu-aarch64', 'qemu-aarch64-static'].find(works);

/** What this machine lacks, and how to get it; empty if nothing. */
function missing() {
  const lacks = [];
  if (!works('aarch64-linux-gnu-g++')) lacks.push('aarch64-linux-gnu-g++ (apt-get install g++-aarch64-linux-gnu)');
  if (emulator === undefined) lacks.push('qemu-aarch64 (apt-get install qemu-user)');
  if (!works('cmake') || !(works('make') || works('ninja'))) lacks.push('cmake with make or ninja');
  return lacks.length > 0 ? `this machine has no ${lacks.join(', no ')}` : '';
}

/**
 * Runs a command; throws with the end of what it wrote if it fails.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {string} what it wrote to stdout
 */
function output(command, args) {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, { cwd: home, encoding: 'utf8' });
  if (status === 0) return stdout;
  throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? signal ?? `exit ${status}`}\n${`${stdout}${stderr}`.slice(-4000)}`);
}

/** The addon and lowbit_test, from the same objects. */
function build() {
  const cmakeJs = join(dirname(createRequire(import.meta.url).resolve('cmake-js/package.json')), 'bin', 'cmake-js');
  const toolchain = `--CDCMAKE_TOOLCHAIN_FILE=${join(home, 'native', 'arm64-linux.cmake')}`;
  output(process.execPath, [cmakeJs, 'compile', '--directory', home, '--out', out, '--arch', 'arm64', toolchain, ...parallel]);
  output('cmake', ['--build', out, '--target', 'lowbit_test', ...parallel]);
  const addon = join(out, 'Release', 'lowbit_cpu.node');
  const machine = readFileSync(addon).readUInt16LE(18);
  if (machine !== 183) throw new Error(`${addon} is for machine ${machine} of ELF, not for AArch64 (183)`);
  console.log(`built ${addon}`);
}

/** lowbit_test on this machine, from the objects of its addon. */
function hashesHere() {
  output('cmake', ['--build', join(home, 'build'), '--target', 'lowbit_test', ...parallel]);
  return output(join(home, 'build', 'lowbit_test'), ['--hashes']);
}

/** @type {(processor: string) => void} */
function test(processor) {
  /** @type {(flag: string) => string} */
  const run = (flag) => output(emulator ?? 'qemu-aarch64', ['-cpu', processor, join(out, 'lowbit_test'), flag]);
  const wanted = PROCESSORS[processor]?.join(', ');
  const found = run('--isas').trim().split('\n').join(', ');
  if (found !== wanted) throw new Error(`on ${processor} the instruction sets are ${found}, not ${wanted}`);
  const hashes = run('--hashes').split('\n');
  const expected = hashesHere().split('\n');
  const differing = hashes.map((hash, i) => (hash === expected[i] ? '' : `${hash}, here ${expected[i]}`)).filter((line) => line !== '');
  if (differing.length > 0 || hashes.length !== expected.length) {
    throw new Error(`${processor} gives other bytes than this machine:\n${differing.join('\n')}`);
  }
  console.log(`${processor}: ok (${found}; ${hashes.length - 1} hashes as on this machine)`);
}

const wanted = process.argv[2] ?? 'all';
if (!['all', 'check', 'build', ...Object.keys(PROCESSORS)].includes(wanted)) {
  throw new Error(`usage: node native/test/run-arm64.mjs [check | build | ${Object.keys(PROCESSORS).join(' | ')}]`);
}
const lacks = missing();
if (lacks !== '') {
  console.error(lacks);
  process.exit(3);
}
if (wanted === 'all' || wanted === 'build') build();
for (const processor of Object.keys(PROCESSORS)) {
  if (wanted === 'all' || wanted === processor) test(processor);
}
