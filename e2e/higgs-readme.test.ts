// The snippets of the README of @lowbit/higgs and of its guide, run as they stand, one after another.

import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as core from '@lowbit/core';
import * as higgs from '@lowbit/higgs';
import * as hub from '@lowbit/hub';
import * as models from '@lowbit/models';
import { seededTensor } from '@lowbit/testing';
import { transformWithEsbuild } from 'vite';
import { expect, it, vi } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

it('every snippet runs', async () => {
  const texts = await Promise.all(['packages/higgs/README.md', 'docs/higgs.md'].map((file) => readFile(join(root, file), 'utf8')));
  const snippets = [...texts.join('\n').matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code!);
  expect(snippets.length).toBe(3);
  const dir = await mkdtemp(join(tmpdir(), 'lowbit-higgs-readme-'));
  await symlink(join(root, 'examples'), join(dir, 'examples'));
  vi.spyOn(process, 'cwd').mockReturnValue(dir);
  const printed: unknown[] = [];
  vi.spyOn(console, 'log').mockImplementation((...values) => void printed.push(values));
  try {
    const given = { weight: seededTensor(1, [128, 600], 0.1), bias: seededTensor(2, [128]), x: seededTensor(3, [2, 3, 600]) };
    for (const code of snippets) {
      const body = `async function run() {${code.replace(/^import .*$/gm, '')}}`;
      const { code: plain } = await transformWithEsbuild(body, 'snippet.ts', { target: 'node20', sourcemap: false });
      const free = { ...core, ...higgs, ...hub, ...models, ...given };
      await new Function(...Object.keys(free), `${plain}; return run();`)(...Object.values(free));
    }
    expect(printed).toEqual([[expect.any(Number), expect.any(Array)]]);
    const [error] = printed[0] as [number];
    expect(Math.abs(error - 0.0078)).toBeLessThan(1e-4);
    await using made = await hub.openCheckpoint(join(dir, 'tiny-llama-higgs4'));
    expect(made.quantized.size).toBe(42);
  } finally {
    vi.restoreAllMocks();
    await rm(dir, { recursive: true, force: true });
  }
});
