// Linux with musl, without a container: the addon built for it by build-native.mjs --target, loaded by a Node.js that is built for musl. And the mix-ups: a
// library for the other C library is refused by name before it can do harm.
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { ensureBuilt, main, TINY } from './cli-process.ts';

const home = fileURLToPath(new URL('../packages/kernels-cpu', import.meta.url));
const glibcAddon = join(home, 'build/Release/lowbit_cpu.node');
const muslAddon = join(home, 'build/linux-x64-musl/Release/lowbit_cpu.node');
const node = process.env.LOWBIT_MUSL_NODE ?? '';
const environment = { ...process.env, LOWBIT_CACHE: 'off' };

const run = async (command: string, args: readonly string[], env: NodeJS.ProcessEnv = environment): Promise<string> =>
  (await promisify(execFile)(command, [...args], { env, maxBuffer: 1 << 24 })).stdout;
/** What a program of one module prints, as JSON. */
const told = async (command: string, code: string): Promise<unknown> => JSON.parse(await run(command, ['--input-type=module', '-e', code]));

let reason = '';
beforeAll(async () => {
  ensureBuilt();
  if (node === '') reason = 'LOWBIT_MUSL_NODE names no Node.js for musl (node scripts/musl-tools.mjs fetches one)';
  else if (!existsSync(glibcAddon)) reason = 'the addon of kernels-cpu, whose results are compared, is not built';
  else {
    await run(process.execPath, [join(home, 'native/test/run-musl.mjs'), 'check']).catch((error: { readonly stderr: string }) => {
      reason = error.stderr.trim();
    });
  }
  if (reason === '') await run(process.execPath, [join(home, 'native/test/run-musl.mjs'), 'build']);
}, 900_000);
const musl = (context: { skip(reason: string): void }): void => needs(context, 'musl', reason === '', reason);

const dir = mkdtempSync(join(tmpdir(), 'lowbit-musl-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const url = (path: string): string => JSON.stringify(new URL(`../packages/${path}`, import.meta.url).href);
const KIT = `
  import { cpu } from ${url('kernels-cpu/dist/index.js')};
  import { backendCases, runCases } from ${url('testing/dist/index.js')};
  const provider = cpu({ threads: 2 });
  const cases = backendCases(provider, { tolerances: { batch: 0, dequantize: 0 } }).filter(({ group }) => /^format: |^operations$|^lifetime$/.test(group));
  const outcomes = await runCases(cases);
  const probe = await provider.probe();
  console.log(JSON.stringify({ probe, passed: outcomes.filter(({ outcome }) => outcome === 'passed').length, failed: outcomes.filter(({ outcome }) => outcome === 'failed') }));
`;
const PROBE = (path: string): string => `
  import { cpu } from ${url('kernels-cpu/dist/index.js')};
  const error = await cpu({ binding: ${JSON.stringify(path)} }).open().catch((thrown) => thrown);
  console.log(JSON.stringify({ code: error.code, message: error.message, hint: error.hint }));
`;

describe('kernels-cpu on musl', () => {
  it('passes the conformance kit of linears and operations', async (context) => {
    musl(context);
    const env = { ...environment, LOWBIT_CPU_ADDON: muslAddon };
    const { probe, passed, failed } = JSON.parse(await run(node, ['--input-type=module', '-e', KIT], env));
    expect(probe).toMatchObject({ ok: true });
    expect(failed).toEqual([]);
    expect(passed).toBeGreaterThan(100);
  });

  it('gives the greedy text that glibc gives', async (context) => {
    musl(context);
    const args = [
      main,
      'generate',
      TINY,
      '-p',
      'And the LORD said unto Moses,',
      '--max-tokens',
      '24',
      '--temp',
      '0',
      '--json',
      '--backend',
      'cpu',
    ];
    const text = async (command: string, addon: string): Promise<unknown> =>
      JSON.parse(await run(command, args, { ...environment, LOWBIT_CPU_ADDON: addon })).text;
    const expected = await text(process.execPath, glibcAddon);
    expect(expected).toMatch(/\w/);
    expect(await text(node, muslAddon)).toEqual(expected);
  });

  it('is packed for musl by a Node.js of musl alone', async (context) => {
    musl(context);
    const pack = (command: string, out: string): Promise<string> =>
      run(command, [join(home, 'pack-platform.mjs'), '--target', 'linux-x64-musl', '--out', join(dir, out)]);
    expect(await pack(node, 'made')).toMatch(/^@lowbit\/kernels-cpu-linux-x64-musl@.* bytes, loads here/);
    const manifest = JSON.parse(readFileSync(join(dir, 'made/package.json'), 'utf8'));
    expect(manifest).toMatchObject({ name: '@lowbit/kernels-cpu-linux-x64-musl', os: ['linux'], cpu: ['x64'], libc: ['musl'] });
    await expect(pack(process.execPath, 'not')).rejects.toThrow('pack linux-x64-musl in one of its own');
  });

  it('C++: every instruction set gives the bytes that glibc gives', async (context) => {
    musl(context);
    expect(await run(process.execPath, [join(home, 'native/test/run-musl.mjs'), 'hashes'])).toMatch(/^ok \(.*scalar; [1-9]\d+ hashes/);
  });

  it('a library for the other C library is refused, with the package that is needed', async (context) => {
    musl(context);
    expect(await told(node, PROBE(glibcAddon))).toMatchObject({
      code: 'ERR_BACKEND_UNAVAILABLE',
      message: expect.stringContaining('it is built for Linux with glibc, and this Node.js is for musl'),
      hint: expect.stringContaining('Install @lowbit/kernels-cpu-linux-x64-musl on the system that runs it'),
    });
    expect(await told(process.execPath, PROBE(muslAddon))).toMatchObject({
      code: 'ERR_BACKEND_UNAVAILABLE',
      message: expect.stringContaining('it is built for Linux with musl, and this Node.js is for glibc'),
      hint: expect.stringContaining('Install @lowbit/kernels-cpu-linux-x64-gnu on the system that runs it'),
    });
  });

  it('so is a node_modules that was copied from the other system', async (context) => {
    musl(context);
    // As a user has it: the package without a build of its own, beside the platform package of the other system.
    const modules = join(dir, 'project/node_modules/@lowbit');
    const root = fileURLToPath(new URL('..', import.meta.url));
    for (const name of ['core', 'addon', 'kernels-cpu']) {
      mkdirSync(join(modules, name), { recursive: true });
      for (const part of ['dist', 'package.json'])
        cpSync(join(root, 'packages', name, part), join(modules, name, part), { recursive: true });
    }
    const tell = async (command: string, other: string): Promise<unknown> => {
      const platform = join(modules, `kernels-cpu-linux-x64-${other}`);
      mkdirSync(platform);
      writeFileSync(
        join(platform, 'package.json'),
        JSON.stringify({ name: `@lowbit/kernels-cpu-linux-x64-${other}`, main: 'lowbit_cpu.node' }),
      );
      cpSync(other === 'gnu' ? glibcAddon : muslAddon, join(platform, 'lowbit_cpu.node'));
      writeFileSync(
        join(dir, 'project/probe.mjs'),
        "import { cpu } from '@lowbit/kernels-cpu';\nconsole.log((await cpu().probe()).reason);\n",
      );
      const said = await run(command, [join(dir, 'project/probe.mjs')]);
      rmSync(platform, { recursive: true });
      return said;
    };
    const lines = (needed: string, there: string): unknown =>
      expect.stringMatching(
        `platform package: @lowbit/kernels-cpu-linux-x64-${needed}: it is not installed; @lowbit/kernels-cpu-linux-x64-${there} is, .*Install @lowbit/kernels-cpu-linux-x64-${needed}`,
      );
    expect(await tell(node, 'gnu')).toEqual(lines('musl', 'gnu'));
    expect(await tell(process.execPath, 'musl')).toEqual(lines('gnu', 'musl'));
  });
});
