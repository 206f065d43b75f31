// @ts-check
// Builds the addon and the C++ tests for Linux with musl on a machine with glibc, and runs them: the tests give the bytes that this machine's give, the
// addon is loaded by a Node.js that is built for musl.
//
// Usage: node native/test/run-musl.mjs [check | build | hashes]; default build and hashes. check: exit 3 and what this machine lacks.
// Needs Zig's compiler (LOWBIT_ZIG, else `zig`; pip install ziglang), cmake, and make or ninja. e2e/musl.test.ts runs it.
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const home = fileURLToPath(new URL('../..', import.meta.url));
const out = join(home, 'build', 'linux-x64-musl');
const parallel = ['--parallel', String(availableParallelism())];
const zig = process.env.LOWBIT_ZIG || 'zig';

/** @type {(command: string, ...args: string[]) => boolean} */
const works = (command, ...args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/** What this machine lacks, and how to get it; empty if nothing. */
function missing() {
  const lacks = [];
  if (process.platform !== 'linux' || process.arch !== 'x64') lacks.push('Linux on x64');
  if (!works(zig, 'version')) lacks.push('zig (pip install ziglang; LOWBIT_ZIG=path/to/zig names it)');
  if (!works('cmake', '--version') || !(works('make', '--version') || works('ninja', '--version'))) lacks.push('cmake with make or ninja');
  return lacks.length > 0 ? `this machine has no ${lacks.join(', no ')}` : '';
}

/**
 * Runs a command; throws with the end of what it wrote if it fails.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {string} what it wrote to stdout
 */
function output(command, args) {
  const env = { ...process.env, LOWBIT_ZIG: zig, LOWBIT_MUSL_PROCESSOR: 'x86_64' };
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, { cwd: home, encoding: 'utf8', env });
  if (status === 0) return stdout;
  throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? signal ?? `exit ${status}`}\n${`${stdout}${stderr}`.slice(-4000)}`);
}

function build() {
  output(process.execPath, ['build-native.mjs', '--target', 'linux-x64-musl']);
  console.log(`built ${join(out, 'Release', 'lowbit_cpu.node')}`);
}

/** The C++ tests, static, on this machine: every instruction set that it has, and the bytes of each. */
function hashes() {
  output('cmake', ['--build', out, '--target', 'lowbit_test', ...parallel]);
  output('cmake', ['--build', join(home, 'build'), '--target', 'lowbit_test', ...parallel]);
  const run = (/** @type {string} */ folder, /** @type {string} */ flag) => output(join(folder, 'lowbit_test'), [flag]).trim().split('\n');
  const [isas, expected, found] = [run(out, '--isas'), run(join(home, 'build'), '--hashes'), run(out, '--hashes')];
  const differing = found.flatMap((hash, i) => (hash === expected[i] ? [] : [`${hash}, with glibc ${expected[i]}`]));
  if (differing.length > 0 || found.length !== expected.length)
    throw new Error(`musl gives other bytes than glibc:\n${differing.join('\n')}`);
  console.log(`ok (${isas.join(', ')}; ${found.length} hashes as with glibc)`);
}

const wanted = process.argv[2] ?? 'all';
if (!['all', 'check', 'build', 'hashes'].includes(wanted)) throw new Error('usage: node native/test/run-musl.mjs [check | build | hashes]');
const lacks = missing();
if (lacks !== '') {
  console.error(lacks);
  process.exit(3);
}
if (wanted === 'all' || wanted === 'build') build();
if (wanted === 'all' || wanted === 'hashes') hashes();
