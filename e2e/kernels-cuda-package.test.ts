// The package that brings the CUDA addon to this platform: made where there are kernels, refused where there are none, loaded by its name.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { platformPackage } from '@lowbit/kernels-cuda';
import { afterAll, expect, it } from 'vitest';
import { noFakeDriver } from '../fixtures/fake-cuda.ts';
import { needs } from '../fixtures/needs.ts';

const home = fileURLToPath(new URL('../packages/kernels-cuda/', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'lowbit-cuda-package-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it('has the addon with its kernels, or is not made', (context) => {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  const out = join(dir, 'made');
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(home, 'pack-platform.mjs'), '--out', out], { encoding: 'utf8' });
  const { image } = createRequire(import.meta.url)(join(home, 'build/Release/lowbit_cuda.node'));
  if (image().bytes === 0) {
    expect(stderr).toContain('the addon has no kernels');
    expect([status, existsSync(out)]).toEqual([1, false]);
    return;
  }
  expect(stderr).toBe('');
  expect(stdout).toContain(`${platformPackage()}@`);
  expect(readdirSync(out).sort()).toEqual(['LICENSE', 'README.md', 'lowbit_cuda.node', 'package.json']);
  const manifest = JSON.parse(readFileSync(join(out, 'package.json'), 'utf8'));
  expect(manifest).toMatchObject({ name: platformPackage(), os: [process.platform], cpu: [process.arch], main: 'lowbit_cuda.node' });
  expect(manifest).not.toHaveProperty('scripts');

  // In a project, beside a copy of the package that has no build of its own.
  const modules = join(dir, 'project/node_modules/@lowbit');
  mkdirSync(join(modules, 'kernels-cuda'), { recursive: true });
  for (const name of ['core', 'addon']) symlinkSync(fileURLToPath(new URL(`../packages/${name}`, import.meta.url)), join(modules, name));
  for (const name of ['dist', 'package.json']) symlinkSync(join(home, name), join(modules, 'kernels-cuda', name));
  const code = `import { cuda } from '@lowbit/kernels-cuda'; console.log(JSON.stringify(await cuda({ driver: '/no/driver' }).probe()));`;
  const args = ['--preserve-symlinks', '--preserve-symlinks-main', '--input-type=module', '-e', code];
  const reason = (): string => {
    const run = spawnSync(process.execPath, args, { encoding: 'utf8', cwd: join(dir, 'project') });
    expect(run.stderr).toBe('');
    return JSON.parse(run.stdout).reason;
  };
  expect(reason()).toContain(`Install ${platformPackage()}`);
  symlinkSync(out, join(modules, platformPackage().slice('@lowbit/'.length)));
  expect(reason()).toContain('/no/driver');
});
