// The C++ tests of the emulator and of the fake driver's memory: what the other tests of this package stand on.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { noFakeDriver } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';

it('the emulator does what a GPU promises and finds what it does not', (context) => {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  const program = fileURLToPath(new URL('../build/lowbit_cuda_test', import.meta.url));
  const { status, stderr, stdout } = spawnSync(program, { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(stdout).toBe('ok\n');
  expect(status).toBe(0);
});
