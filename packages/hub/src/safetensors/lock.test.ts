import { existsSync, lstatSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { takeLock } from './lock.node.ts';

function lockPath(): string {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-lock-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return join(dir, 'some.lock');
}

it('takes over a lock that was torn by a crash, and gives it back', async () => {
  const path = lockPath();
  writeFileSync(path, '{"pid": 1');
  const lock = await takeLock(path);
  await expect(takeLock(path)).rejects.toMatchObject({ code: 'ERR_OUTPUT_EXISTS' });
  await lock.release();
  expect(existsSync(path)).toBe(false);
});

it('leaves a lock alone that it cannot read', async () => {
  const path = lockPath();
  symlinkSync('some.lock', path); // a circle: root, too, reads nothing of it
  await expect(takeLock(path)).rejects.toMatchObject({ code: 'ERR_IO' });
  expect(lstatSync(path).isSymbolicLink()).toBe(true);
});
