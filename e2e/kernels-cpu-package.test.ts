// The addon as users of released packages get it: packed, installed into a project without a network, and found by the name of the platform.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cpu, platformPackage } from '@lowbit/kernels-cpu';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { ensureBuilt } from './cli-process.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const home = join(root, 'packages/kernels-cpu');
const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

let dir = '';
beforeAll(() => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-package-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function run(command: string, args: readonly string[], cwd: string): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: 'utf8', shell: process.platform === 'win32' });
  return { status, output: `${stdout}${stderr}${error?.message ?? ''}` };
}

/** Loads the addon in the project, multiplies, and tells from which file. */
const SCRIPT = `
import { createRequire } from 'node:module';
import { createRuntime } from '@lowbit/core';
import { cpu } from '@lowbit/kernels-cpu';
const show = (value) => console.log(JSON.stringify(value));
const probe = await cpu({ threads: 1 }).probe();
if (!probe.ok) show(probe);
else {
  const runtime = await createRuntime({ backends: [cpu({ threads: 1 })] });
  const backend = await runtime.backend();
  const tensor = (shape, values) => ({ dtype: 'f32', shape, data: new Uint8Array(Float32Array.from(values).buffer) });
  const linear = await runtime.linear({ format: { kind: 'dense', dtype: 'f32' }, shape: [2, 2], parts: { weight: tensor([2, 2], [1, 2, 3, 4]) } });
  const x = backend.alloc({ dtype: 'f32', shape: [1, 2] });
  const out = backend.alloc({ dtype: 'f32', shape: [1, 2] });
  backend.write(x, tensor([1, 2], [1, 1]).data);
  linear.forward(x, out);
  const { data } = await backend.read(out);
  const file = Object.keys(createRequire(import.meta.url).cache).find((name) => name.endsWith('.node'));
  show({ ok: true, product: [...new Float32Array(data.buffer, data.byteOffset, 2)], file });
  linear[Symbol.dispose]();
  await runtime[Symbol.asyncDispose]();
}
`;

type Told = { readonly ok: true; readonly product: number[]; readonly file: string } | { readonly ok: false; readonly reason: string };

function tell(project: string): Told {
  const { status, output } = run(process.execPath, ['script.mjs'], project);
  if (status !== 0) throw new Error(output);
  return JSON.parse(output) as Told;
}

it('is made of what was built, installs without a network, and loads by the name of the platform', (context) => {
  addon(context);
  const made = join(dir, 'made');
  const packed = run(process.execPath, [join(home, 'pack-platform.mjs'), '--out', made], root);
  expect(packed.output).toContain(`${platformPackage()}@`);
  expect(packed.status).toBe(0);
  const manifest = JSON.parse(readFileSync(join(made, 'package.json'), 'utf8'));
  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  expect(manifest).toMatchObject({
    name: platformPackage(),
    version,
    os: [process.platform],
    cpu: [process.arch],
    main: 'lowbit_cpu.node',
  });
  if (process.platform === 'linux') expect(manifest.libc).toEqual([platformPackage().endsWith('-musl') ? 'musl' : 'glibc']);
  expect(manifest).not.toHaveProperty('scripts');
  expect(readdirSync(made).sort()).toEqual(['LICENSE', 'README.md', 'lowbit_cpu.node', 'package.json']);
  expect(statSync(join(made, 'lowbit_cpu.node')).size).toBeLessThan(2_000_000);

  const pnpm = join(root, 'node_modules/.bin/pnpm');
  for (const folder of [join(root, 'packages/core'), join(root, 'packages/addon'), home, made]) {
    const result = run(pnpm, ['pack', '--pack-destination', dir], folder);
    expect(result.status, result.output).toBe(0);
  }
  const project = join(dir, 'project');
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{"private":true,"type":"module"}');
  writeFileSync(join(project, 'script.mjs'), SCRIPT);
  const archives = readdirSync(dir).filter((name) => name.endsWith('.tgz'));
  expect(archives).toHaveLength(4);
  const flags = ['--offline', '--no-audit', '--no-fund', '--ignore-scripts', '--cache', join(dir, 'cache')];
  const installed = run('npm', ['install', ...flags, ...archives.map((name) => join(dir, name))], project);
  expect(installed.status, installed.output).toBe(0);

  const own = join(project, 'node_modules/@lowbit/kernels-cpu');
  expect(existsSync(join(own, 'build'))).toBe(false);
  const platform = join(project, 'node_modules', platformPackage());
  const told = tell(project);
  expect(told).toEqual({ ok: true, product: [3, 7], file: expect.stringContaining(join(platformPackage(), 'lowbit_cpu.node')) });

  // One for another machine, as in a node_modules that was copied.
  const file = join(platform, 'lowbit_cpu.node');
  const head = Buffer.alloc(512);
  head.write('\x7fELF\x02\x01\x01', 'latin1');
  head.writeUInt16LE(3, 16);
  head.writeUInt16LE(process.arch === 'arm64' ? 62 : 183, 18);
  rmSync(file); // an installer may have linked it
  writeFileSync(file, head);
  const places = [
    expect.stringContaining('local build: '),
    expect.stringContaining(`platform package: ${platformPackage()}: it is built for linux-`),
  ];
  const lines = (found: Told): string[] => (found.ok ? [] : found.reason.split('\n').slice(1));
  expect(lines(tell(project))).toEqual(places);

  // None at all.
  rmSync(platform, { recursive: true });
  expect(lines(tell(project))).toEqual([places[0], expect.stringContaining(`Install ${platformPackage()}`)]);

  // A build in the package's folder comes first.
  mkdirSync(join(own, 'build/Release'), { recursive: true });
  copyFileSync(join(home, 'build/Release/lowbit_cpu.node'), join(own, 'build/Release/lowbit_cpu.node'));
  expect(tell(project)).toMatchObject({ ok: true, file: expect.stringContaining(join('build', 'Release', 'lowbit_cpu.node')) });
});

it('says what is wrong with how it was called', (context) => {
  addon(context);
  const script = join(home, 'pack-platform.mjs');
  expect(run(process.execPath, [script], dir)).toEqual({ status: 1, output: expect.stringContaining('--out DIR') });
  writeFileSync(join(dir, 'there'), '');
  expect(run(process.execPath, [script, '--out', dir], dir)).toEqual({ status: 1, output: expect.stringContaining('is not empty') });
});
