// @ts-check
// Products of many rows (prompts) on a GPU, beside what its own library does in bf16, where there is a Python with torch (LOWBIT_PYTHON names one, off: none).
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { median } from './gpu-common.mjs';

/** @typedef {import('@lowbit/core').Backend} Backend */
/** @typedef {{ readonly peak: number, readonly milliseconds: Readonly<Record<string, number>> }} Library */
/** @typedef {{ readonly format: string, readonly precision: 'exact' | 'fast', readonly rows: number, readonly shape: readonly [number, number], readonly milliseconds: number }} Time */

/** @type {(rows: number, shape: readonly [number, number]) => string} */
const key = (rows, [out, inp]) => `${rows} x ${out} x ${inp}`;

/**
 * @param {readonly number[]} rows @param {readonly (readonly [number, number])[]} shapes
 * @returns {Library | string} or why there is none
 */
function library(rows, shapes) {
  const python = process.env.LOWBIT_PYTHON || 'python3';
  if (python === 'off') return 'LOWBIT_PYTHON is off';
  const script = fileURLToPath(new URL('gpu-peak.py', import.meta.url));
  const { status, stdout, stderr, error } = spawnSync(python, [script, JSON.stringify({ rows, shapes })], { encoding: 'utf8' });
  if (error) return `${python}: ${error.message}`;
  if (status !== 0) return `${python}: ${stderr.trim().split('\n').at(-1) ?? ''}`;
  return JSON.parse(stdout);
}

/**
 * @param {{ readonly exact: Backend, readonly fast: Backend }} backends by their precision
 * @param {{ readonly small: boolean, readonly formats: Readonly<Record<string, import('@lowbit/core').Format>> }} settings
 */
export async function prompts(backends, settings) {
  const { rows, shapes } = sizes(settings.small);
  /** @type {Time[]} */
  const times = [];
  for (const precision of /** @type {const} */ (['exact', 'fast']))
    times.push(...(await timesOf(backends[precision], precision, settings)));
  return { library: library(rows, shapes), times };
}

/** @param {boolean} small */
function sizes(small) {
  const rows = small ? [66] : [128, 256, 512, 1024, 2048];
  /** @type {readonly (readonly [number, number])[]} */
  const shapes = small
    ? [[64, 128]]
    : [
        [4096, 4096],
        [28672, 4096],
        [4096, 14336],
        [1536, 576],
      ];
  return { rows, shapes };
}

/**
 * @param {Backend} backend @param {'exact' | 'fast'} precision
 * @param {{ readonly small: boolean, readonly formats: Readonly<Record<string, import('@lowbit/core').Format>> }} settings
 */
async function timesOf(backend, precision, { small, formats }) {
  const { rows, shapes } = sizes(small);
  /** @type {Time[]} */
  const times = [];
  for (const [format, one] of Object.entries(formats)) {
    for (const shape of shapes) {
      const weight = sampleWeight(one, shape);
      const first = await backend.prepare(weight);
      const linears = [first];
      while (!small && linears.length < Math.min(16, Math.ceil(200e6 / first.bytes))) linears.push(await backend.prepare(weight));
      for (const count of rows) {
        const x = backend.alloc({ dtype: 'f32', shape: [count, shape[1]] });
        const y = backend.alloc({ dtype: 'f32', shape: [count, shape[0]] });
        // Something to wait for that takes no time: results are as large as a long prompt.
        const [a, b] = [backend.alloc({ dtype: 'f32', shape: [1, shape[1]] }), backend.alloc({ dtype: 'f32', shape: [1, shape[0]] })];
        backend.write(x, seededTensor(1, [count, shape[1]], 1).data);
        backend.write(a, seededTensor(1, [1, shape[1]], 1).data);
        const taken = [];
        for (let i = 0; i < (small ? 2 : 10); i++) {
          const start = performance.now();
          for (const linear of linears) linear.forward(x, y);
          first.forward(a, b);
          await backend.read(b);
          taken.push((performance.now() - start) / linears.length);
        }
        times.push({ format, precision, rows: count, shape, milliseconds: median(taken.slice(1)) });
        for (const tensor of [x, y, a, b]) backend.free(tensor);
      }
      for (const linear of linears) linear[Symbol.dispose]();
    }
  }
  return times;
}

/** @param {Awaited<ReturnType<typeof prompts>>} found */
export function promptTable({ library: beside, times }) {
  const rows = [...new Set(times.map((one) => one.rows))];
  const lines = new Map(
    times.map(({ format, precision, shape }) => [`| ${format} | ${precision} | ${shape.join(' x ')} |`, { format, precision, shape }]),
  );
  /** @type {(one: Time) => string} */
  const cell = ({ rows: count, shape, milliseconds }) => {
    const rate = (2 * count * shape[0] * shape[1]) / (milliseconds / 1e3);
    const text = `${(rate / 1e12).toFixed(1)}`;
    if (typeof beside === 'string') return text;
    return `${text} (${((beside.milliseconds[key(count, shape)] ?? Number.NaN) / milliseconds).toFixed(2)}, ${(rate / beside.peak).toFixed(2)})`;
  };
  const what =
    typeof beside === 'string'
      ? `The library of the GPU: skipped, ${beside}.`
      : `In brackets: times as fast as torch's bf16 linear, and of its rate at 8192 x 8192 x 8192 (${(beside.peak / 1e12).toFixed(0)} TFLOP/s).`;
  return [
    `Prompts: TFLOP/s of a product by rows of x. ${what}`,
    '',
    `| format | precision | shape | ${rows.join(' | ')} |`,
    `|---|---|---|${rows.map(() => '---').join('|')}|`,
    ...[...lines].map(([head, { format, precision, shape }]) => {
      const mine = times.filter((one) => one.format === format && one.precision === precision && key(0, one.shape) === key(0, shape));
      return `${head} ${mine.map(cell).join(' | ')} |`;
    }),
  ];
}
