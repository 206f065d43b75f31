import { expect, it } from 'vitest';
import { type BenchSubject, benchRow, csvHead, csvRow, markdownHead, markdownRow } from './bench-rows.ts';

const subject: BenchSubject = {
  ...{ build_version: '1.2.3', cpu_info: 'A "fast" one', backends: 'mine|yours', device: 'CPU', backend_why: null },
  ...{ model_filename: './m,1', model_type: 'llama 4-bit g64', model_size: 3 * 2 ** 30, model_n_params: 6_738_000_000 },
  ...{ n_batch: 512, n_threads: null, precision: 'fast' },
};
const row = benchRow(subject, {
  ...{ test: 'pp100', prompt: 100, generate: 0, depth: 0, started: new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 678)) },
  milliseconds: [50, 100, 150],
  tokensPerSecond: { samples: [2000, 1000, 2000 / 3], mean: 3666.6666667 / 3, stddev: 693.8886664887 },
});

it('has the units and rounding of llama-bench', () => {
  expect(row).toEqual({
    ...subject,
    ...{ n_prompt: 100, n_gen: 0, n_depth: 0, test_time: '2026-01-02T03:04:05Z' },
    ...{ avg_ns: 1e8, stddev_ns: 5e7, avg_ts: 1222.222222, stddev_ts: 693.888666 },
    ...{ samples_ns: [5e7, 1e8, 1.5e8], samples_ts: [2000, 1000, 666.666667] },
  });
});

it('writes Markdown and CSV that names cannot break', () => {
  expect(markdownHead().split('\n')[1]).toBe(
    '| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |',
  );
  expect(markdownRow(row, 'pp100')).toBe(
    '| llama 4-bit g64                |   3.00 GiB |     6.74 B | mine/yours, fast |       - |           pp100 |     1222.22 ± 693.89 |\n',
  );
  expect(csvHead().split(',')).toHaveLength(20);
  expect(csvRow(row)).toBe(
    `${['1.2.3', 'A ""fast"" one', 'mine|yours', 'CPU', '', './m,1', 'llama 4-bit g64', 3221225472, 6738000000, 512, '', 'fast']
      .concat(['100', '0', '0', '2026-01-02T03:04:05Z', '100000000', '50000000', '1222.222222', '693.888666'])
      .map((value) => `"${value}"`)
      .join(',')}\n`,
  );
});
