// The example of a model of another framework, run as its README says.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import { ensureBuilt } from './cli-process.ts';

const folder = new URL('../examples/jax-js/', import.meta.url);

beforeAll(ensureBuilt);

it('a Llama of jax-js, patched by tag, says what lowbit says, and its README shows that', () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [fileURLToPath(new URL('main.mjs', folder))], { encoding: 'utf8' });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  expect(stdout).toMatch(/^36 linear layers/); // of 42: mlp.down_proj is kept
  const rows = [
    ...stdout.matchAll(/([\d.]+) MB of linears, ([\d.]+) nats per token \(lowbit's own model ([\d.]+), logits at most ([\d.e-]+) apart/g),
  ];
  const [before, after] = rows.map(([, ...numbers]) => numbers.map(Number) as [mb: number, nll: number, own: number, apart: number]);
  for (const [, nll, own, apart] of [before!, after!]) {
    expect(apart).toBeLessThan(1e-4);
    expect(nll).toBeCloseTo(own, 3);
  }
  expect(before![0]).toBeCloseTo((4 * 4_718_592) / 1e6, 2);
  expect(after![0]).toBeLessThan(0.41 * before![0]);
  // Quantized, it is another model, and hardly a worse one.
  expect(after![1] - before![1]).toBeGreaterThan(1e-4);
  expect(after![1] - before![1]).toBeLessThan(0.1);

  const readme = readFileSync(new URL('README.md', folder), 'utf8');
  const shown = /main\.mjs .*\n(36 linear.*?)```/s.exec(readme)![1]!;
  const rough = (text: string): string => text.replace(/\d\.\de-\d/g, 'X');
  expect(rough(stdout)).toBe(rough(shown));
});
