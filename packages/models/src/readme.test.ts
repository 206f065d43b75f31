// Runs the example of README.md as it stands, with the imports handed in.

import { existsSync, readFileSync } from 'node:fs';
import * as core from '@lowbit/core';
import { transformWithEsbuild } from 'vite';
import { expect, test } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../fixtures/golden.ts';
import { defaultAdapters } from './adapters/index.ts';
import { llamaSpec } from './adapters/llama.ts';
import { decoderAdapter } from './decoder/adapter.ts';
import { perplexity } from './evaluate/perplexity.ts';
import { loadModel } from './model/load-model.ts';
import { memoryCheckpoint } from './testing/memory-checkpoint.ts';

test('the adapter of README.md', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const [, example] = /```\n(const mine = .*?)```/s.exec(readme)!;
  const mine = new Function('decoderAdapter', 'llamaSpec', `${example!}; return mine;`)(decoderAdapter, llamaSpec) as core.ModelAdapter;
  const config = { ...goldenJson<core.JsonObject>('models/llama-tied/config.json'), model_type: 'mine' };
  const tensors = goldenTensors('models/llama-tied/model.safetensors');
  const found = core.adapterFor(config, [mine, ...defaultAdapters]);
  const { program } = await found.describe(config, { entries: tensors, read: async (name) => tensors.get(name)! });
  expect(program.ops.filter((op) => op.op === 'add' && op.factor === 0.5).length).toBe(4);
});

test('the example of README.md', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const [, example] = /```ts\n(.*?)```/s.exec(readme)!;
  const body = example!.replace(/^import .*$/gm, '');
  const { code } = await transformWithEsbuild(`async function run() {${body}}`, 'example.ts', { target: 'node20', sourcemap: false });

  const lines: unknown[][] = [];
  const written: string[] = [];
  const openCheckpoint = async (path: string) => {
    const folder = `../../${path}`;
    const text = (name: string): string => readFileSync(goldenPath(`${folder}/${name}`), 'utf8');
    const names = ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'].filter((name) =>
      existsSync(goldenPath(`${folder}/${name}`)),
    );
    return memoryCheckpoint({
      label: path,
      config: JSON.parse(text('config.json')),
      tensors: goldenTensors(`${folder}/model.safetensors`),
      files: Object.fromEntries(names.map((name) => [name, text(name)])),
    });
  };
  const names = {
    ...core,
    openCheckpoint,
    loadModel,
    perplexity,
    console: { log: (...values: unknown[]) => lines.push(values) },
    process: { stdout: { write: (text: string) => written.push(text) } },
  };
  await new Function(...Object.keys(names), `${code}; return run();`)(...Object.values(names));
  expect(lines[0]).toEqual([expect.stringContaining('I will go up out of the land'), 12, 'length', expect.any(Number)]);
  expect(written.join('').length).toBeGreaterThan(10);
  expect(lines[1]).toEqual([[expect.any(Number), 4096], expect.any(Number), expect.any(Number), expect.objectContaining({ kvCache: 0 })]);
});
