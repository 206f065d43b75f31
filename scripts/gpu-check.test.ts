// gpu-check.sh, packed and run as on a machine with a GPU, but on the emulator and with small shapes.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Backend } from '@lowbit/core';
import { cuda } from '@lowbit/kernels-cuda';
import { backendCases } from '@lowbit/testing';
import { afterAll, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../fixtures/fake-cuda.ts';
import { needs } from '../fixtures/needs.ts';
import { onBackend } from './gpu-common.mjs';

const dir = mkdtempSync(join(tmpdir(), 'lowbit-gpu-check-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const script = fileURLToPath(new URL('gpu-check.sh', import.meta.url));

it('checks and measures from a folder that was carried, with nothing of the system but a shell', (context) => {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  const carried = join(dir, 'carried');
  const packed = spawnSync('bash', [script, 'pack', carried], { encoding: 'utf8' });
  expect(`${packed.stdout}${packed.stderr}`).toContain('in ');
  expect(packed.status).toBe(0);
  expect(spawnSync('bash', [script, 'pack', carried], { encoding: 'utf8' }).stderr).toContain('exists');
  const files = readdirSync(carried, { recursive: true, withFileTypes: true }).filter((one) => one.isFile());
  expect(files.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0)).toBeLessThan(64e6);

  // Without a driver it says so and ends.
  const bare = { PATH: '/usr/bin:/bin', LOWBIT_CUDA_DRIVER: join(dir, 'no driver') };
  const none = spawnSync('bash', [join(carried, 'gpu-check.sh'), dir], { encoding: 'utf8', env: bare });
  expect(none.stdout).toContain('cannot be loaded');
  expect(none.status).toBe(1);

  // What compute-sanitizer would find cannot be known here, but how it is called and what becomes of its answers: this one has something against races.
  const sanitizer = join(dir, 'sanitizer');
  writeFileSync(sanitizer, '#!/bin/sh\necho "$LOWBIT_GPU_ONLY $@"\n[ "$2" != racecheck ] || exit 3\n', { mode: 0o755 });
  // Nor is there a torch: what stands in for it does 1 ms, or a tenth of the peak at 66 rows.
  const python = join(dir, 'python');
  const answer = JSON.stringify({ peak: (2 * 66 * 64 * 128) / 1e-4, milliseconds: { '66 x 64 x 128': 1 } });
  writeFileSync(python, `#!/bin/sh\necho '${answer}'\n`, { mode: 0o755 });
  const env = {
    ...{ PATH: '/usr/bin:/bin', LOWBIT_CUDA_DRIVER: FAKE_DRIVER, LOWBIT_GPU_SHAPES: 'small' },
    ...{ LOWBIT_SANITIZER: sanitizer, LOWBIT_PYTHON: python },
  };
  const run = spawnSync('bash', [join(carried, 'gpu-check.sh'), join(dir, 'out')], { encoding: 'utf8', env, cwd: dir });
  expect(run.stderr).toBe('');
  expect(run.status).toBe(1);
  const found = JSON.parse(readFileSync(join(dir, 'out', 'gpu-check.json'), 'utf8'));
  expect(found.device).toBe('emulated GPU 0');
  expect(found.conformance).toMatchObject({ failed: [], skipped: 0 });
  expect(found.conformance.passed).toBeGreaterThan(200);
  expect(found.checks.length).toBeGreaterThan(20);
  expect(found.checks.filter(({ ok }: { ok: boolean }) => !ok)).toEqual([]);
  expect([found.attends.length, found.loads.length]).toEqual([1, 7]);
  expect(found.quantized.map(({ method }: { method: string }) => method)).toEqual([
    ...['hqq4 g64', 'hqq4 g64, least squares', 'nf4', 'fp4, searched', 'higgs4'],
  ]);
  expect(found.products).toHaveLength(7);
  expect(found.products[0].times.map(({ rows }: { rows: number }) => rows)).toEqual([1, 3]);
  expect(Object.keys(found.decoders)).toEqual(['hqq4', 'hqq3', 'hqq8', 'higgs4', 'nf4', 'int8', 'bf16']);
  const text = readFileSync(join(dir, 'out', 'gpu-check.md'), 'utf8');
  expect(text).toMatch(/\| hqq4 \| 64 x 128 \| [\d.]+ \([\d.]+\) \| [\d.]+ \([\d.]+\) \|/);
  expect(found.prompts.times).toHaveLength(2 * 7);
  for (const { format, precision, milliseconds } of found.prompts.times as { format: string; precision: string; milliseconds: number }[]) {
    const ratios = `(${(1 / milliseconds).toFixed(2)}, ${(0.1 / milliseconds).toFixed(2)})`;
    expect(text).toMatch(new RegExp(`\\| ${format} \\| ${precision} \\| 64 x 128 \\| [\\d.]+ ${ratios.replace(/[().]/g, '\\$&')} \\|`));
  }
  const verdicts = [...text.matchAll(/^compute-sanitizer (.*)$/gm)].map(([, verdict]) => verdict);
  expect(verdicts).toEqual([
    'memcheck: found nothing.',
    'racecheck: failed (3), see sanitizer-racecheck.txt.',
    'initcheck: found nothing.',
    'synccheck: found nothing.',
  ]);
  const called = readFileSync(join(dir, 'out', 'sanitizer-memcheck.txt'), 'utf8');
  expect(called).toMatch(/^kit --tool memcheck .* \S+\/carried\/node \S+\/carried\/gpu-check\.mjs /);
  // One that ends before there is anything to look at leaves nothing of the run before.
  const again = spawnSync('bash', [join(carried, 'gpu-check.sh'), join(dir, 'out')], {
    encoding: 'utf8',
    env: { ...bare, LOWBIT_SANITIZER: sanitizer },
  });
  expect(again.stdout).not.toContain('compute-sanitizer');
  expect(again.status).toBe(1);
});

it('lets compute-sanitizer look at the kit in both precisions, and at nothing else', (context) => {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  const env = { ...process.env, LOWBIT_GPU_ONLY: 'kit', LOWBIT_CUDA_DRIVER: FAKE_DRIVER, LOWBIT_FAKE_CUDA: '' };
  const kit = fileURLToPath(new URL('gpu-check.mjs', import.meta.url));
  const { status, stdout } = spawnSync(process.execPath, [kit, join(dir, 'none')], { encoding: 'utf8', env });
  expect(stdout).toMatch(new RegExp(`\\n${2 * backendCases(cuda()).length} passed, 0 failed, 0 skipped\\n$`));
  expect(status).toBe(0);
  expect(existsSync(join(dir, 'none'))).toBe(false);
});

it('gives a backend back also where its work fails', async (context) => {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  pretend();
  const opened: Backend[] = [];
  const run = onBackend(cuda({ driver: FAKE_DRIVER }), async (backend) => {
    opened.push(backend);
    backend.alloc({ dtype: 'f32', shape: [4, 4] });
    expect(backend.allocated()).toBeGreaterThan(0);
    throw new Error('the prompts failed');
  });
  await expect(run).rejects.toThrow('the prompts failed');
  expect(opened.map((backend) => backend.allocated())).toEqual([0]);
});
