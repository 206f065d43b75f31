import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { openModel } from './open.ts';

it('says of a path that is not there that it was taken for a name of the Hub', async () => {
  vi.stubEnv('HF_HUB_OFFLINE', '1');
  onTestFinished(() => void vi.unstubAllEnvs());
  const error = await openModel('models/misspelt').catch((reason: unknown) => reason);
  expect(error).toMatchObject({ code: expect.stringMatching(/^ERR_/), hint: expect.stringContaining('Nothing here has that name') });
});

it('does not look on the Hub for what is here and cannot be opened', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-open-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  symlinkSync('loop', join(dir, 'loop'));
  const start = process.cwd();
  process.chdir(join(dir, '..'));
  onTestFinished(() => process.chdir(start));
  const error = await openModel(relative(process.cwd(), join(dir, 'loop'))).catch((reason: unknown) => reason);
  expect(error).toMatchObject({ code: 'ERR_IO', message: expect.stringContaining('loop') });
});
