import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
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

it.each([
  ['a fresh one', undefined],
  ['one of a process that is gone', JSON.stringify({ pid: 2 ** 30, host: hostname(), nonce: 'gone' })],
  ['one that was torn', '{"pid"'],
])('goes to one of many who ask at once: %s', async (_, left) => {
  const path = lockPath();
  for (let round = 0; round < 40; round++) {
    if (left !== undefined) writeFileSync(path, left);
    const asked = await Promise.allSettled(Array.from({ length: 6 }, () => takeLock(path)));
    const locks = asked.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    for (const { reason } of asked.filter((outcome) => outcome.status === 'rejected'))
      expect(reason).toMatchObject({ code: 'ERR_OUTPUT_EXISTS' });
    // Who was overtaken is told when it looks, which it does before it writes.
    const checks = await Promise.allSettled(locks.map((lock) => lock.check()));
    expect(checks.filter(({ status }) => status === 'fulfilled').length).toBe(1);
    for (const lock of locks) await lock.release();
    expect(readdirSync(dirname(path))).toEqual([]);
  }
});
