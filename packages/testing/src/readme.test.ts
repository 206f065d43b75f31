// The snippets of README.md, run as they stand with a backend, a method and a codec of core's own.

import { readFileSync } from 'node:fs';
import * as core from '@lowbit/core';
import { transformWithEsbuild } from 'vite';
import { expect, it } from 'vitest';
import * as backend from './backend.ts';
import * as codec from './codec.ts';
import { formatSamples } from './formats.ts';
import { runCases } from './kit.ts';
import * as layout from './layout.ts';
import * as quantizer from './quantizer.ts';

it('registers cases for each suite, and gives them as data', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const [first, second, ...more] = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code!.replace(/^import .*$/gm, ''));
  expect(more).toEqual([]);
  const groups: string[] = [];
  const { weight } = formatSamples().find((sample) => sample.weight.format.kind === 'dense')!;
  const given = {
    ...backend,
    ...codec,
    ...layout,
    ...quantizer,
    runCases,
    myBackend: core.referenceBackend,
    myMethod: () => ({ method: 'mine' }),
    myLayout: { name: 'mine too' },
    myCodec: core.codecFor(weight.format),
    weight,
    values: core.dequantize(weight),
    describe: (name: string, body: () => void) => {
      groups.push(name);
      body();
    },
    it: () => undefined,
  };
  const body = `async function run() {${first};${second}; return failed; }`;
  const { code } = await transformWithEsbuild(body, 'snippets.ts', { target: 'node20', sourcemap: false });
  expect(await new Function(...Object.keys(given), `${code}; return run();`)(...Object.values(given))).toEqual([]);
  expect(groups).toEqual(expect.arrayContaining(["backend 'reference'", "codec 'dense'", 'odd shape', "layout 'mine too'", '4 bits']));
  expect(groups.some((name) => name.includes('mine'))).toBe(true);
});
