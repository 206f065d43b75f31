// What `lowbit bench` prints: the columns and fields of llama-bench, as far as they mean something here.

import type { BenchResult } from '@lowbit/models';
import { plain } from '../table.ts';

/** One test. Field names, units and rounding are those of llama-bench; what it has of GPUs is left out, and `device`, `backend_why`, `precision` are ours. */
export interface BenchRow {
  readonly build_version: string;
  readonly cpu_info: string;
  /** Name of the backend. */
  readonly backends: string;
  readonly device: string;
  /** Why it is not the first that was to be tried; null if it is. */
  readonly backend_why: string | null;
  readonly model_filename: string;
  readonly model_type: string;
  /** Bytes of all tensors in the files. */
  readonly model_size: number;
  readonly model_n_params: number;
  /** Most tokens of a prompt in one step. */
  readonly n_batch: number;
  /** Null for a backend that was given no number and does not tell. */
  readonly n_threads: number | null;
  /** Of the native backend. */
  readonly precision: 'exact' | 'fast' | null;
  readonly n_prompt: number;
  readonly n_gen: number;
  readonly n_depth: number;
  /** When the test began, UTC. */
  readonly test_time: string;
  readonly avg_ns: number;
  readonly stddev_ns: number;
  /** Tokens per second. */
  readonly avg_ts: number;
  readonly stddev_ts: number;
  readonly samples_ns: readonly number[];
  readonly samples_ts: readonly number[];
}

/** What all tests of a model on one backend have in common. */
export type BenchSubject = Pick<
  BenchRow,
  | 'build_version'
  | 'cpu_info'
  | 'backends'
  | 'device'
  | 'backend_why'
  | 'model_filename'
  | 'model_type'
  | 'model_size'
  | 'model_n_params'
  | 'n_batch'
  | 'n_threads'
  | 'precision'
>;

export function benchRow(
  subject: BenchSubject,
  { prompt, generate, depth, started, milliseconds, tokensPerSecond }: BenchResult,
): BenchRow {
  const ns = milliseconds.map((ms) => Math.round(1e6 * ms));
  const mean = ns.reduce((sum, value) => sum + value, 0) / ns.length;
  const squares = ns.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return {
    ...subject,
    n_prompt: prompt,
    n_gen: generate,
    n_depth: depth,
    test_time: `${started.toISOString().slice(0, 19)}Z`,
    avg_ns: Math.round(mean),
    stddev_ns: ns.length > 1 ? Math.round(Math.sqrt(squares / (ns.length - 1))) : 0,
    avg_ts: Number(tokensPerSecond.mean.toFixed(6)),
    stddev_ts: Number(tokensPerSecond.stddev.toFixed(6)),
    samples_ns: ns,
    samples_ts: tokensPerSecond.samples.map((value) => Number(value.toFixed(6))),
  };
}

/** Widths of llama-bench. */
const COLUMNS = [
  ['model', 30, 'left'],
  ['size', 10, 'right'],
  ['params', 10, 'right'],
  ['backend', 10, 'left'],
  ['threads', 7, 'right'],
  ['test', 15, 'right'],
  ['t/s', 20, 'right'],
] as const;

const markdown = (cells: readonly string[]): string =>
  `|${COLUMNS.map(([, width, align], i) => ` ${align === 'left' ? cells[i]!.padEnd(width) : cells[i]!.padStart(width)} `).join('|')}|\n`;

export function markdownHead(): string {
  const rules = COLUMNS.map(([, width, align]) => (align === 'right' ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return `${markdown(COLUMNS.map(([title]) => title))}${markdown(rules)}`;
}

export function markdownRow(row: BenchRow, test: string): string {
  const speed = `${row.avg_ts.toFixed(2)} ± ${row.stddev_ts.toFixed(2)}`;
  const backend = `${plain(row.backends)}${row.precision === 'fast' ? ', fast' : ''}`;
  return markdown([
    plain(row.model_type).replaceAll('|', '/'),
    binaryBytes(row.model_size),
    params(row.model_n_params),
    backend.replaceAll('|', '/'),
    row.n_threads === null ? '-' : String(row.n_threads),
    test,
    speed,
  ]);
}

function binaryBytes(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}

function params(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} B` : `${(count / 1e6).toFixed(2)} M`;
}

/** Without the samples, as in llama-bench. */
const CSV: readonly Exclude<keyof BenchRow, 'samples_ns' | 'samples_ts'>[] = [
  ...(['build_version', 'cpu_info', 'backends', 'device', 'backend_why', 'model_filename', 'model_type', 'model_size'] as const),
  ...(['model_n_params', 'n_batch', 'n_threads', 'precision', 'n_prompt', 'n_gen', 'n_depth', 'test_time'] as const),
  ...(['avg_ns', 'stddev_ns', 'avg_ts', 'stddev_ts'] as const),
];

export function csvHead(): string {
  return `${CSV.join(',')}\n`;
}

export function csvRow(row: BenchRow): string {
  return `${CSV.map((name) => `"${String(row[name] ?? '').replaceAll('"', '""')}"`).join(',')}\n`;
}
