// `--backend` on the command line: the native backend, doing without it, and backends of third parties.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpu } from '@lowbit/kernels-cpu';
import type { BackendUse, GenerateResult, PerplexityReport, QuantizeModelReport } from 'lowbit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { digests, ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

type Generated = GenerateResult & { readonly backend: BackendUse };
type Quantized = QuantizeModelReport & { readonly backend: BackendUse & { readonly routines: readonly string[] } };

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
/** As on a machine without the addon. */
const ABSENT = { env: { LOWBIT_CPU_ADDON: '/nowhere/lowbit_cpu.node' } };
const core = new URL('../packages/core/dist/index.js', import.meta.url).href;

let dir = '';
const at = (name: string): string => join(dir, name);
beforeAll(async () => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-backend-'));
  expect((await lowbit(['quantize', TINY, '-o', at('q4'), '-m', 'hqq', '--quiet'])).code).toBe(0);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const generate = (model: string, ...args: string[]): string[] => [
  ...['generate', model, '-p', 'It was a fine morning, and', '--max-tokens', '8', '--temp', '0'],
  ...args,
];

describe('with the native backend', () => {
  it('is what runs unasked, in any number of threads and on any instructions, with the text of the reference', async (context) => {
    addon(context);
    const { json: native, stderr } = await lowbitJson<Generated>(generate(at('q4')));
    expect(stderr).toBe('');
    expect(native.backend).toEqual({ name: 'cpu', device: expect.stringMatching(/^CPU, /), why: null });
    const ways = [
      ['--threads', '1'],
      ['--precision', 'fast'],
      ['--backend', 'cpu', '--isa', 'scalar', '-t', '2'],
      ['--backend', 'reference'],
    ];
    const results = await Promise.all(ways.map((way) => lowbitJson<Generated>(generate(at('q4'), ...way))));
    expect(results.map(({ json }) => json.backend.device)).toEqual([
      expect.stringMatching(/one thread$/),
      expect.stringMatching(/^CPU, /),
      'CPU, scalar, 2 threads',
      'host memory, one thread',
    ]);
    for (const { json } of results) expect(json.ids).toEqual(native.ids);
    const shown = await lowbit(generate(at('q4')));
    expect(shown.stderr).toMatch(/, backend cpu \(CPU, [a-z0-9]+, .*thread.*\)\n$/);
    expect(shown.stderr).not.toContain('TypeScript');
  });

  it('quantizes with its routines, in the bytes of TypeScript', async (context) => {
    addon(context);
    const { json } = await lowbitJson<Quantized>(['quantize', TINY, '-o', at('native'), '-m', 'hqq', '--backend', 'cpu']);
    expect(json.backend).toMatchObject({ name: 'cpu', why: null });
    expect(json.backend.routines).toContain('hqq.proximal-steps');
    const { stdout } = await lowbit(['quantize', TINY, '-o', at('plain'), '-m', 'hqq', '--backend', 'reference', '--threads', '2']);
    expect(stdout).toMatch(/^computed by +TypeScript, 2 threads$/m);
    expect(digests(at('native'))).toEqual(digests(at('plain')));
  });

  it('measures perplexity, sensitivities and what quantizing cost', async (context) => {
    addon(context);
    writeFileSync(at('ids.json'), JSON.stringify(Array.from({ length: 48 }, (_, i) => (37 * i) % 4096)));
    const perplexities: number[] = [];
    for (const backend of ['cpu', 'reference']) {
      const { json } = await lowbitJson<PerplexityReport>(['perplexity', at('q4'), '--ids', at('ids.json'), '--backend', backend]);
      expect(json.backend.name).toBe(backend);
      perplexities.push(json.perplexity);
    }
    expect(perplexities[0]! / perplexities[1]!).toBeCloseTo(1, 4);
    const target = ['--target-bits', '4.1', '--choices', 'hqq:b3,hqq:b4', '--sensitivity-tokens', '8', '--measure', at('ids.json')];
    const made = await lowbitJson<
      Quantized & { readonly measured: { readonly kl: number }; readonly allocation: { readonly loss: number } }
    >([...['quantize', TINY, '-o', at('shared'), ...target]]);
    expect(made.json.backend.name).toBe('cpu');
    expect([made.json.measured.kl > 0, made.json.allocation.loss > 0]).toEqual([true, true]);
  });
});

describe('without the native backend', () => {
  it('runs in TypeScript and says so and why, in one line', async () => {
    const shown = await lowbit(generate(at('q4')), ABSENT);
    expect(shown.code).toBe(0);
    const notes = shown.stderr.split('\n').filter((line) => line.includes('not available'));
    expect(notes).toEqual([
      expect.stringMatching(
        /^cpu is not available: .*\/nowhere\/lowbit_cpu\.node.*; running in plain TypeScript, slowly\. --backend cpu says where it was looked for\.$/,
      ),
    ]);
    const { json, stderr } = await lowbitJson<Generated>(generate(at('q4')), ABSENT);
    expect(stderr).toBe('');
    expect(json.backend).toMatchObject({ name: 'reference', why: expect.stringContaining('/nowhere/lowbit_cpu.node') });
    expect((await lowbit(generate(at('q4'), '--quiet'), ABSENT)).stderr).toBe('');
  });

  it('says of an estimate what it is for, since nothing runs', async () => {
    const { code, stderr } = await lowbit(['estimate', at('q4')], ABSENT);
    expect(code).toBe(0);
    expect(stderr).toMatch(/^cpu is not available: .*; the estimate is for plain TypeScript\. --backend cpu says where/m);
    expect(stderr).not.toContain('running');
  });

  it('is an error where it was asked for, with every place that was tried', async () => {
    for (const args of [
      generate(at('q4')),
      ['perplexity', at('q4'), '--ids', at('few.json')],
      ['quantize', TINY, '-o', at('x')],
      ['bench', at('q4')],
    ]) {
      writeFileSync(at('few.json'), '[5, 6, 7, 8]');
      const { code, json } = await lowbitJson([...args, '--backend', 'cpu'], ABSENT);
      expect(json.error).toMatchObject({
        code: 'ERR_BACKEND_UNAVAILABLE',
        message: expect.stringContaining('path: /nowhere/lowbit_cpu.node'),
        hint: expect.stringContaining('--backend auto'),
      });
      expect(code).toBe(1);
    }
  });

  it('quantizes by the default, and says what that takes and how native code is had', async () => {
    const layers = ['--skip', 'model.layers.{1,2,3,4,5}.**'];
    const made = await lowbit(['quantize', TINY, '-o', at('slow'), ...layers], ABSENT);
    expect([made.code, made.stdout]).toEqual([0, expect.stringMatching(/^importance +1,024 random tokens$/m)]);
    expect(made.stderr).toMatch(
      /^Least squares and random tokens take many times as long in TypeScript\. .*install @lowbit\/kernels-cpu.*-m hqq takes less time and loses more\.$/m,
    );
    const python = await lowbit(['quantize', TINY, '-o', at('quick'), '-m', 'hqq', ...layers], ABSENT);
    expect([python.code, python.stderr]).toEqual([0, expect.not.stringContaining('Least squares')]);
  });

  it('needs none for a plan', async () => {
    const { code, stderr } = await lowbit(['quantize', TINY, '--dry-run'], ABSENT);
    expect([code, stderr]).toEqual([0, '']);
  });
});

/** A module of a third party. */
const mine = (): string => `import { referenceBackend } from ${JSON.stringify(core)};
export default (settings) => referenceBackend({ name: 'mine-' + (settings.threads ?? 'any') });`;
/** One whose answer to what it supports is another. */
const answering = (name: string, supports: string): string => `import { referenceBackend } from ${JSON.stringify(core)};
const plain = referenceBackend({ name: '${name}' });
export const backend = { ...plain, async open(options) {
  const opened = await plain.open(options);
  const supports = (request) => ${supports};
  return new Proxy(opened, { get(target, key) {
    if (key === 'supports') return supports;
    const value = Reflect.get(target, key);
    return typeof value === 'function' ? value.bind(target) : value;
  } });
} };`;
/** One that takes dense weights alone. */
const picky = (): string =>
  answering('picky', "request.format.kind === 'dense' ? opened.supports(request) : { level: 'none', reason: 'dense weights alone' }");
/** One that holds scales with their codes. */
const together = (): string => answering('together', 'opened.supports({ ...request, offloadMeta: false })');

describe('backends of third parties', () => {
  it('are taken from a path or a package of the folder that the command runs in', async () => {
    const folder = at('project');
    mkdirSync(join(folder, 'node_modules/my-backend'), { recursive: true });
    writeFileSync(join(folder, 'mine.mjs'), mine());
    writeFileSync(
      join(folder, 'node_modules/my-backend/package.json'),
      '{"name":"my-backend","type":"module","exports":{"import":"./index.js"}}',
    );
    writeFileSync(join(folder, 'node_modules/my-backend/index.js'), mine());
    const file = await lowbitJson<Generated>(generate(at('q4'), '--backend', './mine.mjs', '--threads', '3'), { cwd: folder });
    expect(file.json.backend).toEqual({ name: 'mine-3', device: 'host memory, one thread', why: null });
    const named = await lowbitJson<Generated>(generate(at('q4'), '--backend', 'my-backend'), { cwd: folder });
    expect(named.json.backend.name).toBe('mine-any');
    expect(named.json.ids).toEqual(file.json.ids);
    const elsewhere = await lowbitJson(generate(at('q4'), '--backend', 'my-backend'), { cwd: dir });
    expect(elsewhere.json.error).toMatchObject({ code: 'ERR_NOT_FOUND', hint: expect.stringContaining('auto, cpu, reference') });
  });

  it('are not replaced where they do not take a format', async () => {
    writeFileSync(at('picky.mjs'), picky());
    const { code, json } = await lowbitJson(generate(at('q4'), '--backend', at('picky.mjs')));
    expect(json.error).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: expect.stringContaining('dense weights alone'),
      hint: expect.stringContaining('--backend auto'),
    });
    expect(code).toBe(1);
    expect((await lowbitJson<Generated>(generate(TINY, '--backend', at('picky.mjs')))).json.backend.name).toBe('picky');
  });

  it('that cannot keep scales on the host say so before a weight is read', async () => {
    writeFileSync(at('together.mjs'), together());
    const { code, json } = await lowbitJson(generate(at('q4'), '--backend', at('together.mjs'), '--offload-meta'));
    expect(json.error).toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: '--offload-meta: the backend together keeps scales and zeros with their codes',
      hint: expect.stringContaining('kernels-cuda'),
    });
    expect(code).toBe(1);
    const sized = await lowbitJson(generate(at('q4'), '--backend', at('together.mjs'), '--weight-memory', '1MB'));
    expect(sized.json.error).toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('takes no setting') });
  });

  const wrong: [string, string[], RegExp][] = [
    ['threads of the reference', ['--backend', 'reference', '--threads', '2'], /--threads is not for --backend reference/],
    ['a precision of the reference', ['--backend', 'reference', '--precision', 'fast'], /--precision is not for --backend reference/],
    ['memory of a GPU that is not there', ['--weight-memory', '6GB'], /--weight-memory is not for --backend auto/],
    ['memory of a GPU for cpu', ['--backend', 'cpu', '--weight-memory', '6GB'], /--weight-memory is not for --backend cpu/],
    [
      'scales on the host that is the device',
      ['--backend', 'reference', '--offload-meta'],
      /--offload-meta is not for --backend reference/,
    ],
    ['no size', ['--weight-memory', 'much'], /--weight-memory <size>' argument 'much'/],
    ['instructions without cpu', ['--isa', 'scalar'], /--isa needs --backend cpu/],
    ['another precision', ['--precision', 'low'], /--precision <how>' argument 'low'.*exact, fast/],
    ['no threads', ['--threads', '0'], /--threads <n>' argument '0'.*from 1 to 1024/],
    ['an empty name', ['--backend', ''], /--backend <name>' argument ''/],
  ];
  it.each(wrong)('refuses %s with exit code 2', async (_, args, message) => {
    const { code, stdout, stderr } = await lowbit(generate(TINY, ...args));
    expect(stderr).toMatch(message);
    expect([code, stdout]).toEqual([2, '']);
  });

  it('refuses instructions that there are not', async () => {
    const { code, json } = await lowbitJson(generate(TINY, '--backend', 'cpu', '--isa', 'mmx'));
    expect(json.error).toMatchObject({ code: 'ERR_USAGE', message: 'cpu: --isa cannot be mmx', hint: expect.stringContaining('scalar') });
    expect(code).toBe(2);
  });
});

it('chat and --help know them, too', async () => {
  const template = '{% for m in messages %}{{ m.content }}{% endfor %}';
  mkdirSync(at('talking'));
  for (const file of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'])
    writeFileSync(join(at('talking'), file), readFileSync(join(TINY, file)));
  writeFileSync(join(at('talking'), 'chat_template.jinja'), template);
  const { stdout } = await lowbit(['chat', at('talking'), '--max-tokens', '2', '--json', '--backend', 'reference'], { input: 'hello\n' });
  expect((JSON.parse(stdout) as Generated).backend).toMatchObject({ name: 'reference', why: null });
  for (const verb of ['generate', 'chat', 'perplexity', 'quantize', 'bench'])
    expect((await lowbit([verb, '--help'])).stdout).toContain('--backend');
});
