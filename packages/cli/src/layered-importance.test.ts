// Moments for feedback: what is refused and what is told before a sample is made.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRuntime, type Quantizer, type Runtime, referenceBackend } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { type LateImportance, openCheckpoint } from '@lowbit/hub';
import { importanceMemory, withFeedback } from '@lowbit/models';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { layeredImportance } from './layered-importance.ts';
import { quantizeModel } from './quantize-model.ts';

const golden = (name: string): string => fileURLToPath(new URL(`../../../fixtures/golden/models/${name}`, import.meta.url));
const plain = hqq({ bits: 8, groupSize: 16, solver: 'least-squares' });
const fed = withFeedback(plain);
const ids = [[5, 9, 2, 77, 31, 8, 40, 3, 3, 12]];
let dir = '';
let runtime: Runtime;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-layered-'));
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(async () => {
  await runtime?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

it('quantizes an image tower without feedback, and says so', async () => {
  const rules = (use: Quantizer) => [{ match: 'vision_tower.**', use }];
  const [tower, none] = [join(dir, 'tower'), join(dir, 'none')];
  const common = { runtime, layout: 'hqq' };
  const { importance, linears } = await quantizeModel(golden('llava'), {
    ...{ ...common, out: tower, importance: { ids } },
    quantizer: fed,
    rules: rules(fed),
  });
  const unread = linears.map(({ path }) => path).filter((path) => path.startsWith('vision_tower.'));
  expect(unread.length).toBe(18);
  expect(importance).toMatchObject({ from: 'text', tokens: 10, estimated: [] });
  expect([...importance!.unread!].sort()).toEqual(unread.sort());

  // Nothing else has feedback: no sample is made, and the bytes are those without.
  const phases = new Set<string>();
  const onProgress = ({ phase }: { readonly phase: string }) => void phases.add(phase);
  const alone = join(dir, 'alone');
  const only = { ...common, quantizer: 'keep' as const };
  const report = await quantizeModel(golden('llava'), { ...only, out: alone, rules: rules(fed), importance: 'self', onProgress });
  expect(report.importance).toMatchObject({ from: 'none', tokens: 0 });
  expect([...phases]).toEqual(['quantize']);
  await quantizeModel(golden('llava'), { ...only, out: none, rules: rules(plain) });
  const bytes = (folder: string): Buffer => readFileSync(join(folder, 'model.safetensors'));
  expect(bytes(alone).equals(bytes(none))).toBe(true);
});

it('refuses moments that there is no memory for before samples are made', async () => {
  await using checkpoint = await openCheckpoint(golden('mixtral-published'));
  const { bytes, layer, linears } = await importanceMemory(checkpoint, { tokens: 8192 });
  const phases: string[] = [];
  const onProgress = ({ phase }: { readonly phase: string }) => void phases.push(phase);
  const fedLinears = (paths: readonly string[]) => new Map(paths.map((path) => [path, 'matrix'] as const));
  const how = { runtime, linears: fedLinears(linears), memory: bytes - 1, onProgress };
  await expect(layeredImportance(checkpoint, 'self', how)).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_LIMIT', details: { bytes, layer, memory: bytes - 1 } }),
  );
  expect(phases).toEqual([]);
  const narrow = { ...how, linears: fedLinears(linears.filter((path) => path.endsWith('q_proj'))), tokens: 8 };
  await using layers = await layeredImportance(checkpoint, 'random-tokens', narrow);
  expect(layers.report).toEqual({ from: 'random-tokens', tokens: 8, estimated: [], why: null });
});

it('refuses importance that is half of a late one', async () => {
  const whole: LateImportance = { identity: 'a', begin: () => {}, of: async () => undefined };
  const half = async (importance: object): Promise<unknown> =>
    quantizeModel(golden('llava'), { out: join(dir, 'half'), quantizer: plain, importance: importance as LateImportance, runtime });
  const lacks = (name: string) => expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: `importance has no ${name}` });
  await expect(half({ ...whole, begin: undefined })).rejects.toThrow(lacks('begin'));
  await expect(half({ ...whole, of: 5 })).rejects.toThrow(lacks('of'));
  await expect(half({ ...whole, identity: '' })).rejects.toThrow(lacks('identity'));
});
