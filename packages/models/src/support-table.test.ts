// The table of families in README.md is made of the adapters and the golden models: `node tools/support-table.mjs` writes it, this says whether it is current.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { type JsonObject, modelTypeOf } from '@lowbit/core';
import { expect, test } from 'vitest';
import * as golden from '../../../fixtures/golden.ts';
import { defaultAdapters } from './adapters/index.ts';
import { MODELS, supportTable } from './testing/support-table.ts';

/** Models of fixtures/golden/models-variants and towers, by type. */
const variants = new Map<string, string[]>();
for (const set of ['models-variants', 'towers']) {
  for (const folder of readdirSync(golden.goldenPath(set)).filter((name) => name !== 'make')) {
    const type = modelTypeOf(golden.goldenJson<JsonObject>(`${set}/${folder}/config.json`)) as string;
    variants.set(type, [...(variants.get(type) ?? []), `${set}/${folder}`]);
  }
}

const README = new URL('../README.md', import.meta.url);
const PLACE = /(<!-- support table: node tools\/support-table\.mjs -->\n\n)(.*?)(\n\n<!-- end -->)/s;

test('the table of families in README.md is current', () => {
  const readme = readFileSync(README, 'utf8');
  const table = supportTable(golden, variants);
  expect(PLACE.test(readme)).toBe(true);
  const current = readme.replace(PLACE, (_, before: string, __, after: string) => `${before}${table}${after}`);
  if (process.env.LOWBIT_WRITE === 'support-table') writeFileSync(README, current);
  else expect(readme === current, 'run node tools/support-table.mjs').toBe(true);
});

test('it has every family, and every family is checked with a golden model', () => {
  expect(Object.keys(MODELS)).toEqual(defaultAdapters.flatMap(({ modelTypes }) => modelTypes));
  for (const line of supportTable(golden, variants).split('\n').slice(2)) {
    const cells = line.split(' | ');
    expect(cells.length).toBe(5);
    expect(cells[4], line).toMatch(/[a-z0-9]/);
    expect(cells[2], line).toMatch(/`/);
  }
});
