import { describe, expect, it } from 'vitest';
import { createCommits } from './commits.ts';

describe('group commits', () => {
  it('settles together what came while a commit was running, one batch at a time', async () => {
    const batches: string[][] = [];
    let running = 0;
    const releases: (() => void)[] = [];
    const commits = createCommits(async (units) => {
      expect(++running).toBe(1);
      batches.push(units.map(({ unit }) => unit));
      await new Promise<void>((resolve) => releases.push(resolve));
      running--;
    });
    const settled: string[] = [];
    const add = (unit: string) => commits.add(unit, null).then(() => settled.push(unit));
    const all = [add('a'), add('b'), add('c')];
    expect(batches).toEqual([['a']]);
    releases[0]!();
    await all[0];
    expect(settled).toEqual(['a']);
    all.push(add('d'));
    releases[1]!();
    await Promise.all([all[1], all[2]]);
    expect(settled).toEqual(['a', 'b', 'c']);
    releases[2]!();
    await Promise.all(all);
    await commits.idle();
    expect(batches).toEqual([['a'], ['b', 'c'], ['d']]);
  });

  it('fails a batch and goes on; idle never fails', async () => {
    const commits = createCommits(async (units) => {
      if (units.some(({ unit }) => unit === 'bad')) throw new Error('no');
    });
    const bad = commits.add('bad', null);
    await expect(bad).rejects.toThrow('no');
    await commits.idle();
    await commits.add('good', null);
  });
});
