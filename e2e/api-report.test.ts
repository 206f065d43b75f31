// The public interface of every package is what docs/api says: a change of it is looked at.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, it } from 'vitest';
import { ensureBuilt } from './cli-process.ts';

beforeAll(ensureBuilt);

it('declares what was reviewed', () => {
  const script = fileURLToPath(new URL('../tools/api-report.mjs', import.meta.url));
  const { stderr, status } = spawnSync(process.execPath, [script], { encoding: 'utf8' });
  expect([stderr, status]).toEqual(['', 0]);
});
