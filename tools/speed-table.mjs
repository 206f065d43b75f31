// @ts-check
// What formats cost in speed on each backend, for pages of docs/: of bench/speed/*.jsonl, which bench/method-speed.mjs writes.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('../bench/speed', import.meta.url));

/** Presets by their format: solver, scale and importance change none. @type {Readonly<Record<string, string>>} */
const PRESETS_OF = { 'hqq:b4:g64': 'best4', 'hqq:b3:g64': 'small3', 'hqq:b2:g64': 'tiny2', nf4: 'python4' };
/** Backends, as readers know them; those without a row have no machine here that would tell anything. */
const BACKENDS = [
  ['cpu', 'native CPU'],
  ['reference', 'reference'],
  ['webgpu', 'WebGPU'],
  ['cuda', 'CUDA'],
];

/**
 * @typedef {{ ratio: number, from: number, to: number }} Ratio
 * @typedef {{ model: string, backend: string, device: string, commit?: string, rounds: number, prompt: number, quantizer: string, prefill: Ratio, decode: Ratio,
 *   dense: { prefillMs: number, decodeMs: number } }} SpeedRow
 */

/** All rows. @returns {SpeedRow[]} */
export function readSpeeds(folder = FOLDER) {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((name) => name.endsWith('.jsonl'));
  return files.sort().flatMap((name) =>
    readFileSync(`${folder}/${name}`, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line)),
  );
}

/** @param {Ratio} of */
const told = ({ ratio, from, to }) => `${ratio.toFixed(2)} (${from.toFixed(2)}-${to.toFixed(2)})`;

/** A row a format, two columns a backend. @param {readonly SpeedRow[]} rows */
export function speedTable(rows) {
  const names = [...new Set(rows.map(({ quantizer }) => quantizer))];
  const isMeasured = (/** @type {string | undefined} */ backend) => rows.some((row) => row.backend === backend);
  const columns = BACKENDS.flatMap(([backend, title]) =>
    isMeasured(backend) ? [`${title}: decode step`, `prefill of ${rows[0]?.prompt}`] : [`${title}`],
  );
  const head = ['format', 'preset', ...columns];
  const lines = names.map((quantizer) => [
    `\`${quantizer}\``,
    PRESETS_OF[quantizer] ? `\`${PRESETS_OF[quantizer]}\`` : '',
    ...BACKENDS.flatMap(([backend]) => {
      const row = rows.find((one) => one.backend === backend && one.quantizer === quantizer);
      return row ? [told(row.decode), told(row.prefill)] : Array.from({ length: isMeasured(backend) ? 2 : 1 }, () => 'not measured');
    }),
  ]);
  return [head, head.map((_, i) => (i < 2 ? '---' : '---:')), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** How the table came about. @param {readonly SpeedRow[]} rows */
export function speedText(rows) {
  const runs = [...new Map(rows.map((row) => [row.backend, row])).values()].map(
    ({ backend, model, device, rounds, commit, dense }) =>
      `${backend}: ${model}, ${device}, ${rounds} rounds${commit ? `, commit ${commit}` : ''}; dense took ${dense.decodeMs} ms a step and ${dense.prefillMs} ms a prefill`,
  );
  return `Time relative to the same model dense (in the dtype it is stored in) on the same backend: 0.5 is twice as fast. Median of interleaved rounds, quartiles in parentheses; processor time of one thread, for the machine is shared with other work (${runs.join('. ')}). \
Small models: the dense head, attention and norms are in all of these times. The reference is the specification, in plain TypeScript. No GPU was at hand for CUDA, and a software adapter says nothing of WebGPU.`;
}
