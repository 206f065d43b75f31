// @ts-check
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** @type {(text: string) => string} */
function lint(text) {
  const { stdout, stderr } = spawnSync('npx', ['biome', 'lint', '--colors=off', '--stdin-file-path=tools/some.test.mjs'], {
    cwd: root,
    input: text,
    encoding: 'utf8',
  });
  return stdout + stderr;
}

it('finds a regular expression that toMatchObject would compare with nothing', () => {
  expect(lint('expect(error).toMatchObject({ code: 1, message: /y/ });')).toContain('compares a regular expression with nothing');
  expect(lint('expect(error).rejects.toMatchObject({ details: { a: /y/ } });')).toContain('compares a regular expression with nothing');
});

it('accepts one that an asymmetric matcher compares', () => {
  expect(lint('expect(error).toMatchObject({ message: expect.stringMatching(/y/) });')).not.toContain('regular expression');
});
