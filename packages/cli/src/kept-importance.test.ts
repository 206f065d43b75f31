import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { encodeState, type KeptState, keepingImportance } from './kept-importance.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-keeping-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const state = encodeState('pass', { ids: [], done: 1, carried: [], found: new Map() } satisfies KeptState);

it('one run at a time is at an output: another is refused, and takes nothing away', async () => {
  const out = join(dir, 'out');
  await keepingImportance(out, { resume: true }, async (file) => {
    writeFileSync(file!, state);
    for (const how of [{}, { resume: true }, { overwrite: true }]) {
      const second = keepingImportance(out, how, async () => expect.unreachable());
      await expect(second).rejects.toMatchObject({
        code: 'ERR_OUTPUT_EXISTS',
        message: `process ${process.pid} on ${hostname()} is writing this output: ${file}.lock`,
      });
    }
    expect(readFileSync(file!).equals(state)).toBe(true);
    // Another output is another's.
    expect(await keepingImportance(join(dir, 'other'), {}, async () => 'done')).toBe('done');
  });
  expect(readdirSync(dir)).toEqual([]);
});

it('gives the lock back when the work fails, with or without what is left to go on from', async () => {
  const out = join(dir, 'out');
  const failing = (resume: boolean) =>
    keepingImportance(out, { resume }, async (file) => {
      writeFileSync(file!, state);
      throw new Error('enough');
    });
  await expect(failing(false)).rejects.toThrow('enough');
  expect(readdirSync(dir)).toEqual([]);
  await expect(failing(true)).rejects.toThrow('enough');
  expect(readdirSync(dir)).toEqual(['out.importance']);
  await expect(failing(false)).rejects.toMatchObject({ code: 'ERR_OUTPUT_EXISTS', hint: expect.stringContaining('--resume') });
  expect(readdirSync(dir)).toEqual(['out.importance']);
});

it('the lock of a killed run is taken over', async () => {
  const out = join(dir, 'out');
  writeFileSync(`${out}.importance.lock`, JSON.stringify({ pid: 2 ** 30, host: hostname(), nonce: 'killed' }));
  expect(await keepingImportance(out, {}, async () => existsSync(`${out}.importance.lock`))).toBe(true);
  expect(readdirSync(dir)).toEqual([]);
});

it('makes the folder that the output goes into', async () => {
  const kept = await keepingImportance(join(dir, 'new', 'place', 'out'), {}, async (file) => {
    writeFileSync(file!, state);
    return file;
  });
  expect(kept).toBe(join(dir, 'new', 'place', 'out.importance'));
  writeFileSync(join(dir, 'file'), '');
  await expect(keepingImportance(join(dir, 'file', 'out'), {}, async () => 'done')).rejects.toMatchObject({ code: 'ERR_IO' });
});
