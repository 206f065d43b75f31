// @ts-check
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const biome = createRequire(import.meta.url).resolve('@biomejs/biome/bin/biome');
const rule = fileURLToPath(new URL('no-regex-in-match-object.grit', import.meta.url));
const problem = 'compares a regular expression with nothing';

/** @type {(text: string) => string} what the linter says of a file with this text alone */
function lint(text) {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-lint-'));
  try {
    writeFileSync(join(dir, 'biome.json'), JSON.stringify({ root: true, plugins: [rule] }));
    writeFileSync(join(dir, 'some.test.mjs'), text);
    const { stdout, stderr } = spawnSync(process.execPath, [biome, 'lint', '--colors=off', 'some.test.mjs'], {
      cwd: dir,
      encoding: 'utf8',
    });
    return stdout + stderr;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

it('finds a regular expression that toMatchObject would compare with nothing', () => {
  expect(lint('expect(error).toMatchObject({ code: 1, message: /y/ });')).toContain(problem);
  expect(lint('await expect(promise).rejects.toMatchObject({ details: { a: /y/ } });')).toContain(problem);
});

it('accepts one that an asymmetric matcher compares', () => {
  const said = lint('expect(error).toMatchObject({ message: expect.stringMatching(/y/) });');
  expect(said).toContain('Checked 1 file');
  expect(said).not.toContain(problem);
});
