// `lowbit bench`: names, columns and fields of llama-bench.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BenchRow } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

const ABSENT = { env: { LOWBIT_CPU_ADDON: '/nowhere/lowbit_cpu.node' } };
const small = ['-p', '16', '-n', '4', '-r', '2'];

let dir = '';
beforeAll(async () => {
  ensureBuilt();
  dir = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
  expect((await lowbit(['quantize', TINY, '-o', join(dir, 'q4'), '--quiet', '-m', 'hqq', '--rule', 'mlp.down_proj=hqq:b8'])).code).toBe(0);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

it('gives JSON with the fields of llama-bench', async () => {
  const { code, json, stderr } = await lowbitJson<readonly BenchRow[]>(['bench', TINY, ...small]);
  expect([code, stderr]).toEqual([0, '']);
  expect(json.map(({ n_prompt, n_gen, n_depth }) => [n_prompt, n_gen, n_depth])).toEqual([
    [16, 0, 0],
    [0, 4, 0],
  ]);
  for (const row of json) {
    expect(row).toMatchObject({
      model_filename: TINY,
      model_type: 'llama bf16',
      model_size: 11_540_992,
      model_n_params: 5_770_496,
      n_batch: 512,
    });
    expect(['cpu', 'reference']).toContain(row.backends);
    expect(Number.isInteger(row.n_threads)).toBe(true);
    expect(row.test_time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
    const tokens = row.n_prompt + row.n_gen;
    expect(row.samples_ns).toHaveLength(2);
    for (const [i, ns] of row.samples_ns.entries()) expect(row.samples_ts[i]! / ((1e9 * tokens) / ns)).toBeCloseTo(1, 3);
    expect(row.avg_ns).toBeCloseTo((row.samples_ns[0]! + row.samples_ns[1]!) / 2, -1);
    expect(row.avg_ts).toBeCloseTo((row.samples_ts[0]! + row.samples_ts[1]!) / 2, 3);
    expect(row.stddev_ts).toBeCloseTo(Math.abs(row.samples_ts[0]! - row.samples_ts[1]!) / Math.SQRT2, 3);
  }
  const output = await lowbit(['bench', TINY, ...small, '-o', 'json']);
  expect(output.stderr).toBe('');
  expect(Object.keys((JSON.parse(output.stdout) as object[])[0]!)).toEqual(Object.keys(json[0]!));
});

it('--head-bits holds the output layer in fewer bits', async () => {
  const { json } = await lowbitJson<readonly BenchRow[]>(['bench', TINY, '-p', '0', '-n', '2', '-r', '1', '--head-bits', '8']);
  expect(json.map(({ model_type }) => model_type)).toEqual(['llama bf16 + 8-bit head']);
  const prompt = ['generate', TINY, '-p', 'In the beginning', '--temp', '0', '--max-tokens', '6', '--quiet'];
  const [whole, eight] = [await lowbit(prompt), await lowbit([...prompt, '--head-bits', '8'])];
  expect([eight.code, eight.stdout]).toEqual([0, whole.stdout]);
  const wrong = await lowbit([...prompt, '--head-bits', '7']);
  expect([wrong.code, wrong.stdout]).toEqual([2, '']);
  expect(wrong.stderr).toMatch(/--head-bits.*8, 6, 5, 4, 3, 2/);
});

it('prints a table in the columns of llama-bench, each row when it is known', async () => {
  const flags = ['--pg', '8,2', '-d', '0,8', '-t', '1,2', '--no-warmup'];
  const { code, stdout, stderr } = await lowbit(['bench', join(dir, 'q4'), ...small, ...flags]);
  expect(code).toBe(0);
  const [head, rule, ...rest] = stdout.split('\n');
  const cells = (line: string): string[] =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
  expect(cells(head!)).toEqual(['model', 'size', 'params', 'backend', 'threads', 'test', 't/s']);
  expect(rule).toMatch(/^\| -{30} \| -{9}: \|/);
  const rows = rest.filter((line) => line.startsWith('|')).map(cells);
  const tests = ['pp16', 'tg4', 'pp8+tg2', 'pp16 @ d8', 'tg4 @ d8', 'pp8+tg2 @ d8'];
  // Where there is no addon the reference runs, and that has one thread.
  const native = rows[0]![3] === 'cpu';
  expect(rows.map((row) => row[5])).toEqual(native ? [...tests, ...tests] : tests);
  expect(rows.map((row) => row[4])).toEqual([...tests.map(() => '1'), ...(native ? tests.map(() => '2') : [])]);
  for (const row of rows) {
    expect(row.slice(0, 3)).toEqual(['llama 4-bit g64 + 8-bit g64', '5.10 MiB', '5.77 M']);
    expect(row[6]).toMatch(/^\d+\.\d\d ± \d+\.\d\d$/);
  }
  expect(
    new Set(
      stdout
        .split('\n')
        .filter((line) => line.startsWith('|'))
        .map(({ length }) => length),
    ).size,
  ).toBe(1);
  expect(stdout).toMatch(/\nbuild: lowbit \d+\.\d+\.\d+, .*\n$/);
  expect(stderr).toMatch(/^Timing: 100 % /m);
});

it('prints CSV and JSON Lines', async () => {
  const csv = await lowbit(['bench', TINY, '-p', '16', '-n', '0', '-r', '1', '-o', 'csv', '-q']);
  expect(csv).toMatchObject({ code: 0, stderr: '' });
  const [head, row, ...rest] = csv.stdout.trimEnd().split('\n');
  expect(rest).toEqual([]);
  expect(head).toMatch(/^build_version,cpu_info,backends,.*,n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts$/);
  expect(row!.split('","')).toHaveLength(head!.split(',').length);
  expect(row).toMatch(/^"[^"]*",.*,"16","0","0",".*Z","\d+","0","[\d.]+","0"$/);
  const lines = await lowbit(['bench', TINY, ...small, '-o', 'jsonl', '--backend', 'reference']);
  expect(
    lines.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as BenchRow),
  ).toMatchObject([{ n_prompt: 16, backends: 'reference', n_threads: 1, precision: null, backend_why: null }, { n_gen: 4 }]);
});

it('says that it had to do without the native backend', async () => {
  const shown = await lowbit(['bench', TINY, ...small, '-t', '1,2'], ABSENT);
  expect(shown.stderr.match(/^cpu is not available: .*$/gm)).toHaveLength(1);
  expect(shown.stdout.match(/reference/g)).toHaveLength(2);
  const { json } = await lowbitJson<readonly BenchRow[]>(['bench', TINY, ...small], ABSENT);
  expect(json[0]).toMatchObject({ backends: 'reference', backend_why: expect.stringContaining('/nowhere') });
});

const wrong: [string, string[], number, string, RegExp][] = [
  ['no tests', ['-p', '0', '-n', '0'], 2, 'ERR_USAGE', /no test/],
  ['a negative count', ['-p', '-5'], 2, 'ERR_USAGE', /--n-prompt <list>' argument '-5'/],
  ['a count that is none', ['-n', '1,x'], 2, 'ERR_USAGE', /--n-gen <list>' argument '1,x'/],
  ['half a pair', ['--pg', '512'], 2, 'ERR_USAGE', /--pg <p,n>' argument '512'.*512,128/],
  ['another format', ['-o', 'xml'], 2, 'ERR_USAGE', /one of md, csv, json, jsonl/],
  ['JSON as CSV', ['-o', 'csv'], 2, 'ERR_USAGE', /exclude each other/],
  ['no repetitions', ['-r', '0'], 2, 'ERR_USAGE', /--repetitions/],
  ['threads of the reference', ['--backend', 'reference', '-t', '2'], 2, 'ERR_USAGE', /--threads is not for/],
  ['more than the context', ['-p', '1020', '-d', '5'], 1, 'ERR_LIMIT', /pp1020 @ d5 takes 1025 tokens/],
];
it.each(wrong)('refuses %s', async (_, args, exit, expected, message) => {
  const { code, json, stderr } = await lowbitJson(['bench', TINY, ...args]);
  expect(json.error).toMatchObject({ code: expected, message: expect.stringMatching(message) });
  if (expected === 'ERR_LIMIT') expect(json.error.hint).toContain('-p, -n and -d that add up to 1024');
  expect([code, stderr]).toEqual([exit, '']);
});

it('refuses a folder that is no model', async () => {
  expect((await lowbitJson(['bench', dir])).json.error.code).toBe('ERR_NOT_FOUND');
});
