import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { devNull, tmpdir } from 'node:os';
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

it('what cannot be looked at is not taken for what is not there', async () => {
  symlinkSync('loop', join(dir, 'loop'));
  await expect(checkWritable(join(dir, 'loop'), '--save')).rejects.toMatchObject({ code: 'ERR_IO', details: { errno: 'ELOOP' } });
  await expect(checkWritable(join(dir, 'loop', 's.json'), '--save')).rejects.toMatchObject({ code: 'ERR_IO' });
});

it('a file that is there is replaced where that is asked for alone; what is no file has nothing to lose', async () => {
  const file = join(dir, 'there.json');
  writeFileSync(file, 'kept');
  await expect(checkWritable(file, '--save')).rejects.toMatchObject({
    code: 'ERR_OUTPUT_EXISTS',
    message: `--save: ${file} exists`,
    hint: expect.stringContaining('--overwrite'),
  });
  await checkWritable(file, '--save', { replace: true });
  await checkWritable(devNull, '--save');
  expect(readFileSync(file, 'utf8')).toBe('kept');
});

it('whatever the system says of a file that cannot be read is an error of ours', async () => {
  await expect(readTextFile(join(dir, 'x'.repeat(5000)), '--data')).rejects.toMatchObject({
    name: 'LowbitError',
    message: expect.stringMatching(/^--data: cannot read .*x/),
  });
});
