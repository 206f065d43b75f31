// Whose numbers a linear has: the same for the same files, another when anything changes.

import { readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { WeightOrigin } from '@lowbit/core';
import { expect, test } from 'vitest';
import { goldenPath } from '../../../fixtures/golden.ts';
import { openCheckpoint } from './checkpoint.node.ts';
import { temporaryFolder } from './testing.node.ts';

async function originOf(folder: string, path: string): Promise<WeightOrigin | undefined> {
  await using checkpoint = await openCheckpoint(folder);
  return checkpoint.origin!(path);
}

test('follows the files of the weights', async () => {
  await using temp = await temporaryFolder();
  const folder = join(temp.path, 'model');
  await cp(goldenPath('hqq/checkpoints-hf4/per-tag'), folder, { recursive: true });
  await sleep(150);
  const [q, k] = ['model.layers.0.self_attn.q_proj', 'model.layers.0.self_attn.k_proj'] as const;
  const first = await originOf(folder, q);
  expect(first).toEqual({ label: folder, model: expect.stringMatching(/^[0-9a-f]{64}$/), weight: expect.stringContaining(q) });
  expect(await originOf(folder, q)).toEqual(first);
  const other = await originOf(folder, k);
  expect(other!.model).toBe(first!.model);
  expect(other!.weight).not.toBe(first!.weight);
  expect(await originOf(folder, 'lm_head')).toMatchObject({ model: first!.model });

  // Written again, to the same length and with the same mtime: the system still knows.
  const file = join(folder, 'model.safetensors');
  const { atime, mtime } = statSync(file);
  writeFileSync(file, readFileSync(file));
  utimesSync(file, atime, mtime);
  await sleep(150);
  const changed = await originOf(folder, q);
  expect(changed!.weight).toBe(first!.weight);
  expect(changed!.model).not.toBe(first!.model);
});

test('is not known of files that have just changed', async () => {
  await using temp = await temporaryFolder();
  const folder = join(temp.path, 'model');
  await cp(goldenPath('hqq/checkpoints-hf4/per-tag'), folder, { recursive: true });
  const soon = new Date(Date.now() + 60_000);
  utimesSync(join(folder, 'model.safetensors'), soon, soon);
  expect(await originOf(folder, 'lm_head')).toBeUndefined();
});
