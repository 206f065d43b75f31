// `--feedback` with a target: the same choices as without it, and feedback where a choice takes it.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Quantizer } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { withFeedback } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allocateModel, type ModelAllocation } from './allocate-model.ts';
import { createProgram } from './command-line.ts';
import type { Context } from './context.ts';
import type { ImportanceReport } from './importance.ts';
import type { QuantizeModelReport } from './quantize-model.ts';
import type { Recipe } from './recipe.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));
/** Attention of the first layer: 196,608 weights. */
const FEW = ['--skip', 'model.layers.{1,2,3,4,5}.**', '--skip', 'mlp.*'];
let dir = '';

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-fed-target-'));
  writeFileSync(join(dir, 'ids.json'), JSON.stringify(Array.from({ length: 48 }, (_, i) => (i * 37 + 5) % 900)));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

type Emitted = QuantizeModelReport & {
  readonly recipe: Recipe;
  readonly allocation: Pick<ModelAllocation, 'linears' | 'bitsPerWeight' | 'loss'> & { readonly importance?: ImportanceReport };
};

interface Ran {
  readonly emitted: Emitted;
  readonly notes: string;
  /** Phases of progress, in the order in which they began. */
  readonly phases: readonly string[];
  readonly printed: string;
}

async function ran(...args: string[]): Promise<Ran> {
  const values: unknown[] = [];
  const notes: string[] = [];
  const printed: string[] = [];
  const phases = new Set<string>();
  const context: Partial<Context> = {
    json: !args.includes('--no-json'),
    signal: new AbortController().signal,
    progress: { report: ({ phase }) => void phases.add(phase), clear: () => {} } as Context['progress'],
    note: (text) => void notes.push(text),
    bold: (text) => text,
    emit: async (value) => void values.push(value),
    print: async (text) => void printed.push(text),
  };
  const flags = args.filter((arg) => arg !== '--no-json');
  await createProgram(() => context as Context).parseAsync(['quantize', TINY, ...flags, '--backend', 'reference'], { from: 'user' });
  return { emitted: values[0] as Emitted, notes: notes.join('\n'), phases: [...phases], printed: printed.join('\n') };
}

const weightsOf = (name: string): Buffer => readFileSync(join(dir, name, 'model.safetensors'));
const target = (...more: string[]): string[] => [...FEW, '--sensitivity-tokens', '2', ...more];
const ids = (): string[] => ['--importance', join(dir, 'ids.json')];

describe('--feedback with a target', () => {
  it('gives every layer the choice that it has without, and goes to those that take it; its recipe makes the same bytes', {
    timeout: 120_000,
  }, async () => {
    const flags = target('--target-bits', '4.2', '--choices', 'hqq:b3:g64,nf4:g64:search', ...ids());
    const plain = await ran('-o', join(dir, 'plain'), ...flags);
    const recipe = join(dir, 'recipe.json');
    const fed = await ran('-o', join(dir, 'fed'), ...flags, '--feedback', '0.75', '--save-recipe', recipe);
    const choices = ({ emitted }: Ran): string[] => emitted.allocation.linears.map(({ path, choice }) => `${path} ${choice}`);
    expect(choices(fed)).toEqual(choices(plain));
    expect(new Set(fed.emitted.allocation.linears.map(({ choice }) => choice))).toEqual(new Set(['hqq:b3:g64', 'nf4:g64:search']));
    expect(fed.emitted.allocation.loss).toBe(plain.emitted.allocation.loss);
    expect(fed.emitted.weightBytes).toEqual(plain.emitted.weightBytes);
    expect(fed.emitted.importance).toMatchObject({ from: 'text', tokens: 48 });
    expect(fed.emitted.allocation.importance).toMatchObject({ from: 'text', tokens: 48 });
    // Weights are farther from what they were where errors make up for one another, and as before elsewhere.
    for (const { path, choice } of fed.emitted.allocation.linears) {
      const [a, b] = [plain, fed].map(({ emitted }) => emitted.linears.find((linear) => linear.path === path)!.squaredError);
      if (choice.startsWith('hqq')) expect(b, path).toBeGreaterThan(a! * 1.01);
      else expect(Math.abs(b! / a! - 1), path).toBeLessThan(1e-6);
    }
    expect(JSON.parse(readFileSync(recipe, 'utf8'))).toMatchObject({ method: 'hqq', solver: 'least-squares', feedback: 0.75 });
    await ran('-o', join(dir, 'again'), '--recipe', recipe);
    expect(weightsOf('again').equals(weightsOf('fed'))).toBe(true);
    expect(weightsOf('plain').equals(weightsOf('fed'))).toBe(false);
  });

  it('plans what it plans without, and says what predictions leave out', { timeout: 120_000 }, async () => {
    const flags = target('--target-bits', '4', '--choices', 'hqq:b3:g64,hqq:b4:g64', '--dry-run', ...ids());
    const [plain, fed] = [await ran(...flags), await ran(...flags, '--feedback', '0.75')];
    expect(fed.emitted.allocation).toEqual(plain.emitted.allocation);
    expect(fed.emitted.tags).toEqual(plain.emitted.tags);
    expect(fed.emitted.recipe).toMatchObject({ ...plain.emitted.recipe, feedback: 0.75 });
    expect((await ran(...flags, '--feedback', '0.75', '--no-json')).printed).toMatch(
      /predicted +KL .*; without feedback, which makes it less/,
    );
  });

  it('says so where no layer got a choice that takes it, and runs nothing for it', { timeout: 120_000 }, async () => {
    // 8 bits for all: nothing else is as close.
    const flags = target('--target-bits', '9', '--choices', 'hqq:b3:g64,int8', '--feedback', '0.75', ...ids());
    const { emitted, notes, phases } = await ran('-o', join(dir, 'none'), ...flags);
    expect(notes).toContain('--feedback has no effect: no linear got a choice that takes it');
    expect(new Set(emitted.allocation.linears.map(({ choice }) => choice))).toEqual(new Set(['int8']));
    expect(phases).not.toContain('generate');
    expect(emitted.recipe).not.toHaveProperty('feedback');
  });
});

describe('allocateModel', () => {
  it('tests choices of withFeedback by the quantizer that they are over', { timeout: 120_000 }, async () => {
    const rules = [{ match: ['model.layers.{1,2,3,4,5}.**', 'mlp.*'], use: 'keep' as const }];
    const common = { rules, targetBits: 4, tokens: 2 };
    const use = (bits: 3 | 4): Quantizer => hqq({ bits, solver: 'least-squares' });
    const plain = await allocateModel(TINY, {
      ...common,
      choices: [
        { name: 'a', use: use(3) },
        { name: 'b', use: use(4) },
      ],
    });
    const fed = await allocateModel(TINY, {
      ...common,
      sensitivities: plain.sensitivities,
      choices: [
        { name: 'a', use: withFeedback(use(3)) },
        { name: 'b', use: withFeedback(use(4)) },
      ],
    });
    expect(fed.linears).toEqual(plain.linears);
    expect(fed.rules.slice(1).map((rule) => (rule.use as Quantizer).usesImportance)).toEqual(fed.rules.slice(1).map(() => 'matrix'));
    const { plain: _, ...opaque } = withFeedback(use(3));
    await expect(allocateModel(TINY, { ...common, choices: [{ name: 'a', use: opaque }] })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('needs matrices of moments') }),
    );
  });
});
