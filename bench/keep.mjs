// @ts-check
// Keeps a table of numbers that a script of this folder printed, for the pages of docs/ (a place is <!-- table: measured NAME -->; `node tools/docs-tables.mjs` fills it):
//   node bench/cold-start.mjs | node bench/keep.mjs cold-start
// Takes the first Markdown table of what comes in, or lines of JSON, one a row: their keys become the head.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';

const STORE = fileURLToPath(new URL('results/measured.json', import.meta.url));

/** @typedef {{ head: string[], rows: string[][] }} Table */

/** @type {() => Record<string, Table>} every table that was kept, by name */
export const measured = () => JSON.parse(readFileSync(STORE, 'utf8'));

/** @type {(line: string) => string[]} */
const cells = (line) =>
  line
    .trim()
    .slice(1, -1)
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());

/** @type {(value: unknown) => string} */
const shown = (value) =>
  typeof value === 'number' && !Number.isInteger(value) ? String(Number(value.toPrecision(3))) : String(value ?? '');

/** @type {(text: string) => Table} of a Markdown table, or of lines of JSON */
export function tableOf(text) {
  const lines = text.split('\n');
  const start = lines.findIndex((line, index) => line.startsWith('|') && /^\|[\s:|-]+\|$/.test(lines[index + 1] ?? ''));
  if (start >= 0) {
    const length = lines.slice(start).findIndex((line) => !line.startsWith('|'));
    const [head = [], , ...rows] = lines.slice(start, length < 0 ? undefined : start + length).map(cells);
    return whole({ head, rows });
  }
  const objects = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
  const head = [...new Set(objects.flatMap((object) => Object.keys(object)))];
  return whole({ head, rows: objects.map((object) => head.map((key) => shown(object[key]))) });
}

/** @type {(table: Table) => Table} */
function whole(table) {
  if (!table.rows.length) throw new Error('no row: neither a Markdown table nor lines of JSON came in');
  const odd = table.rows.find((row) => row.length !== table.head.length);
  if (odd) throw new Error(`a row has ${odd.length} cells, the head ${table.head.length}: ${odd.join(' | ')}`);
  return table;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const name = process.argv[2] ?? '';
  if (!/^[a-z0-9-]+$/.test(name)) throw new Error('usage: node bench/SCRIPT.mjs | node bench/keep.mjs NAME');
  writeFileSync(STORE, `${JSON.stringify({ ...measured(), [name]: tableOf(readFileSync(0, 'utf8')) }, null, 1)}\n`);
  spawnSync('npx', ['biome', 'format', '--write', STORE], { stdio: 'inherit' });
}
