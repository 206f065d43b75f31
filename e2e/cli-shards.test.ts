// `lowbit quantize --shard` and `lowbit merge-shards`: as processes that are killed, and what they say.

import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digests, ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

let dir: string;
beforeAll(async () => {
  ensureBuilt();
  dir = await mkdtemp(join(tmpdir(), 'lowbit-cli-shards-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const QUANTIZE = ['quantize', TINY, '-m', 'nf4', '--double-quant', '--shard-size', '1MB', '--threads', '1', '--backend', 'reference'];

/** Runs the command and kills it with the first line of progress that has reached `percent`. */
async function killedAt(percent: number, args: readonly string[]): Promise<number | null> {
  const { code } = await lowbit(args, {
    onStderr(stderr, child) {
      const reached = [...stderr.matchAll(/: (\d+) %/g)].map((match) => Number(match[1]));
      if (reached.some((at) => at >= percent)) child.kill('SIGKILL');
    },
  });
  return code;
}

describe('shares of one quantization', () => {
  test('killed workers and a killed merge: the folder of one process, and nothing else', async () => {
    const [one, out] = [join(dir, 'one'), join(dir, 'out')];
    expect((await lowbit([...QUANTIZE, '-o', one])).code).toBe(0);
    const share = (index: number) => [...QUANTIZE, '-o', out, '--shard', `${index}/3`];
    for (const index of [3, 1, 2]) {
      expect(await killedAt(20, share(index))).toBe(null);
      expect(await killedAt(60, share(index))).toBe(null);
      const { code, stdout } = await lowbit(share(index));
      expect({ code, stdout }).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(
          new RegExp(`share +${index} of 3[^]*were done by an earlier run[^]*merge-shards [^]*out, when all 3 are done`),
        ),
      });
    }
    expect((await lowbit(share(2))).stdout).toContain('it was finished before');
    expect(await killedAt(30, ['merge-shards', out])).toBe(null);
    const merged = await lowbitJson<{ shards: number; linears: unknown[]; totalBytes: number }>(['merge-shards', out]);
    expect(merged).toMatchObject({ code: 0, json: { shards: 3 } });
    expect(digests(out)).toEqual(digests(one));
    expect((await readdir(dir)).sort()).toEqual(['one', 'out']);
  });

  test('without a method: each share runs the model for its importance, and the folder is that of one process', async () => {
    const quantize = ['quantize', TINY, '--skip', 'model.layers.{1,2,3,4,5}.**', '--quiet'];
    const [one, out] = [join(dir, 'one-default'), join(dir, 'out-default')];
    expect((await lowbit([...quantize, '-o', one])).code).toBe(0);
    for (const share of ['1/2', '2/2']) expect((await lowbit([...quantize, '-o', out, '--shard', share])).code).toBe(0);
    expect((await lowbit(['merge-shards', out])).code).toBe(0);
    expect(digests(out)).toEqual(digests(one));
    // Shares that other numbers weighed are of another model.
    const mixed = join(dir, 'mixed');
    expect((await lowbit([...quantize, '-o', mixed, '--shard', '1/2'])).code).toBe(0);
    expect((await lowbit([...quantize, '-o', mixed, '--shard', '2/2', '--importance', 'weights'])).code).toBe(0);
    expect(await lowbitJson(['merge-shards', mixed])).toMatchObject({ code: 1, json: { error: { code: 'ERR_JOURNAL_MISMATCH' } } });
  });

  test('what is wrong is said before anything is done', async () => {
    const out = join(dir, 'wrong');
    for (const [share, more, message] of [
      ['0/4', [], 'a share of the work such as 2/4'],
      ['5/4', [], 'a share of the work such as 2/4'],
      ['4', [], 'a share of the work such as 2/4'],
      ['1/2', ['--dry-run'], '--dry-run looks at the whole model'],
      ['1/2', ['--target-bits', '3'], '--target-bits looks at the whole model'],
    ] as const) {
      const { code, stderr } = await lowbit(['quantize', TINY, '-o', out, '--shard', share, ...more]);
      expect({ code, stderr }, share).toMatchObject({ code: 2, stderr: expect.stringContaining(message) });
    }
    expect(await lowbitJson(['merge-shards', out])).toMatchObject({ code: 1, json: { error: { code: 'ERR_NOT_FOUND' } } });
    expect(await readdir(dir)).not.toContain('wrong.shards');
  });
});
