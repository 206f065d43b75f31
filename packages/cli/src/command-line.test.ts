// The command line as it is parsed, up to what the commands do with it.

import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BUILTIN_LAYOUTS } from '@lowbit/hub';
import { expect, it, onTestFinished } from 'vitest';
import { createProgram } from './command-line.ts';
import type { Context } from './context.ts';
import { LAYOUTS } from './parse.ts';
import { type ModelPlan, type QuantizeModelReport, quantizeModel } from './quantize-model.ts';
import type { Recipe } from './recipe.ts';
import { countText } from './units.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));

/** What a command emits under --json. */
const emitted = (...args: string[]): Promise<ModelPlan> => emittedIn({}, ...args);

/** The same, in a context of which something is looked at. */
async function emittedIn(looked: Partial<Context>, ...args: string[]): Promise<ModelPlan> {
  const values: unknown[] = [];
  const context: Partial<Context> = {
    json: true,
    signal: new AbortController().signal,
    progress: { report: () => {}, clear: () => {} },
    note: () => {},
    bold: (text) => text,
    emit: async (value) => void values.push(value),
    ...looked,
  };
  await createProgram(() => context as Context).parseAsync([...args, '--json'], { from: 'user' });
  expect(values).toHaveLength(1);
  return values[0] as ModelPlan;
}

const formats = ({ tags }: ModelPlan): Record<string, string> => Object.fromEntries(tags.map(({ tag, format }) => [tag, format]));

it('takes -g none: one group per row', async () => {
  const plan = await emitted('quantize', TINY, '--dry-run', '-g', 'none');
  // Rows of 256 and 768 weights, which this layout writes as groups of that size.
  expect(formats(plan)).toMatchObject({ 'self_attn.q_proj': '4-bit g256', 'mlp.down_proj': '4-bit g768' });
  expect(plan.tags[0]).toMatchObject({ tag: 'self_attn.q_proj', linears: 6 });
});

it('takes gnone in a rule, beside groups of the flags and the other way round', async () => {
  const some = formats(await emitted('quantize', TINY, '--dry-run', '--rule', 'mlp.down_proj=hqq:gnone'));
  expect(some).toMatchObject({ 'mlp.down_proj': '4-bit g768', 'mlp.up_proj': '4-bit g64' });
  const others = formats(await emitted('quantize', TINY, '--dry-run', '-g', 'none', '--rule', 'mlp.down_proj=hqq:b8:g32'));
  expect(others).toMatchObject({ 'mlp.down_proj': '8-bit g32', 'mlp.up_proj': '4-bit g256' });
});

it('quantizes with the solver of --solver and of rules', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const errors = async (name: string, ...args: string[]): Promise<number[]> => {
    const report = await emitted('quantize', TINY, '-o', join(dir, name), '--skip', 'model.layers.{1,2,3,4,5}.**', ...args);
    return (report as QuantizeModelReport).linears.filter(({ path }) => /[kv]_proj/.test(path)).map(({ squaredError }) => squaredError);
  };
  const [key, value] = await errors('hqq', '-m', 'hqq');
  const [lsKey, lsValue] = await errors('ls', '-m', 'hqq', '--solver', 'least-squares');
  expect([lsKey! < key!, lsValue! < value!]).toEqual([true, true]);
  const rule = 'model.layers.0.self_attn.k_proj=hqq:b4';
  expect(await errors('some', '-m', 'hqq', '--rule', `${rule}:ls`)).toEqual([lsKey, value]);
  expect(await errors('others', '-m', 'hqq', '--solver', 'least-squares', '--rule', `${rule}:hqq`)).toEqual([key, lsValue]);
});

it('says of a plan with double quantization that its sizes are upper bounds', async () => {
  const printed: string[] = [];
  const context = { json: false, bold: (text: string) => text, print: async (text: string) => void printed.push(text) };
  const program = () => createProgram(() => context as unknown as Context);
  for (const flags of [
    ['-m', 'nf4'],
    ['-m', 'nf4', '--double-quant'],
  ]) {
    await program().parseAsync(['quantize', TINY, '--dry-run', ...flags], { from: 'user' });
  }
  expect(printed.map((text) => /^ *file +(.*)$/m.exec(text)?.[1])).toEqual(['bytes', 'bytes, at most']);
  expect((await emitted('quantize', TINY, '--dry-run', '-m', 'nf4')).sizes).toBe('exact');
  expect((await emitted('quantize', TINY, '--dry-run', '-m', 'nf4', '--double-quant')).sizes).toBe('at most');
  const out = mkdtempSync(join(tmpdir(), 'lowbit-'));
  onTestFinished(() => rmSync(out, { recursive: true }));
  expect((await emitted('quantize', TINY, '-m', 'nf4', '--double-quant', '-o', join(out, 'nf4'))).sizes).toBe('exact');
});

it('writes the layout of --layout, and knows those of hub', async () => {
  expect(await emitted('quantize', TINY, '--dry-run')).toMatchObject({ layout: 'hqq' });
  const plan = await emitted('quantize', TINY, '--dry-run', '--layout', 'hqq-safetensors');
  expect(plan.layout).toBe('hqq-safetensors');
  expect(plan.loadsIn.join(' ')).toMatch(/Not transformers or vLLM as it is/);
  const nested = await emitted('quantize', TINY, '--dry-run', '--quant-scale', '--quant-zero', 'groups');
  expect(nested).toMatchObject({ layout: 'hqq-nested', loadsIn: [expect.stringMatching(/^lowbit only/), expect.anything()] });
  const zeros = await emitted('quantize', TINY, '--dry-run', '--quant-zero', 'linear');
  expect([plan, zeros, nested].map(({ summary }) => Number(summary.bitsPerWeight.toFixed(2)))).toEqual([4.5, 4.38, 4.26]);
  await expect(emitted('quantize', TINY, '--dry-run', '--layout', 'hqq2')).rejects.toThrow(/hqq-safetensors/);
  expect(BUILTIN_LAYOUTS.map(({ name }) => name)).toEqual(LAYOUTS);
});

it('weighs errors by random tokens with --importance random, the same every time', { timeout: 120_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const run = async (name: string, ...args: string[]) => {
    const skip = ['--skip', 'model.layers.{1,2,3,4,5}.**'];
    const solver = args.includes('--preset') || args.includes('unasked') ? [] : ['-m', 'hqq', '--solver', 'least-squares'];
    await emitted('quantize', TINY, '-o', join(dir, name), ...solver, ...skip, ...args.filter((arg) => arg !== 'unasked'));
    return readFileSync(join(dir, name, 'model.safetensors'));
  };
  const [plain, weighed, again] = [
    await run('plain'),
    await run('weighed', '--importance', 'random'),
    await run('again', '--importance', 'random'),
  ];
  expect(Buffer.compare(weighed, again)).toBe(0);
  expect(weighed.byteLength).toBe(plain.byteLength);
  expect(Buffer.compare(weighed, plain)).not.toBe(0);
  expect(Buffer.compare(await run('preset', '--preset', 'best4'), weighed)).toBe(0);
  // The same again by the default, and each half of it by a flag.
  expect(Buffer.compare(await run('unasked', 'unasked'), weighed)).toBe(0);
  expect(Buffer.compare(await run('unweighed', 'unasked', '--importance', 'none'), plain)).toBe(0);
  await expect(emitted('quantize', TINY, '--dry-run', '-m', 'nf4', '--preset', 'best4')).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_USAGE', message: '--preset best4 is for hqq, not for nf4' }),
  );
  await expect(emitted('quantize', TINY, '-o', join(dir, 'x'), '--solver', 'hqq', '--importance', 'random')).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_USAGE', message: expect.stringContaining('least-squares') }),
  );
});

it('the same recipe gives the same bytes, from flags, from the file that was saved, and with other threads', {
  timeout: 120_000,
}, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, 'recipe.json');
  const again = join(dir, 'again.json');
  const bytes = async (name: string, ...args: string[]): Promise<Buffer> => {
    await emitted('quantize', TINY, '-o', join(dir, name), ...args);
    return readFileSync(join(dir, name, 'model.safetensors'));
  };
  const flags = [
    '--preset',
    'python4',
    '--importance',
    'weights',
    '--skip',
    'model.layers.{1,2,3,4,5}.**',
    '--skip',
    'mlp.*',
    '--rule',
    '*.k_proj=fp4:g128',
  ];
  const first = await bytes('a', ...flags, '--save-recipe', file);
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual({
    ...{ kind: 'lowbit recipe', version: 1, method: 'nf4', group: 64, scale: 'search', importance: 'weights' },
    rules: ['model.layers.{1,2,3,4,5}.**=keep', 'mlp.*=keep', '*.k_proj=fp4:g128'],
  });
  expect(Buffer.compare(await bytes('b', '--recipe', file, '--threads', '3', '--save-recipe', again), first)).toBe(0);
  expect(readFileSync(again, 'utf8')).toBe(readFileSync(file, 'utf8'));
  expect(Buffer.compare(await bytes('c', '--recipe', file, '--importance', 'none'), first)).not.toBe(0); // flags go first
  const usage = (message: string) => expect.objectContaining({ code: 'ERR_USAGE', message: expect.stringContaining(message) });
  await expect(bytes('d', '--recipe', file, '--preset', 'best4')).rejects.toThrow(usage('--preset and --recipe exclude each other'));
  await expect(bytes('d', '--recipe', file, '-m', 'hqq')).rejects.toThrow(usage('is for nf4, not for hqq'));
  await expect(bytes('d', '--recipe', join(dir, 'none.json'))).rejects.toThrow(expect.objectContaining({ code: 'ERR_NOT_FOUND' }));
});

it('a target leaves a recipe that needs no test', { timeout: 120_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const [file, plan] = [join(dir, 'recipe.json'), join(dir, 'a')];
  const few = ['--skip', 'model.layers.{1,2,3,4,5}.**', '--skip', 'mlp.*', '--sensitivity-tokens', '4'];
  const target = ['--target-size', '11.24MB', '--choices', 'hqq:b2:g64,nf4'];
  const shared = await emitted('quantize', TINY, '-o', plan, ...few, ...target, '--save-recipe', file);
  expect(shared).toMatchObject({ layout: 'mixed', loadsIn: [expect.anything(), expect.stringMatching(/^Nothing else/)] });
  expect(shared.weightBytes.after).toBeLessThanOrEqual(11_240_000);
  expect(JSON.parse(readFileSync(join(plan, 'config.json'), 'utf8')).quantization_config).toMatchObject({
    quant_method: 'lowbit',
    layout: 'mixed',
  });
  await emitted('quantize', TINY, '-o', join(dir, 'b'), '--recipe', file);
  expect(Buffer.compare(readFileSync(join(dir, 'b', 'model.safetensors')), readFileSync(join(plan, 'model.safetensors')))).toBe(0);
  const usage = (...args: string[]) =>
    expect(emitted('quantize', TINY, '--dry-run', ...args)).rejects.toThrow(expect.objectContaining({ code: 'ERR_USAGE' }));
  await usage('--target-size', '4MB', '--target-bits', '3');
  await usage('--target-size', '4MB', '-b', '3');
  await usage('--target-size', '4MB', '--methods', 'hqq', '--choices', 'hqq:b3');
  await usage('--methods', 'hqq');
});

it('takes --scale for the methods that have it', async () => {
  const stored = async (...args: string[]) => (await emitted('quantize', TINY, '--dry-run', ...args)).files;
  expect(await stored('-m', 'nf4', '--scale', 'search')).toEqual(await stored('-m', 'nf4')); // the same files
  const higgs = ['-m', 'higgs', '-b', '2', '--hadamard-size', '256'];
  expect(await stored(...higgs, '--scale', 'unbiased')).toEqual(await stored(...higgs));
  await expect(stored('--scale', 'search')).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_USAGE', message: '--scale is for nf4, fp4, higgs, not for hqq' }),
  );
  await expect(stored('-m', 'nf4', '--scale', 'unbiased')).rejects.toThrow(expect.objectContaining({ code: 'ERR_USAGE' }));
});

it('plans the sizes that the README shows', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const plan = await emitted('quantize', TINY, '--dry-run', '--rule', 'mlp.down_proj=hqq:b8', '--skip', 'model.layers.0.**');
  const { totalBytes } = plan as ModelPlan & { readonly totalBytes: number };
  expect(readme).toMatch(new RegExp(`^total +${countText(totalBytes)}$`, 'm'));
});

it('says that chat prints JSON Lines', () => {
  const program = createProgram(() => expect.unreachable());
  const chat = program.commands.find((command) => command.name() === 'chat')!;
  expect(chat.helpInformation()).toContain('JSON Lines');
  const help: string[] = [];
  program.configureOutput({ writeOut: (text) => void help.push(text) }).outputHelp();
  expect(help.join('')).toContain('JSON Lines');
});

it('passes concurrency and runtime on to hub', async () => {
  const asked: string[] = [];
  const runtime = { routine: (name: string) => void asked.push(name) };
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const out = join(dir, 'out');
  const refused = quantizeModel(TINY, { out, concurrency: 0.5 });
  await expect(refused).rejects.toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('0.5') }));
  await quantizeModel(TINY, { out, rules: [{ match: 'model.layers.{1,2,3,4,5}.**', use: 'keep' }], concurrency: 2, runtime });
  expect(asked).not.toEqual([]);
});

it('says of a folder what loading would refuse', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  copyFileSync(join(TINY, 'model.safetensors'), join(dir, 'model.safetensors'));
  const config = JSON.parse(readFileSync(join(TINY, 'config.json'), 'utf8')) as Record<string, unknown>;
  const problem = async (layers: number): Promise<unknown> => {
    writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...config, num_hidden_layers: layers }));
    return ((await emitted('inspect', dir)) as unknown as { problem: unknown }).problem;
  };
  expect(await problem(6)).toBe(null);
  expect(await problem(7)).toMatch(/model\.layers\.6\./);
  await expect(problem(5)).rejects.toThrow(/config\.json says 5 layers/);
});

it.each([
  [['quantize', TINY, '-o', '/nowhere/x', '-m', 'nf4', '-g', '7'], /--group cannot be 7/],
  [['quantize', TINY, '-o', '/nowhere/x', '--rule', 'mlp.*=nf4:g7'], /--rule mlp\.\*: .*--group cannot be 7/],
  [['estimate', TINY, '-m', 'hqq', '--hadamard-size', '256'], /--hadamard-size is not a setting of hqq/],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--importance', 'weights'], /--feedback needs samples/],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '-m', 'hqq', '--solver', 'least-squares'], /--feedback needs samples/],
  [
    ['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '-m', 'hqq', '--importance', 'self'],
    /--feedback needs --solver least-squares/,
  ],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--solver', 'hqq'], /--feedback needs --solver least-squares/],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '-m', 'nf4'], /--feedback is for hqq/],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '-m', 'nf4', '--importance', 'self'], /--feedback is for hqq/],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--target-bits', '4.5', '--methods', 'nf4'], /no linear can get that/],
  [
    ['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--target-bits', '3.5', '--choices', 'hqq:b3:a0'],
    /no linear can get that/,
  ],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--target-bits', '3.5', '--axis', '0'], /--axis 0 does not go with it/],
  [
    ['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--target-size', '9MB', '--quant-scale'],
    /--quant-scale does not go with it/,
  ],
  [
    ['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '-m', 'nf4', '--rule', 'mlp.*=hqq:b4', '--importance', 'self'],
    /needs --solver least-squares/,
  ],
  [['quantize', TINY, '-o', '/nowhere/x', '--feedback', '0.75', '--shard', '1/2'], /--shard does layers apart/],
  [['help', 'nope'], /unknown command 'nope'/],
])('%j is wrong usage', async (args, message) => {
  const failed = await createProgram(() => ({ note: () => {}, signal: new AbortController().signal, progress: {} }) as unknown as Context)
    .parseAsync(args, { from: 'user' })
    .then(
      () => undefined,
      (error: unknown) => error,
    );
  expect(failed).toMatchObject({ code: 'ERR_USAGE', message: expect.stringMatching(message) });
});

it('estimates HIGGS with its own flags', async () => {
  const weights = async (...more: string[]): Promise<number> =>
    ((await emitted('estimate', TINY, '--backend', 'reference', '-m', 'higgs', ...more)) as unknown as { weights: number }).weights;
  // Rows of 256 and 768 weights are filled up to multiples of 512, but not of 256.
  expect(await weights('--hadamard-size', '256')).toBeLessThan(await weights());
});

it('says that a plan with nothing to quantize is a copy', async () => {
  const notes: string[] = [];
  const context: Partial<Context> = {
    json: true,
    signal: new AbortController().signal,
    progress: { report: () => {}, clear: () => {} },
    note: (text) => void notes.push(text),
    emit: async () => {},
  };
  await createProgram(() => context as Context).parseAsync(['quantize', TINY, '--dry-run', '--skip', '**'], { from: 'user' });
  expect(notes).toEqual([expect.stringContaining('plain copy')]);
});

it('replaces no file that a flag names, unless it is told to', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const file = join(dir, 'there.json');
  const there = expect.objectContaining({ code: 'ERR_OUTPUT_EXISTS', hint: expect.stringContaining('--overwrite') });
  const plan = ['quantize', TINY, '--dry-run', '-m', 'nf4', '--save-recipe', file];
  writeFileSync(file, 'kept');
  await expect(emitted(...plan)).rejects.toThrow(there);
  const target = ['--target-bits', '3', '--save-sensitivity', file];
  await expect(emitted('quantize', TINY, '--dry-run', '-m', 'hqq', ...target)).rejects.toThrow(there);
  await expect(emitted('sensitivity', TINY, '--save', file)).rejects.toThrow(there);
  const ids = join(dir, 'ids.json');
  writeFileSync(ids, '[1, 2, 3]');
  for (const command of ['compare', 'report']) await expect(emitted(command, TINY, TINY, '--ids', ids, '-o', file)).rejects.toThrow(there);
  expect(readFileSync(file, 'utf8')).toBe('kept');
  await emitted(...plan, '--overwrite');
  expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ kind: 'lowbit recipe', method: 'nf4' });
});

it('says that a target of files needs no quantizing', async () => {
  const noted = async (size: string): Promise<string> => {
    const notes: string[] = [];
    const few = ['--skip', 'model.layers.{1,2,3,4,5}.**', '--skip', 'mlp.*', '--importance', 'none', '--sensitivity-tokens', '2'];
    const note = (text: string): void => void notes.push(text);
    await emittedIn({ note }, 'quantize', TINY, '--dry-run', ...few, '--target-size', size);
    return notes.join('\n');
  };
  expect(await noted('1GB')).toContain('which --target-size 1,000,000,000 holds: nothing has to be quantized');
  expect(await noted('11.24MB')).not.toContain('nothing has to be quantized');
});

it('runs nothing where rules leave no layer to what looks at importance', { timeout: 120_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-program-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const few = ['--skip', 'model.layers.{1,2,3,4,5}.**', '--skip', 'mlp.*'];
  const made = async (name: string, rule: string, ...flags: string[]): Promise<unknown> => {
    const report = await emitted('quantize', TINY, '-o', join(dir, name), '--rule', rule, ...few, ...flags);
    return (report as QuantizeModelReport).importance;
  };
  expect(await made('all', '**=nf4')).toEqual({ from: 'none', tokens: 0, estimated: [], why: null });
  expect(await made('fed', '**=nf4', '--feedback', '0.75')).toMatchObject({ from: 'none', tokens: 0 });
  expect(await made('some', '*.v_proj=nf4')).toMatchObject({ from: 'random-tokens', tokens: 1024 });
});

/** What a plan remarks, and the recipe of it. */
async function planned(...args: string[]): Promise<{ readonly notes: string; readonly recipe: Recipe }> {
  const notes: string[] = [];
  const note = (text: string): void => void notes.push(text);
  const { recipe } = (await emittedIn({ note }, 'quantize', TINY, '--dry-run', ...args)) as ModelPlan & { readonly recipe: Recipe };
  return { notes: notes.join('\n'), recipe };
}

it('tells of all flags that rules leave without effect', async () => {
  expect((await planned('-b', '3', '--rule', '**=nf4')).notes).toContain('--bits has no effect: rules name what every linear gets');
  expect((await planned('-b', '3', '--axis', '1', '--solver', 'least-squares', '--rule', '**=nf4')).notes).toContain(
    '--bits, --axis and --solver have no effect: rules name',
  );
  for (const rule of ['**=nf4', '**=nf4:search', '**=hqq:b4:a0']) {
    const { notes, recipe } = await planned('--feedback', '0.75', '--rule', rule);
    expect(notes, rule).toContain('--feedback has no effect: rules leave no linear that takes it');
    expect(recipe, rule).toEqual((await planned('--rule', rule)).recipe); // importance, too
  }
  expect((await planned('--feedback', '0.75', '--rule', 'mlp.*=nf4')).notes).not.toContain('no effect');
  for (const rules of [['**=hqq'], ['mlp.*=nf4']].map((uses) => uses.flatMap((use) => ['--rule', use])))
    expect((await planned('-b', '3', ...rules)).notes).not.toContain('no effect');
  expect((await planned('--rule', '**=nf4')).notes).not.toContain('no effect');
});

it('saves a recipe of what is done: no importance where rules leave no layer to it', async () => {
  expect((await planned('--rule', '**=nf4')).recipe).toMatchObject({ importance: 'none' });
  expect((await planned('--rule', 'mlp.*=nf4')).recipe).toMatchObject({ importance: 'random-tokens' });
});

it('goes without feedback where a rule says so, and refuses it where flags contradict', async () => {
  const formats = async (...args: string[]) => (await emitted('quantize', TINY, '--dry-run', '--feedback', '0.75', ...args)).tags;
  const tags = await formats('--rule', 'mlp.down_proj=hqq:b8:g64:a0', '--rule', 'mlp.up_proj=hqq:b8:hqq');
  expect(tags.find(({ tag }) => tag === 'mlp.down_proj')!.format).toContain('axis 0');
  await expect(formats('--axis', '0')).rejects.toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  // What only leaves the axis out has that of the flags.
  await expect(formats('--axis', '0', '--rule', 'mlp.down_proj=hqq:b8')).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }),
  );
});

it('refuses a target that cannot be met before it looks for importance', async () => {
  const phases = new Set<string>();
  const progress = { report: ({ phase }: { readonly phase: string }) => void phases.add(phase), clear: () => {} };
  const small = emittedIn({ progress }, 'quantize', TINY, '--dry-run', '--target-size', '1MB');
  await expect(small).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_LIMIT', message: expect.stringContaining('1000000 bytes are fewer') }),
  );
  await expect(small).rejects.toThrow(expect.objectContaining({ hint: expect.stringContaining('--choices') }));
  expect(phases).not.toContain('importance');
});

it('puts flags and commands under headings, and none under that of others', () => {
  const program = createProgram(() => expect.unreachable());
  const headings = (verb: string): Record<string, string[]> => {
    const found: Record<string, string[]> = {};
    for (const { long, helpGroupHeading = 'Options:' } of program.commands.find((command) => command.name() === verb)!.options) {
      found[helpGroupHeading] ??= [];
      found[helpGroupHeading].push(long!);
    }
    return found;
  };
  expect(headings('quantize')['Options:']).toEqual(['--json', '--quiet', '--out']);
  expect(headings('generate')['Options:']).toEqual(['--json', '--quiet', '--prompt', '--image']);
  expect(headings('compare')['How the model runs:']).toContain('--backend');
  expect(headings('compare')['Options:']).toContain('--linears');
  expect(program.commands.map((command) => command.helpGroup())).not.toContain('');
});
