import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { checkWritable, readTextFile } from './files.ts';

const dir = mkdtempSync(join(tmpdir(), 'lowbit-files-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it('a file to write later needs its folder now, and is none itself', async () => {
  await checkWritable(undefined, '--save');
  await checkWritable(join(dir, 's.json'), '--save');
  await expect(checkWritable(join(dir, 'nodir', 's.json'), '--save')).rejects.toMatchObject({
    code: 'ERR_NOT_FOUND',
    message: expect.stringMatching(/^--save: cannot write .*there is no folder .*nodir$/),
  });
  await expect(checkWritable(dir, '--save')).rejects.toMatchObject({ code: 'ERR_IO' });
});

it('whatever the system says of a file that cannot be read is an error of ours', async () => {
  await expect(readTextFile(join(dir, 'x'.repeat(5000)), '--data')).rejects.toMatchObject({
    name: 'LowbitError',
    message: expect.stringMatching(/^--data: cannot read .*x/),
  });
});
