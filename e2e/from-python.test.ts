// The snippets of docs/from-python, and of the README of @lowbit/bnb, run as they stand, one after another.

import { mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as bnb from '@lowbit/bnb';
import * as core from '@lowbit/core';
import * as higgs from '@lowbit/higgs';
import * as hqq from '@lowbit/hqq';
import * as hub from '@lowbit/hub';
import * as models from '@lowbit/models';
import { seededTensor } from '@lowbit/testing';
import { transformWithEsbuild } from 'vite';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const packages: Readonly<Record<string, object>> = {
  '@lowbit/bnb': bnb,
  '@lowbit/core': core,
  '@lowbit/higgs': higgs,
  '@lowbit/hqq': hqq,
  '@lowbit/hub': hub,
  '@lowbit/models': models,
};
let dir = '';
const logged: unknown[][] = [];

/** A snippet without its imports; each of them must exist. */
function body(code: string): string {
  for (const [line, names, from] of code.matchAll(/^import \{ ([^}]*) \} from '([^']*)';$/gm)) {
    for (const name of names!.split(', ')) expect(packages[from!], line).toHaveProperty(name);
  }
  return code.replace(/^import .*$/gm, '');
}

async function snippetsOf(file: string): Promise<string[]> {
  const text = await readFile(join(root, file), 'utf8');
  return [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => body(code!));
}

/** Runs the body of an async function that sees all packages, and what it is given. */
async function runBody(source: string, given: object = {}): Promise<void> {
  const { code } = await transformWithEsbuild(`async function run() { ${source} }`, 'snippets.ts', { target: 'node20', sourcemap: false });
  const names = Object.assign({}, ...Object.values(packages), given) as object;
  await new Function(...Object.keys(names), `${code}; return run();`)(...Object.values(names));
}

const block = (code: string): string => `{ ${code} }\n`;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-from-python-'));
  await symlink(join(root, 'examples'), join(dir, 'examples'));
  const guides = await Promise.all(['bitsandbytes', 'higgs', 'hqq'].map((name) => snippetsOf(`docs/from-python/${name}.md`)));
  const setup = guides[0]![0]!;
  for (const [first] of guides) expect(first).toBe(setup); // all have the same at hand
  const snippets = guides.flatMap(([, ...others]) => others);
  expect(snippets.length).toBe(14);
  vi.spyOn(process, 'cwd').mockReturnValue(dir);
  vi.spyOn(console, 'log').mockImplementation((...values) => void logged.push(values));
  try {
    await runBody(setup + snippets.map(block).join(''));
  } finally {
    vi.restoreAllMocks();
  }
});
afterAll(() => rm(dir, { recursive: true, force: true }));

it('writes the folders that it says', async () => {
  const folders = (await readdir(dir)).filter((name) => name !== 'examples').sort();
  expect(folders).toEqual(['8bit', 'higgs', 'hqq', 'mixed', 'nf4', 'offload', 'skip'].map((name) => `tiny-llama-${name}`));
  const expected: Readonly<Record<string, [linears: number, config: object]>> = {
    '8bit': [42, { load_in_8bit: true, llm_int8_threshold: 6 }],
    nf4: [42, { bnb_4bit_quant_type: 'nf4', bnb_4bit_use_double_quant: true, bnb_4bit_compute_dtype: 'bfloat16' }],
    mixed: [35, { load_in_4bit: true }],
    skip: [36, { llm_int8_threshold: 10, llm_int8_skip_modules: ['lm_head', 'down_proj'] }],
    offload: [35, { llm_int8_enable_fp32_cpu_offload: true }],
    hqq: [42, { quant_method: 'hqq' }],
    higgs: [42, { quant_method: 'higgs', bits: 4, hadamard_size: 256, modules_to_not_convert: ['lm_head'] }],
  };
  for (const [name, [linears, config]] of Object.entries(expected)) {
    await using checkpoint = await hub.openCheckpoint(join(dir, `tiny-llama-${name}`));
    expect(checkpoint.quantized.size, name).toBe(linears);
    expect(checkpoint.config.quantization_config).toMatchObject(config);
  }
});

it('prints what it says', () => {
  const [text, placement, footprint, memory, dequantized, layers, snr, higgsLayer, y] = logged;
  expect((text![0] as string).length).toBeGreaterThan(5);
  expect(placement![0]).toMatch(/^gpu: .*model\.layers\.0-4.*\ncpu: model\.layers\.5 /);
  // bf16 embeddings and norms, and half a byte for each quantized weight
  expect(footprint).toEqual([2 * 1_048_576 + 2 * 13 * 256 + 4_718_592 / 2]);
  // without norms, with a table and float32 magnitudes of blocks of 64
  expect(memory![0]).toEqual({ weights: 2 * 1_048_576 + 4_718_592 / 2 + (4 * 4_718_592) / 64 + 42 * 64, scratch: 0, kvCache: 0 });
  expect(dequantized).toEqual(['model.layers.0.mlp.down_proj', [256, 768]]);
  expect(layers!.slice(0, 3)).toEqual([[2, 128], 6, [128, 256]]);
  expect(layers![3]).toMatchObject({ products: 1 });
  expect(snr![0]).toBeGreaterThan(20);
  expect(higgsLayer).toEqual([[1, 128], [128, 256], 4, [128, 256]]);
  expect(y).toEqual(['bf16', [1, 128]]);
});

it('runs the snippets of the README of @lowbit/bnb', async () => {
  const snippets = await snippetsOf('packages/bnb/README.md');
  expect(snippets.length).toBe(2);
  const seen: unknown[] = [];
  const last = 'seen.push(y.dtype, y.shape, Object.keys(state).length, again.quantType, eight.outliers);';
  const [weight, bias, x] = [seededTensor(1, [128, 256], 0.1), seededTensor(2, [128]), seededTensor(3, [2, 3, 256])];
  const moments = core.float32Tensor(
    [256],
    core.toFloat32(seededTensor(4, [256])).map((value) => value * value),
  );
  const importance = { kind: 'diagonal', moments, rows: 1 };
  await runBody(block(snippets[0]!) + block(snippets[1]! + last), { weight, bias, x, seen, importance });
  expect(seen).toEqual(['f32', [2, 3, 128], 7, 'nf4', { products: 1, columns: 0 }]);
});
