// `--json-schema` on the command line, with a trained model.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GenerateResult } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

let dir = '';
const file = (name: string, value: unknown): string => {
  const path = join(dir, name);
  writeFileSync(path, JSON.stringify(value));
  return path;
};
beforeAll(() => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-schema-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const schema = {
  type: 'object',
  properties: {
    verse: { type: 'integer', minimum: 1, maximum: 176 },
    said: { type: 'string', maxLength: 30 },
    by: { enum: ['Moses', 'David'] },
  },
  required: ['verse', 'said', 'by'],
  additionalProperties: false,
};
const args = (path: string, ...more: string[]): string[] => [
  'generate',
  TINY,
  '-p',
  'And the LORD said unto',
  '--json-schema',
  path,
  ...more,
];

it('what a model that knows no JSON writes is valid', async () => {
  const path = file('verse.json', schema);
  for (const more of [
    ['--temp', '0'],
    ['--temp', '1.5', '--seed', '3'],
    ['--temp', '1', '--seed', '4', '--prompt-lookup'],
  ]) {
    const { code, json } = await lowbitJson<GenerateResult>(args(path, ...more));
    expect(code).toBe(0);
    expect(json.finishReason).toBe('stop');
    const value = JSON.parse(json.text) as { verse: number; said: string; by: string };
    expect(Object.keys(value)).toEqual(['verse', 'said', 'by']);
    expect(Number.isInteger(value.verse) && value.verse >= 1 && value.verse <= 176).toBe(true);
    expect(Array.from(value.said).length).toBeLessThanOrEqual(30);
    expect(['Moses', 'David']).toContain(value.by);
  }
});

it('says that it was cut off, and what is wrong with a schema', async () => {
  const cut = await lowbit(args(file('verse.json', schema), '--max-tokens', '3'));
  expect(cut).toMatchObject({ code: 1, stderr: expect.stringMatching(/the JSON is cut off[\s\S]*Give more --max-tokens/) });
  const bad = await lowbitJson(args(file('pattern.json', { type: 'string', pattern: '^a' })));
  expect(bad.code).toBe(1);
  expect(bad.json.error).toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    message: '--json-schema: JSON schema at #/pattern: pattern is not supported',
  });
  expect((await lowbitJson(args(join(dir, 'nothing.json')))).json.error.code).toBe('ERR_NOT_FOUND');
});
