// @ts-check
// Tables of docs/, made of results and never typed: `node tools/docs-tables.mjs` writes them into the pages, the test beside this file says whether they are current.
// A page has a place for each: <!-- table: NAME ARGUMENT --> ... <!-- end -->.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { measured } from '../bench/keep.mjs';
import { PRESETS, readResults } from './quality-page.mjs';
import { readSpeeds, speedTable, speedText } from './speed-table.mjs';

export const root = fileURLToPath(new URL('..', import.meta.url));

/** @type {(path: string) => any} */
const json = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'));

/** @type {(head: readonly string[], rows: readonly (readonly string[])[]) => string} */
function table(head, rows) {
  const line = (/** @type {readonly string[]} */ cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

/** @type {(value: number, digits?: number) => string} as people write it: three digits, no exponent */
export const short = (value, digits = 3) => {
  if (value === 0) return '0';
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(places, 9));
};

const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(1)} %`;

/** @type {Readonly<Record<string, (name: string) => boolean>>} */
const OF_METHOD = {
  hqq: (name) => /^hqq\b/.test(name),
  bnb: (name) => /^(nf4|fp4|int8|bnb)\b/.test(name),
  higgs: (name) => /^higgs\b/.test(name),
};

/** A quantizer of bench/quality.mjs, in words. @type {(name: string) => string} */
function inWords(name) {
  const [method = '', ...settings] = name.split(':');
  const bits = settings.find((word) => /^b\d/.test(word))?.slice(1);
  const group = settings.find((word) => /^g\d/.test(word))?.slice(1) ?? (/^(nf4|fp4)$/.test(method) ? '64' : undefined);
  const words = [bits && `${bits} bits`, group && `groups of ${group}`];
  if (settings.includes('ls')) words.push('least squares');
  if (settings.includes('imp')) words.push('random importance');
  if (settings.includes('self')) words.push('importance of tokens that it writes');
  if (settings.includes('dq')) words.push('double quantization');
  if (settings.includes('search')) words.push('`--scale search`');
  if (settings.includes('unbiased')) words.push('`--scale unbiased`');
  return [{ nf4: 'NF4', fp4: 'FP4', int8: 'LLM.int8', hqq: 'HQQ', higgs: 'HIGGS' }[method], ...words.filter(Boolean)].join(', ');
}

/** What lowbit's own quantizers lose, by bench/results; presets are in docs/quality.md. @type {(method: string) => string} */
export function qualityOurs(method) {
  /** @type {any[]} */
  const rows = readResults().filter((row) => row.model === 'tiny-llama' && OF_METHOD[method]?.(row.quantizer));
  const head = ['quantizer', 'bits per weight', 'KL, nats', 'standard error', 'same best token', 'weight error'];
  const lines = rows.map((row) => [
    inWords(row.quantizer),
    row.bitsPerWeight.toFixed(2),
    short(row.kl),
    short(row.klStderr, 2),
    percent(row.top1),
    short(row.weightError),
  ]);
  const all = (/** @type {string} */ key) => [...new Set(rows.map((row) => row[key]).filter(Boolean))].join(', ');
  const about = `KL divergence to the model in 16 bits; \`bench/quality.mjs\` on ${all('model')}, ${all('windows')} windows, ${all('tokens')} tokens, commit ${all('commit')}, ${all('backend')}.`;
  return `${table(head, lines)}\n\n${about}`;
}

const MODELS = ['tiny-llama', 'SmolLM2-135M-Instruct'];

/** The row of a quantizer on as much text as it was measured on. @type {(model: string, name: string) => any} */
function rowOf(model, name) {
  const rows = readResults().filter((row) => row.model === model && row.quantizer === name);
  return rows.sort((a, b) => b.windows - a.windows)[0];
}

/** KL and its standard error; fewer windows than the model's others are told. @type {(row: any) => string} */
function lossOf(row) {
  if (!row) return 'not measured';
  const most = Math.max(...readResults().flatMap(({ model, windows }) => (model === row.model ? [windows] : [])));
  return `${short(row.kl)} ± ${short(row.klStderr, 2)}${row.windows < most ? ` (${row.windows} windows)` : ''}`;
}

/** What the usual quantizers and presets lose on both models. @type {() => string} */
export function losses() {
  const names = [
    ...[
      'hqq:b8:g64',
      'int8',
      'best4',
      'hqq:b4:g64:ls',
      'python4',
      'hqq:b4:g64',
      'nf4',
      'nf4:dq',
      'fp4',
      'hqq:b4:g128',
      'small3',
      'hqq:b3:g64:ls',
      'hqq:b3:g64',
    ],
    ...['tiny2', 'hqq:b2:g64:ls', 'hqq:b2:g64', 'hqq:b2:g16'],
  ];
  const lines = names.map((name) => {
    const rows = MODELS.map((model) => rowOf(model, name));
    const words = PRESETS.includes(name) ? `**\`${name}\`** (preset)` : inWords(name);
    return [words, rows.find(Boolean).bitsPerWeight.toFixed(2), ...rows.map(lossOf)];
  });
  return table(['quantizer', 'bits per weight', ...MODELS], lines);
}

/** What options of our own gain in the same files, on tiny-llama. @type {() => string} */
export function options() {
  const names = [
    'nf4:search',
    'nf4:search:imp',
    'fp4:search',
    'fp4:search:imp',
    'higgs:b2:h256:unbiased',
    'higgs:b3:h256:unbiased',
    'higgs:b4:h256:unbiased',
  ];
  const lines = names.map((name) => {
    const own = rowOf('tiny-llama', name);
    const plain = rowOf('tiny-llama', name.replace(/:(search|imp|unbiased)/g, ''));
    return [inWords(name), own.bitsPerWeight.toFixed(2), short(plain.kl), short(own.kl), (own.kl / plain.kl).toFixed(2)];
  });
  return table(['quantizer', 'bits per weight', 'as Python has it', 'with the option', 'ratio'], lines);
}

/** What formats cost in speed. @type {() => string} */
export function speeds() {
  const rows = readSpeeds();
  return `${speedText(rows)}\n\n${speedTable(rows)}`;
}

/** What the Python libraries lose, by fixtures/golden/quality.json. @type {(method: string) => string} */
export function qualityPython(method) {
  const { models, versions } = json('fixtures/golden/quality.json');
  const { tiny, smollm2 } = models;
  const head = ['quantizer', 'tiny-llama, KL', 'perplexity', 'SmolLM2-135M, KL', 'perplexity'];
  const cells = (/** @type {any} */ row) => (row ? [short(row.kl), short(row.ppl, 4)] : ['not run', '']);
  /** @type {string[]} */
  const names = [...new Set([...tiny.rows, ...smollm2.rows].map((row) => row.method))];
  const find = (/** @type {any} */ model, /** @type {string} */ name) => model.rows.find((/** @type {any} */ row) => row.method === name);
  const lines = names
    .filter((name) => name === 'bf16' || (OF_METHOD[method]?.(name) && !name.endsWith('axis0')))
    .map((name) => [
      (find(tiny, name) ?? find(smollm2, name)).title.replace(/^baseline, weights as in the file$/, '16 bits'),
      ...cells(find(tiny, name)),
      ...cells(find(smollm2, name)),
    ]);
  const library = {
    hqq: `hqq ${versions.hqq}`,
    bnb: `bitsandbytes ${versions.bitsandbytes}`,
    higgs: 'the formulas of FLUTE and transformers',
  }[method];
  const about = `${library}, torch ${versions.torch}, transformers ${versions.transformers}; ${tiny.predictions} and ${smollm2.predictions} tokens (\`fixtures/golden/QUALITY.md\`). SmolLM2's weights had been 4-bit before.`;
  return `${table(head, lines)}\n\n${about}`;
}

/** Errors of HIGGS's grids against the bound of rate-distortion theory. @type {() => string} */
export function higgsGrids() {
  const { grids } = json('tools/higgs-grids.json');
  const lines = grids.map((/** @type {{ bits: number, p: number, mse: number, points: unknown[] }} */ { bits, p, mse, points }) => [
    ...[bits, p, points.length].map(String),
    short(mse, 4),
    short(4 ** -bits, 4),
    (mse * 4 ** bits).toFixed(2),
  ]);
  return table(['bits', 'weights a point', 'points', 'relative error', 'bound 4^-bits', 'ratio'], lines);
}

/** Numbers that a script of bench/ printed, by the name they were kept under. @type {(name: string) => string} */
export function measuredTable(name) {
  const kept = measured()[name];
  if (!kept) throw new Error(`nothing was kept as ${name}: node bench/SCRIPT.mjs | node bench/keep.mjs ${name}`);
  return table(kept.head, kept.rows);
}

/** Shapes of published models: vocabulary, hidden size, layers, size between, heads, heads of keys and values, size of a head, matrices of the vocabulary. @type {Readonly<Record<string, readonly [number, number, number, number, number, number, number, number]>>} */
const SHAPES = {
  '1B (Llama 3.2)': [128256, 2048, 16, 8192, 32, 8, 64, 1],
  '3B (Llama 3.2)': [128256, 3072, 28, 8192, 24, 8, 128, 1],
  '8B (Llama 3.1)': [128256, 4096, 32, 14336, 32, 8, 128, 2],
  '14B (Qwen 2.5)': [152064, 5120, 48, 13824, 40, 8, 128, 2],
  '32B (Qwen 2.5)': [152064, 5120, 64, 27648, 40, 8, 128, 2],
  '70B (Llama 3.1)': [128256, 8192, 80, 28672, 64, 8, 128, 2],
};

/** @type {Readonly<Record<string, number>>} bits per weight of the layers, scales included */
const WIDTHS = {
  '16 bits': 16,
  '8-bit g64': 8.5,
  '4-bit g64, nf4, fp4': 4.5,
  '4-bit g128': 4.25,
  'nf4 double': 4.127,
  '3-bit g64': 3.7,
  '2-bit g32': 3,
  '2-bit g64': 2.5,
};

/** Gigabytes of weights, by the shapes of models. @type {() => string} */
export function sizes() {
  const lines = Object.entries(SHAPES).map(([name, [vocabulary, hidden, layers, between, heads, keys, head, matrices]]) => {
    const weights = layers * (2 * hidden * heads * head + 2 * hidden * keys * head + 3 * hidden * between);
    return [name, ...Object.values(WIDTHS).map((bits) => ((2 * matrices * vocabulary * hidden + (weights * bits) / 8) / 1e9).toFixed(1))];
  });
  return table(
    ['model', ...Object.keys(WIDTHS).map((name) => (name === '16 bits' ? name : `${name} (${Number((WIDTHS[name] ?? 0).toFixed(2))})`))],
    lines,
  );
}

const PLACE = /(<!-- table: ([a-z-]+)(?: ([a-z0-9-]+))? -->\n)([\s\S]*?)(<!-- end -->)/g;

/**
 * A page with its tables as they are now.
 * @param {string} text
 * @param {Readonly<Record<string, (argument: string) => string>>} makers by name
 */
export function withTables(text, makers) {
  return text.replace(PLACE, (_, before, name, argument = '', __, after) => {
    const make = makers[name];
    if (!make) throw new Error(`there is no table ${name}; there are ${Object.keys(makers).join(', ')}`);
    return `${before}\n${make(argument)}\n\n${after}`;
  });
}

/** @type {(dir?: string) => string[]} pages below docs/ */
export function docsPages(dir = 'docs') {
  if (!existsSync(join(root, dir))) return [];
  return readdirSync(join(root, dir), { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory()) return entry.name === 'api' ? [] : docsPages(`${dir}/${entry.name}`);
    return entry.name.endsWith('.md') ? [`${dir}/${entry.name}`] : [];
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { status } = spawnSync('npx', ['vitest', 'run', '--project', 'unit', 'tools/docs-tables.test.mjs'], {
    cwd: root,
    env: { ...process.env, LOWBIT_WRITE: 'docs-tables' },
    stdio: 'inherit',
  });
  process.exitCode = status ?? 1;
}
