// Every command as a process: results on stdout, the rest on stderr, exit codes, and errors that say what to do.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type {
  CompareReport,
  EstimateReport,
  GenerateResult,
  InspectReport,
  PerplexityReport,
  QuantizeModelReport,
  SensitivityReport,
} from 'lowbit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenPath } from '../fixtures/golden.ts';
import { ensureBuilt, lowbit, lowbitJson, main, type Outcome, TINY } from './cli-process.ts';

/** With --dry-run what needs the weights is not there. */
type Plan = QuantizeModelReport & { readonly totalBytes: number };

let dir = '';
const at = (name: string): string => join(dir, name);
const sizes = (folder: string): Record<string, number> =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, statSync(join(folder, name)).size]));

/** A model folder without what is named, and with other files. */
function variant(name: string, without: readonly string[], files: Readonly<Record<string, string>> = {}): string {
  mkdirSync(at(name));
  for (const file of readdirSync(TINY))
    if (!without.includes(file) && !file.endsWith('.py')) cpSync(join(TINY, file), join(at(name), file));
  for (const [file, text] of Object.entries(files)) writeFileSync(join(at(name), file), text);
  return at(name);
}

beforeAll(async () => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-cli-'));
  const made = await lowbit(['quantize', TINY, '-o', at('q4'), '--quiet']);
  expect(made).toMatchObject({ code: 0, stderr: '' });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('help, version and usage', () => {
  it('answers --help and --version on stdout', async () => {
    const help = await lowbit(['--help']);
    expect(help).toMatchObject({ code: 0, stderr: '' });
    for (const verb of ['quantize', 'generate', 'chat', 'perplexity', 'inspect', 'estimate']) {
      expect(help.stdout).toContain(verb);
      expect(await lowbit([verb, '--help'])).toMatchObject({ code: 0, stderr: '' });
    }
    const { version } = JSON.parse(readFileSync(new URL('../packages/cli/package.json', import.meta.url), 'utf8'));
    expect(await lowbit(['--version'])).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' });
  });

  const wrong: [what: string, args: string[], message: RegExp][] = [
    ['no command', [], /no command given/],
    ['an unknown command', ['quantise', TINY], /unknown command 'quantise'\nhint: Did you mean quantize\?/],
    ['an unknown flag', ['quantize', TINY, '--bit', '4'], /unknown option '--bit'\nhint: Did you mean --bits\?/],
    ['a missing argument', ['inspect'], /missing required argument 'model'/],
    ['a missing value', ['quantize', TINY, '-o'], /'-o, --out <dir>' argument missing/],
    ['too many arguments', ['inspect', TINY, TINY], /too many arguments/],
    ['wrong bits', ['quantize', TINY, '-b', '9'], /--bits <n>' argument '9'.*one of 8, 6, 5, 4, 3, 2, 1\.58, 1/],
    ['a wrong method', ['quantize', TINY, '-m', 'awq'], /--method <name>' argument 'awq'.*one of hqq, nf4, fp4, int8/],
    ['a wrong group', ['quantize', TINY, '-g', '-64'], /--group <n>' argument '-64'.*positive whole number/],
    ['a wrong axis', ['quantize', TINY, '--axis', '2'], /--axis <0\|1>' argument '2'/],
    ['a wrong size', ['quantize', TINY, '--max-memory', '4G'], /--max-memory <size>' argument '4G'.*such as 4GB/],
    ['a wrong rule', ['quantize', TINY, '--rule', 'mlp=int9'], /--rule <glob=use>' argument 'mlp=int9'/],
    ['a wrong pattern', ['quantize', TINY, '--skip', '{a'], /--skip <glob>' argument '{a'.*brace/],
    ['a wrong dtype', ['quantize', TINY, '--dtype', 'f64'], /--dtype <type>' argument 'f64'.*one of f16, bf16, f32/],
    ['no output', ['quantize', TINY], /needs an output folder\nhint: .*--out DIR.*--dry-run/],
    ['a negative temperature', ['generate', TINY, '-p', 'a', '--temp', '-1'], /--temp <x>' argument '-1'.*from 0 to 100/],
    ['half a token', ['generate', TINY, '-p', 'a', '--max-tokens', '1.5'], /--max-tokens <n>' argument '1\.5'.*whole number/],
    ['no prompt', ['generate', TINY], /'-p, --prompt <text>' not specified/],
    ['an empty prompt', ['generate', TINY, '-p', ''], /--prompt is empty\nhint: /],
    ['an empty prompt on stdin', ['generate', TINY, '-p', '-'], /empty prompt\nhint: Pipe a text/],
    ['too little memory', ['quantize', TINY, '-o', 'x', '--max-memory', '1MB'], /--max-memory <size>' argument '1MB'.*32 MiB/],
    ['a wrong solver', ['quantize', TINY, '-o', 'x', '--solver', 'ls2'], /--solver <name>' argument 'ls2'.*hqq, least-squares/],
    [
      'a solver for nf4',
      ['quantize', TINY, '-o', 'x', '-m', 'nf4', '--solver', 'hqq'],
      /--solver is for hqq, not for nf4\nhint: nf4 takes --group, --double-quant/,
    ],
    [
      'bits for int8',
      ['quantize', TINY, '-o', 'x', '-m', 'int8', '-b', '8'],
      /--bits is for hqq, higgs, not for int8\nhint: int8 takes --threshold, --allow-non-finite\./,
    ],
    ['a threshold for fp4', ['quantize', TINY, '-o', 'x', '-m', 'fp4', '--threshold', '6'], /--threshold is for int8, not for fp4/],
    [
      'scales of 32 bits for higgs',
      ['quantize', TINY, '-o', 'x', '-m', 'higgs', '--dtype', 'f32'],
      /16 bits, so --dtype cannot be f32\nhint: Use --dtype bf16 or f16/,
    ],
    ['double quantization for hqq', ['quantize', TINY, '-o', 'x', '--double-quant'], /--double-quant is for nf4, fp4, not for hqq/],
    ['an empty model path', ['generate', '', '-p', 'x'], /argument 'model'.*not a path/],
    ['an empty output path', ['quantize', TINY, '-o', ''], /--out <dir>' argument ''.*not a path/],
    ['no data', ['perplexity', TINY], /needs a text\nhint: .*--data FILE/],
    ['two kinds of data', ['perplexity', TINY, '--data', 'a', '--ids', 'b'], /exclude each other/],
  ];

  it.each(wrong)('refuses %s with exit code 2', async (_, args, message) => {
    const { code, stdout, stderr } = await lowbit(args);
    expect(stderr).toMatch(message);
    expect([code, stdout]).toEqual([2, '']);
  });

  it('gives usage errors as JSON, too', async () => {
    const { code, json, stderr } = await lowbitJson(['quantize', TINY, '--bit', '4']);
    expect([code, stderr]).toEqual([2, '']);
    expect(json.error).toMatchObject({ code: 'ERR_USAGE', message: "unknown option '--bit'", hint: expect.stringContaining('--bits') });
  });
});

describe('errors', () => {
  const failing: [what: string, args: () => string[], code: string, hint: RegExp][] = [
    ['a missing folder', () => ['inspect', at('nothing')], 'ERR_NOT_FOUND', /path/],
    ['a file for a folder', () => ['inspect', join(TINY, 'config.json')], 'ERR_IO', /folder/],
    ['a folder without a model', () => ['inspect', dir], 'ERR_NOT_FOUND', /./],
    ['no tokenizer', () => ['generate', variant('bare', ['tokenizer.json']), '-p', 'a'], 'ERR_TOKENIZER', /tokenizer/],
    [
      'a strange architecture',
      () => ['generate', variant('odd', ['config.json'], { 'config.json': '{"model_type":"mamba"}' }), '-p', 'a'],
      'ERR_UNSUPPORTED_ARCH',
      /llama/,
    ],
    [
      'no architecture',
      () => ['quantize', variant('typeless', ['config.json'], { 'config.json': '{}' }), '-o', at('x')],
      'ERR_UNSUPPORTED_ARCH',
      /llama/,
    ],
    ['a broken config', () => ['inspect', variant('broken', ['config.json'], { 'config.json': '{' })], 'ERR_BAD_CHECKPOINT', /./],
    ['a quantized source', () => ['quantize', at('q4'), '-o', at('x')], 'ERR_UNSUPPORTED_FORMAT', /original/],
    ['an existing output', () => ['quantize', TINY, '-o', at('q4')], 'ERR_OUTPUT_EXISTS', /--overwrite/],
    ['groups that do not fit', () => ['quantize', TINY, '-o', at('x'), '-g', '1000'], 'ERR_UNSUPPORTED_FORMAT', /group size/],
    ['a rule that matches nothing', () => ['quantize', TINY, '-o', at('x'), '--skip', 'mlp.up'], 'ERR_BAD_ARGUMENT', /mlp\.up_proj/],
    ['a missing data file', () => ['perplexity', TINY, '--data', at('nothing.txt')], 'ERR_NOT_FOUND', /path/],
    ['a folder as data file', () => ['perplexity', TINY, '--data', dir], 'ERR_IO', /file/],
    [
      'data without text',
      () => ['perplexity', TINY, '--data', join(variant('empty', [], { 'empty.txt': '\n' }), 'empty.txt')],
      'ERR_BAD_ARGUMENT',
      /text/,
    ],
    ['ids that are none', () => ['perplexity', TINY, '--ids', join(TINY, 'config.json')], 'ERR_BAD_ARGUMENT', /list of ids/],
    [
      'a stride over the context',
      () => ['perplexity', TINY, '--data', join(TINY, 'eval.txt'), '--ctx', '64', '--stride', '65'],
      'ERR_BAD_ARGUMENT',
      /./,
    ],
    ['a context over the model', () => ['perplexity', TINY, '--data', join(TINY, 'eval.txt'), '--ctx', '4096'], 'ERR_LIMIT', /./],
    ['a chat with a base model', () => ['chat', TINY], 'ERR_TOKENIZER', /lowbit generate/],
  ];

  it('a model of the Hub, without a connection', async () => {
    const env = { HF_HUB_OFFLINE: '1', HF_HUB_CACHE: at('hub') };
    const { code, stdout, stderr } = await lowbit(['generate', 'org/name', '-p', 'a'], { env });
    expect(stderr).toMatch(/^error: org\/name@main is not in the cache .*\[ERR_OFFLINE_MISS\]\nhint: .*lowbit pull org\/name/);
    expect([code, stdout]).toEqual([1, '']);
  });

  it.each(failing)('%s', async (_, args, expected, hint) => {
    const words = args();
    const shown = await lowbit(words);
    expect(shown.stderr).toMatch(/^error: /m);
    expect(shown.stderr).toContain(`[${expected}]`);
    expect(shown.stderr).not.toMatch(/^ {4}at /m);
    expect([shown.code, shown.stdout]).toEqual([1, '']);
    const { code, json, stderr } = await lowbitJson(words);
    expect(json.error).toMatchObject({ code: expected, message: expect.any(String), details: expect.any(Object) });
    expect(json.error.hint ?? '').toMatch(hint);
    expect([code, stderr]).toEqual([1, '']);
    expect([existsSync(at('x')), existsSync(at('x.partial'))]).toEqual([false, false]);
  });
});

it.skipIf(!existsSync('/dev/full'))('says that stdout is full', () => {
  for (const args of [['--help'], ['inspect', TINY], ['inspect', TINY, '--json'], ['generate', TINY, '-p', 'a', '--max-tokens', '2']]) {
    const { status, stderr } = spawnSync(process.execPath, [main, ...args], {
      stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'],
      encoding: 'utf8',
    });
    expect(stderr).toMatch(/^error: cannot write to stdout: no space left on device \[ERR_IO\]\n$/m);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect(status).toBe(1);
  }
});

describe('quantize', () => {
  it('prints a plan whose sizes are those of the files, byte for byte', async () => {
    const args = [
      'quantize',
      TINY,
      '--rule',
      'mlp.down_proj=hqq:b8:a0',
      '--skip',
      'model.layers.0.**',
      '--shard-size',
      '2MB',
      '--dtype',
      'f16',
    ];
    const { json: plan } = await lowbitJson<Plan>([...args, '--dry-run']);
    const shown = await lowbit([...args, '--dry-run']);
    expect(readdirSync(dir).filter((name) => name.startsWith('planned'))).toEqual([]);
    const made = await lowbitJson<Plan>([...args, '-o', at('planned')]);
    const written = sizes(at('planned'));
    expect(Object.fromEntries(plan.files.map((file) => [file.name, file.bytes]))).toEqual(written);
    expect(plan.totalBytes).toBe(Object.values(written).reduce((a, b) => a + b));
    expect(Object.keys(written).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(2);
    for (const [name, bytes] of Object.entries(written)) {
      expect(shown.stdout).toMatch(new RegExp(`^${name} +${String(bytes).replace(/\B(?=(\d{3})+$)/g, ',')}$`, 'm'));
    }
    expect(made.json.files).toEqual(plan.files);
    expect(plan.tags.map((row) => `${row.linears} ${row.tag} ${row.format}`)).toContain('5 mlp.down_proj 8-bit g64 axis 0');
    expect(plan.summary.quantizedLinears).toBe(35);
  });

  it('reports sizes, error, worst linears, where the result loads, and what to do next', async () => {
    const { code, stdout, stderr } = await lowbit(['quantize', TINY, '-o', at('told')]);
    expect(code).toBe(0);
    for (const text of [
      '4.50 over 4,718,592 quantized weights, scales included; 6.60 over everything',
      '11.5 MB -> 4.84 MB (2.38 times smaller)',
      'preset           best4: least squares of hqq at 4 bits, weighed by random tokens',
      'importance       1,024 random tokens',
      'weight error',
      'worst linears',
      'Loads in:',
      'transformers',
      'lowbit generate',
    ]) {
      expect(stdout).toContain(text);
    }
    expect(stderr.match(/^Quantizing: \d+ % .*\n/gm)?.length).toBeGreaterThan(3);
    expect(stderr).not.toContain('\x1b');
    expect(existsSync(at('told.partial'))).toBe(false);
  });

  it('has the weight error of the Python library', async () => {
    const { json } = await lowbitJson<Plan>(['quantize', TINY, '-o', at('again'), '-m', 'hqq']);
    expect(json.weightError).toBeCloseTo(0.0077, 4);
    expect(json.linears).toHaveLength(42);
  });

  it('takes -g none', async () => {
    const { code, json } = await lowbitJson<Plan>(['quantize', TINY, '-o', at('rows'), '-g', 'none', '-b', '8']);
    expect(code).toBe(0);
    expect(json.tags.map(({ format }) => format)).toContain('8-bit g256');
    expect((await lowbit(['generate', at('rows'), '-p', 'a', '--max-tokens', '2', '--temp', '0'])).code).toBe(0);
  });

  it('lets later rules win, --skip among them', async () => {
    const first = await lowbitJson<Plan>(['quantize', TINY, '--dry-run', '--skip', 'mlp.*', '--rule', 'mlp.up_proj=hqq:b8']);
    const last = await lowbitJson<Plan>(['quantize', TINY, '--dry-run', '--rule', 'mlp.up_proj=hqq:b8', '--skip', 'mlp.*']);
    expect([first.json.summary.quantizedLinears, last.json.summary.quantizedLinears]).toEqual([30, 24]);
  });

  it('refuses an output that is there before anything else is done', async () => {
    const out = at('taken');
    mkdirSync(out);
    const costly = ['--target-bits', '3.25', '--sensitivity-tokens', '32'];
    for (const flags of [
      ['--solver', 'least-squares', '--importance', 'random'],
      costly,
      ['--importance', 'self', '--solver', 'least-squares'],
    ]) {
      const { code, json, stderr } = await lowbitJson(['quantize', TINY, '-o', out, ...flags]);
      expect([code, json.error.code]).toEqual([1, 'ERR_OUTPUT_EXISTS']);
      expect(stderr).not.toMatch(/%/); // no progress
    }
    const convert = await lowbitJson(['convert', goldenPath('higgs/tiny-llama'), '--flute', '32', '-o', out]);
    expect([convert.code, convert.json.error.code]).toEqual([1, 'ERR_OUTPUT_EXISTS']);
    expect(readdirSync(out)).toEqual([]);
  });

  it('takes a word that is nearly one of --importance for a slip, and others for files', async () => {
    const flags = ['quantize', TINY, '-o', at('slip'), '--solver', 'least-squares', '--importance'];
    const slip = await lowbit([...flags, 'random-token']);
    expect([slip.code, slip.stderr]).toEqual([2, expect.stringContaining('Did you mean random-tokens?')]);
    const file = await lowbitJson([...flags, './calibration.txt']);
    expect([file.code, file.json.error.code]).toEqual([1, 'ERR_NOT_FOUND']);
  });

  it('replaces a model with --overwrite', async () => {
    await lowbit(['quantize', TINY, '-o', at('replaced'), '-b', '8']);
    const before = sizes(at('replaced'));
    expect((await lowbit(['quantize', TINY, '-o', at('replaced'), '-b', '2', '--overwrite'])).code).toBe(0);
    expect(sizes(at('replaced'))['model.safetensors']).toBeLessThan(before['model.safetensors']!);
  });
});

describe('inspect', () => {
  it('shows architecture, parameters, quantization and files', async () => {
    const { json } = await lowbitJson<InspectReport>(['inspect', at('q4'), '--tensors']);
    expect(json).toMatchObject({ architecture: { modelType: 'llama', supported: true }, parameters: 5_770_496 });
    expect(json.quantization).toMatchObject({ layout: 'hqq', linears: 42, weights: 4_718_592, bitsPerWeight: 4.5 });
    expect(Object.fromEntries(json.files.map((file) => [file.name, file.bytes]))).toEqual(sizes(at('q4')));
    expect(json.tensorList).toHaveLength(json.tensors.count);
    expect((await lowbitJson<InspectReport>(['inspect', TINY])).json).toMatchObject({
      parameters: 5_770_496,
      quantization: { layout: null, linears: 0 },
    });
    const shown = await lowbit(['inspect', at('q4'), '--tensors']);
    for (const text of ['LlamaForCausalLM', '5,770,496', '4-bit g64', 'model.norm.weight']) expect(shown.stdout).toContain(text);
    expect(shown.stderr).toBe('');
  });
});

describe('generate', () => {
  it('refuses a prompt over the context before any weight is read', async () => {
    const { code, json, stderr } = await lowbitJson(['generate', TINY, '-p', 'It was a fine morning. '.repeat(4000)]);
    expect([code, json.error.code]).toEqual([1, 'ERR_LIMIT']);
    expect(json.error.message).toMatch(/tokens do not fit into a context of \d+/);
    expect(stderr).not.toMatch(/Loading/);
  });

  const args = (model: string): string[] => [
    'generate',
    model,
    '-p',
    'It was a fine morning, and',
    '--max-tokens',
    '12',
    '--top-k',
    '40',
    '--seed',
    '7',
  ];

  it('writes the text to stdout, statistics to stderr, the same for one seed', async () => {
    const { code, json, stderr } = await lowbitJson<GenerateResult>(args(at('q4')));
    expect([code, stderr]).toEqual([0, '']);
    expect(json).toMatchObject({
      finishReason: 'length',
      usage: { promptTokens: 8, completionTokens: 12 },
      seed: 7,
      timings: { prefillMs: expect.any(Number) },
    });
    expect(json.ids).toHaveLength(12);
    const shown = await lowbit(args(at('q4')));
    expect(shown).toMatchObject({ code: 0, stdout: `${json.text}\n` });
    expect(shown.stderr).toContain('seed 7');
    expect((await lowbit([...args(at('q4')), '--quiet'])).stderr).toBe('');
  });

  it('reads the prompt from stdin, without the newline of the shell', async () => {
    const piped = await lowbitJson<GenerateResult>(['generate', at('q4'), '-p', '-', '--max-tokens', '4', '--temp', '0'], {
      input: 'It was a fine morning, and\n',
    });
    const given = await lowbitJson<GenerateResult>([
      'generate',
      at('q4'),
      '-p',
      'It was a fine morning, and',
      '--max-tokens',
      '4',
      '--temp',
      '0',
    ]);
    expect(piped.json.ids).toEqual(given.json.ids);
    expect(piped.json.usage.promptTokens).toBe(8);
  });

  it('ends quietly when its reader leaves', async () => {
    const { code, stderr } = await lowbit(['generate', TINY, '-p', 'a', '--max-tokens', '300', '--quiet'], {
      onStdout: (_, child) => child.stdout.destroy(),
    });
    expect([code, stderr]).toEqual([0, '']);
  });
});

describe('perplexity', () => {
  const ids = (): number[] =>
    JSON.parse(readFileSync(new URL('../fixtures/golden/quality-ids-tiny.json', import.meta.url), 'utf8')).ids.slice(0, 127 * 2);
  const idsFile = (name: string, value: unknown): string => {
    writeFileSync(at(name), JSON.stringify(value));
    return at(name);
  };

  it('scores text, ids, and windows on their own alike', async () => {
    const [first, second] = [ids().slice(0, 127), ids().slice(127)];
    const whole = await lowbitJson<PerplexityReport>([
      'perplexity',
      TINY,
      '--ids',
      idsFile('golden.json', { ids: [...ids(), 5, 6], context: 128, bos: 0 }),
    ]);
    expect(whole.json).toMatchObject({ tokens: 254, contextLength: 128, stride: 127, startToken: 0 });
    expect(whole.json.perplexity).toBeCloseTo(Math.exp(whole.json.nll), 9);
    const own = await lowbitJson<PerplexityReport>([
      'perplexity',
      TINY,
      '--ids',
      idsFile('own.json', [
        [0, ...first],
        [0, ...second],
      ]),
    ]);
    expect(own.json.tokens).toBe(254);
    expect(own.json.nll).toBeCloseTo(whole.json.nll, 9);
    const text = readFileSync(join(TINY, 'eval.txt'), 'utf8').slice(0, 800);
    writeFileSync(at('text.txt'), text);
    const fromText = await lowbitJson<PerplexityReport>(['perplexity', TINY, '--data', at('text.txt'), '--ctx', '128', '--stride', '64']);
    expect(fromText.json).toMatchObject({ contextLength: 128, stride: 64, startToken: 0 });
    expect(fromText.json.perplexity).toBeGreaterThan(5);
    expect(fromText.json.perplexity).toBeLessThan(200);
    const shown = await lowbit(['perplexity', TINY, '--data', at('text.txt'), '--ctx', '128', '--stride', '64']);
    expect(shown.stdout).toContain(fromText.json.perplexity.toFixed(4));
  });
});

describe('compare', () => {
  it('says what quantizing lost, in all and layer by layer', async () => {
    expect((await lowbit(['quantize', TINY, '-o', at('compared'), '-b', '3', '--skip', 'model.layers.0.**', '--quiet'])).code).toBe(0);
    writeFileSync(at('compared.txt'), readFileSync(join(TINY, 'eval.txt'), 'utf8').slice(0, 1500));
    const flags = ['--data', at('compared.txt'), '--ctx', '128', '--linears'];
    const { json } = await lowbitJson<CompareReport>(['compare', at('compared'), TINY, ...flags]);
    expect(json).toMatchObject({ contextLength: 128, stride: 127, startToken: 0 });
    expect(json.kl).toBeGreaterThan(0.005);
    expect(json.kl).toBeLessThan(0.05);
    expect(json.klStderr).toBeLessThan(json.kl / 3);
    // The other way round there is a number, too, and a word.
    const swapped = await lowbit(['compare', TINY, at('compared'), '--data', at('compared.txt'), '--ctx', '128']);
    expect([swapped.code, swapped.stderr]).toEqual([0, expect.stringMatching(/compared is quantized and .* is not/)]);
    expect(json.top1).toBeGreaterThan(0.8);
    expect(json.size.reference).toMatchObject({ bitsPerParameter: 16, bitsPerWeight: null });
    expect(json.size.model.parameters).toBe(json.size.reference.parameters);
    expect(json.size.model.bitsPerWeight).toBeCloseTo(3.71, 1);
    expect(json.size.model.bitsPerParameter).toBeCloseTo((8 * json.size.model.bytes) / json.size.model.parameters, 9);
    const linears = json.linears!;
    expect(linears.length).toBe(35); // all but those of the layer that was skipped
    for (const { weightError, outputError, outputErrorStderr, snrDb, bitsPerWeight } of linears) {
      expect(snrDb).toBeCloseTo(-10 * Math.log10(weightError), 9);
      expect(outputError / weightError).toBeGreaterThan(0.1);
      expect(outputError / weightError).toBeLessThan(10);
      expect(outputErrorStderr).toBeLessThan(outputError / 3);
      expect(bitsPerWeight).toBeCloseTo(3.71, 1);
    }
    const shown = await lowbit(['compare', at('compared'), TINY, ...flags]);
    expect(shown.stdout).toContain(`${json.kl.toPrecision(4)} +- ${json.klStderr.toPrecision(2)} nats`);
    expect(shown.stdout).toContain(linears[0]!.path);
    const refused = await lowbit(['compare', TINY, TINY]);
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('compare needs a text')]);
  });
});

it('sensitivity: what quantize --target-bits would measure, kept for it', async () => {
  const { json } = await lowbitJson<SensitivityReport>(['sensitivity', TINY, '--tokens', '16', '--save', at('sensitive.json')]);
  expect(json).toMatchObject({ metric: 'kl', tokens: 16, on: 'random-tokens' });
  expect(json.linears.length).toBe(42);
  const shown = await lowbit(['sensitivity', TINY, '--on', at('sensitive.json')]);
  expect(shown.stdout).toMatch(/mlp\.down_proj +6 /);
  const plan = await lowbit(['quantize', TINY, '--dry-run', '--target-bits', '3.25', '--sensitivity', at('sensitive.json')]);
  expect([plan.code, plan.stdout]).toEqual([0, expect.stringContaining('16 random tokens')]);
});

it('perplexity of a model that computes NaN is an error', async () => {
  const model = variant('damaged', []);
  const weights = readFileSync(join(model, 'model.safetensors'));
  weights.fill(0xff, weights.length - 64); // NaN in every float dtype
  writeFileSync(join(model, 'model.safetensors'), weights);
  writeFileSync(at('few.json'), '[5, 6, 7, 8]');
  const { code, json, stderr } = await lowbitJson(['perplexity', model, '--ids', at('few.json')]);
  expect(json.error).toMatchObject({ code: 'ERR_NON_FINITE', message: expect.stringContaining('window 0') });
  expect([code, stderr]).toEqual([1, '']);
});

it('--prompt-lookup changes no text', async () => {
  const asked = ['generate', TINY, '-p', 'the son of David, the son of Abraham, the son of', '--temp', '0', '--max-tokens', '24', '--json'];
  const { json: plain } = await lowbitJson<GenerateResult>(asked);
  const { json: guessed } = await lowbitJson<GenerateResult>([...asked, '--prompt-lookup']);
  expect(guessed.ids).toEqual(plain.ids);
  expect(guessed.usage.guessedTokens).toBeGreaterThan(0);
});

it('quantizes an architecture that it does not know, and says so', async () => {
  const config = JSON.parse(readFileSync(join(TINY, 'config.json'), 'utf8')) as object;
  const unknown = variant('unknown', [], { 'config.json': JSON.stringify({ ...config, model_type: 'foobar' }) });
  const { code, stderr } = await lowbit([
    'quantize',
    unknown,
    '-o',
    at('by-name'),
    '-m',
    'hqq',
    '-b',
    '4',
    '--rule',
    'self_attn.v_proj=hqq:b8',
  ]);
  expect([code, stderr]).toEqual([0, expect.stringContaining('model_type foobar is not known here')]);
  const { json } = await lowbitJson<InspectReport>(['inspect', at('by-name')]);
  expect(json.quantization).toMatchObject({ layout: 'hqq', linears: 42 });
  const { json: same } = await lowbitJson<QuantizeModelReport>([
    'quantize',
    TINY,
    '-o',
    at('known'),
    '-m',
    'hqq',
    '-b',
    '4',
    '--rule',
    'self_attn.v_proj=hqq:b8',
  ]);
  expect(same.byName).toBe(null);
  expect(readFileSync(join(at('by-name'), 'model.safetensors')).equals(readFileSync(join(at('known'), 'model.safetensors')))).toBe(true);
  const run = await lowbitJson(['generate', at('by-name'), '-p', 'x']);
  expect(run.json.error).toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH' });

  // By the default, which has no model to run there: least squares in which every channel counts alike.
  const only = ['--skip', 'model.layers.{1,2,3,4,5}.**'];
  const unasked = await lowbit(['quantize', unknown, '-o', at('unasked'), ...only]);
  expect([unasked.code, unasked.stderr]).toEqual([0, expect.stringMatching(/foobar.*, so every channel counts alike/)]);
  expect(unasked.stdout).toMatch(/^importance +none: every channel counts alike$/m);
  const alike = await lowbit(['quantize', TINY, '-o', at('alike'), '--importance', 'none', ...only]);
  expect(alike.code).toBe(0);
  const weights = (name: string) => readFileSync(join(at(name), 'model.safetensors'));
  expect(weights('unasked').equals(weights('alike'))).toBe(true);
});

describe('estimate', () => {
  it('tells what a folder takes, and what it would if it were quantized', async () => {
    const flags = ['--ctx', '128', '--backend', 'reference'];
    const { json: plain, stderr } = await lowbitJson<EstimateReport>(['estimate', TINY, ...flags]);
    expect(stderr).toBe('');
    expect(plain).toMatchObject({ method: null, backend: 'reference', contextLength: 128, verdict: 'fits', quantizing: null });
    expect(plain.disk).toBeGreaterThan(11e6);
    const { json: four } = await lowbitJson<EstimateReport>(['estimate', TINY, ...flags, '-m', 'hqq', '-b', '4']);
    expect(four).toMatchObject({ method: 'hqq', kvCache: plain.kvCache, quantizing: 192 * 2 ** 20 });
    expect(four.weights).toBeLessThan(plain.weights / 2);
    expect((await lowbit(['quantize', TINY, '-o', at('estimated'), '-m', 'hqq', '-b', '4', '--quiet'])).code).toBe(0);
    const { json: done } = await lowbitJson<EstimateReport>(['estimate', at('estimated'), ...flags]);
    expect(done).toMatchObject({ weights: four.weights, kvCache: four.kvCache, disk: four.disk });
    const text = await lowbit(['estimate', TINY, ...flags]);
    expect(text.stdout).toMatch(/verdict +fits/);
  });

  it('--measure: what the model takes when it is there', async () => {
    const { json, code } = await lowbitJson<EstimateReport>([
      'estimate',
      TINY,
      '--ctx',
      '64',
      '--backend',
      'reference',
      '--measure',
      '--quiet',
    ]);
    expect(code).toBe(0);
    const { tokens, counted, rss } = json.measured!;
    expect(tokens).toBe(63);
    // All but the room of a step, which the reference backend gives back, and the place of one token.
    expect(counted).toBeGreaterThan(0.97 * (json.total - json.activations));
    expect(counted).toBeLessThanOrEqual(json.total);
    expect(rss.loaded).toBeGreaterThan(rss.before);
    expect(rss.most).toBeGreaterThanOrEqual(rss.loaded);
    const text = await lowbit(['estimate', TINY, '--ctx', '16', '--backend', 'reference', '--measure', '--quiet']);
    expect(text.stdout).toMatch(/measured +\S+ MB resident .* after 15 tokens/);
  });

  it.each<[string, readonly string[], RegExp]>([
    ['bits without a method', ['-b', '4'], /--bits needs --method/],
    ['measuring what is not there', ['-m', 'nf4', '--measure'], /--measure loads the model as it is/],
    ['measuring several texts', ['--sequences', '2', '--measure'], /--measure reads one text/],
    ['a setting that the method has not', ['-m', 'nf4', '-b', '4'], /--bits is not a setting of nf4/],
  ])('refuses %s', async (_, flags, message) => {
    const { code, stderr } = await lowbit(['estimate', TINY, ...flags]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
  });
});

describe('chat', () => {
  const template = '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}';
  let model = '';
  beforeAll(() => {
    model = variant('talking', [], { 'chat_template.jinja': template });
  });

  it('answers line by line and remembers, until /reset and /exit', async () => {
    const input = 'hello\n\nhow are you\n/reset\nhello\n/exit\nnever\n';
    const { code, stdout, stderr } = await lowbit(['chat', model, '--system', 'be kind', '--max-tokens', '6', '--temp', '0', '--json'], {
      input,
    });
    expect([code, stderr]).toEqual([0, '']);
    const answers = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as GenerateResult);
    expect(answers).toHaveLength(3);
    expect(answers[2]!.ids).toEqual(answers[0]!.ids);
    expect(answers[1]!.usage.promptTokens).toBeGreaterThan(answers[0]!.usage.promptTokens);
  });

  it('/save writes the conversation, and never over a file', async () => {
    const file = at('talk.json');
    const input = `hello\n/save ${file}\n/save ${file}\n/save\nhow are you\n`;
    const flags = ['--system', 'be kind', '--max-tokens', '4', '--temp', '0'];
    const { code, stdout, stderr } = await lowbit(['chat', model, ...flags, '--json'], { input });
    expect(code).toBe(0);
    const answers = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as GenerateResult);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual({
      messages: [
        { role: 'system', content: 'be kind' },
        { role: 'user', content: 'hello' },
        { role: 'assistant', content: answers[0]!.text },
      ],
    });
    expect(stderr).toBe('');
    // All of the first prompt; where the answer's tokens begin depends on how its text is cut again.
    expect(answers[1]!.usage.cachedTokens).toBeGreaterThanOrEqual(answers[0]!.usage.promptTokens - 1);
    const loud = await lowbit(['chat', model, ...flags], { input });
    expect(loud.stderr).toContain(`${file}: it exists already`);
    expect(loud.stderr).toContain('/save needs the name of a file');
  });

  it('takes a template by name or from a file, and tools for it', async () => {
    const list = [
      { name: 'default', template },
      { name: 'loud', template: '{{ messages[-1].content | upper }}{% for t in tools or [] %}{{ t.function.name }}{% endfor %}' },
    ];
    const config = JSON.parse(readFileSync(join(TINY, 'tokenizer_config.json'), 'utf8')) as object;
    const named = variant('named', [], { 'tokenizer_config.json': JSON.stringify({ ...config, chat_template: list }) });
    writeFileSync(at('loud.jinja'), list[1]!.template);
    writeFileSync(at('tools.json'), JSON.stringify([{ type: 'function', function: { name: 'weather_of_a_place' } }]));
    const ask = async (...flags: string[]): Promise<GenerateResult> => {
      const { code, stdout, stderr } = await lowbit(['chat', named, '--max-tokens', '2', '--temp', '0', '--json', ...flags], {
        input: 'hello',
      });
      expect([code, stderr]).toEqual([0, '']);
      return JSON.parse(stdout) as GenerateResult;
    };
    const [plain, loud, file, tools] = [
      await ask(),
      await ask('--template', 'loud'),
      await ask('--template', at('loud.jinja')),
      await ask('--template', 'loud', '--tools', at('tools.json')),
    ];
    expect(loud.usage.promptTokens).not.toBe(plain.usage.promptTokens);
    expect(file.usage).toEqual(loud.usage);
    expect(tools.usage.promptTokens).toBeGreaterThan(loud.usage.promptTokens);
    const wrong = await lowbitJson(['chat', named, '--template', 'nobody'], { input: 'hello' });
    expect(wrong.json.error).toMatchObject({ code: 'ERR_NOT_FOUND', hint: expect.stringContaining('loud') });
    writeFileSync(at('no-tools.json'), '{}');
    const odd = await lowbitJson(['chat', named, '--tools', at('no-tools.json')], { input: 'hello' });
    expect(odd.json.error).toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
  });

  it('refuses a template that would not end', async () => {
    const hostile = variant('hostile', [], { 'chat_template.jinja': '{% for i in range(300000000) %}{% endfor %}' });
    const { code, json } = await lowbitJson(['chat', hostile], { input: 'hello' });
    expect(json.error).toMatchObject({ code: 'ERR_LIMIT', hint: expect.stringContaining('template') });
    expect(code).toBe(1);
  });

  it('ends at the end of stdin', async () => {
    const { code, stdout }: Outcome = await lowbit(['chat', model, '--max-tokens', '4', '--temp', '0'], { input: 'hello' });
    expect(code).toBe(0);
    expect(stdout).not.toBe('');
  });
});
