// @ts-check
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fp4, int8, nf4 } from '@lowbit/bnb';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, planQuantization } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { describe, expect, it } from 'vitest';
import { measured, tableOf } from '../bench/keep.mjs';
import {
  docsPages,
  higgsGrids,
  losses,
  measuredTable,
  options,
  qualityOurs,
  qualityPython,
  root,
  short,
  sizes,
  speeds,
  withTables,
} from './docs-tables.mjs';

/** By the flags of `quantize`. */
const QUANTIZERS = {
  ...Object.fromEntries(/** @type {const} */ ([8, 4, 3, 2, 1]).map((bits) => [`-b ${bits}`, hqq({ bits })])),
  '--axis 0': hqq({ bits: 4, axis: 0 }),
  '--quant-zero linear': hqq({ bits: 4, quantZero: true }),
  '-m nf4': nf4(),
  '-m nf4 --double-quant': nf4({ doubleQuant: true }),
  '-m fp4': fp4(),
  '-m int8': int8(),
  '-m higgs --hadamard-size 256': higgs({ bits: 4, hadamardSize: 256 }),
};

/** What `quantize` says under "Loads in", once for all flags of which it says the same. */
async function loadsIn() {
  const source = await openCheckpoint(join(root, 'examples/tiny-llama'));
  /** @type {Map<string, string[]>} */
  const flags = new Map();
  for (const [flag, quantizer] of Object.entries(QUANTIZERS)) {
    const { loadsIn } = await planQuantization(source, { quantizer, adapters: [llama] });
    const said = loadsIn.map((sentence) => `- ${sentence}`).join('\n');
    flags.set(said, [...(flags.get(said) ?? []), `\`${flag}\``]);
  }
  await source[Symbol.asyncDispose]();
  return [...flags].map(([said, names]) => `${names.join(', ')}:\n\n${said}`).join('\n\n');
}

describe('tables of docs/', async () => {
  const loads = await loadsIn();
  const makers = {
    losses,
    options,
    speeds,
    'quality-ours': qualityOurs,
    'quality-python': qualityPython,
    'higgs-grids': higgsGrids,
    'loads-in': () => loads,
    measured: measuredTable,
    sizes,
  };
  it.each(docsPages())('%s is current', (page) => {
    const text = readFileSync(join(root, page), 'utf8');
    const current = withTables(text, makers);
    if (process.env.LOWBIT_WRITE === 'docs-tables') writeFileSync(join(root, page), current);
    else expect(text === current, `${page}: run node tools/docs-tables.mjs`).toBe(true);
  });

  it('have rows of what they are about, and no other', () => {
    expect(qualityOurs('higgs')).toMatch(/^\| HIGGS, 2 bits \| 2\.07 \| 0\.09\d+ \|/m);
    expect(qualityOurs('higgs')).not.toContain('NF4');
    expect(qualityPython('bnb')).toMatch(/^\| bitsandbytes NF4, block 64 \| 0\.00480 \| 39\.68 \| 0\.251 \| 42\.12 \|$/m);
    expect(higgsGrids().split('\n')).toHaveLength(8);
  });

  it.each(['docs/benchmarks.md', 'docs/allocation.md', 'docs/choosing.md'])('%s has no other', (page) => {
    const typed = readFileSync(join(root, page), 'utf8').replaceAll(/<!-- table: [\s\S]*?<!-- end -->/g, '');
    expect(typed).not.toMatch(/^\|[\s:|-]+\|$/m);
  });

  it('have every table of numbers that was kept, and no number twice', () => {
    const used = docsPages().flatMap((page) =>
      [...readFileSync(join(root, page), 'utf8').matchAll(/<!-- table: measured (\S+) -->/g)].map(([, name]) => name),
    );
    expect(used.sort()).toEqual(Object.keys(measured()).sort());
  });

  it('keep what a script printed, as a Markdown table or as lines of JSON', () => {
    expect(tableOf('medians\n| a | b |\n|---|---:|\n| 1 | x |\nmore')).toEqual({ head: ['a', 'b'], rows: [['1', 'x']] });
    expect(tableOf('{"a":1.23456,"b":"x"}\n{"a":2,"c":null}')).toEqual({
      head: ['a', 'b', 'c'],
      rows: [
        ['1.23', 'x', ''],
        ['2', '', ''],
      ],
    });
    expect(() => tableOf('nothing')).toThrow(/no row/);
    expect(() => tableOf('| a | b |\n|---|---|\n| 1 |')).toThrow(/a row has 1 cells, the head 2/);
  });

  it('have gigabytes of shapes', () => {
    expect(sizes()).toMatch(/^\| 8B \(Llama 3\.1\) \| 16\.1 \| 9\.5 \| 6\.0 \| 5\.8 \| 5\.7 \| 5\.3 \| 4\.7 \| 4\.3 \|$/m);
  });

  it('are refused where nobody makes them', () => {
    expect(() => withTables('<!-- table: size -->\n<!-- end -->', makers)).toThrow(/there is no table size/);
  });

  it('have numbers as people write them', () => {
    expect([0.0000149, 0.1049, 8.7048, 42_903_783].map((value) => short(value))).toEqual(['0.0000149', '0.105', '8.70', '42903783']);
  });
});
