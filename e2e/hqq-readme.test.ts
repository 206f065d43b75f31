// The snippets of the README of @lowbit/hqq and of its guide, run as they stand, one after another.

import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as core from '@lowbit/core';
import * as hqq from '@lowbit/hqq';
import * as hub from '@lowbit/hub';
import * as models from '@lowbit/models';
import { seededTensor } from '@lowbit/testing';
import { transformWithEsbuild } from 'vite';
import { expect, it, vi } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

it('every snippet runs', async () => {
  const texts = await Promise.all(['packages/hqq/README.md', 'docs/hqq.md'].map((file) => readFile(join(root, file), 'utf8')));
  const snippets = [...texts.join('\n').matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code!);
  expect(snippets.length).toBe(6);
  const dir = await mkdtemp(join(tmpdir(), 'lowbit-hqq-readme-'));
  await symlink(join(root, 'examples'), join(dir, 'examples'));
  vi.spyOn(process, 'cwd').mockReturnValue(dir);
  try {
    await using runtime = await core.createRuntime({ backends: [core.referenceBackend()] });
    await using source = await hub.openCheckpoint('examples/tiny-llama');
    await using model = await models.loadModel(source, { runtime });
    const given = {
      weight: seededTensor(1, [128, 256], 0.1),
      bias: seededTensor(2, [128]),
      x: seededTensor(3, [2, 3, 256]),
      runtime,
      model,
    };
    for (const code of snippets) {
      // What a snippet declares hides what it is given.
      const free = Object.fromEntries(
        Object.entries({ ...core, ...hqq, ...hub, ...models, ...given }).filter(([name]) => !declares(code, name)),
      );
      const body = `async function run() {${code.replace(/^import .*$/gm, '')}}`;
      const { code: plain } = await transformWithEsbuild(body, 'snippet.ts', { target: 'node20', sourcemap: false });
      await new Function(...Object.keys(free), `${plain}; return run();`)(...Object.values(free));
    }
    expect((await model.generate({ prompt: 'In the beginning', maxTokens: 4 })).text.length).toBeGreaterThan(0);

    await using uniform = await hub.openCheckpoint(join(dir, 'uniform'));
    const widths = (checkpoint: typeof uniform) =>
      new Map([...checkpoint.quantized].map(([path, { format }]) => [path, format.kind === 'affine' ? format.levels : 0]));
    expect([...widths(uniform).keys()].some((path) => path.includes('layers.0.'))).toBe(false);
    expect(new Set(widths(uniform).values())).toEqual(new Set([16]));
    await using perTag = await hub.openCheckpoint(join(dir, 'per-tag'));
    expect(widths(perTag).get('model.layers.1.self_attn.v_proj')).toBe(16);
    expect(widths(perTag).get('model.layers.1.mlp.up_proj')).toBe(4);
    expect(widths(perTag).has('model.layers.1.self_attn.q_proj')).toBe(false);
  } finally {
    vi.restoreAllMocks();
    await rm(dir, { recursive: true, force: true });
  }
});

function declares(code: string, name: string): boolean {
  return new RegExp(`\\b(?:const|using) ${name}\\b`).test(code);
}
