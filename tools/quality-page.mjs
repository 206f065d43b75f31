// docs/quality.md, made of what was measured: bench/results/*.jsonl (bench/quality.mjs) and fixtures/golden/quality.json (the Python libraries).
//   node tools/quality-page.mjs [--check]     --check: fail if the page is another one

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readSpeeds, speedTable, speedText } from './speed-table.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const PAGE = `${root}docs/quality.md`;
/** Of quality.json, by name of the model in the results. */
const PYTHON = { 'tiny-llama': 'tiny', 'SmolLM2-135M-Instruct': 'smollm2' };
export const PRESETS = ['best4', 'small3', 'tiny2', 'python4'];
const CLASSES = [
  ['2 bits', 2, 2.6],
  ['3 bits', 3, 3.75],
  ['4 bits', 4, 4.65],
];

/** Stored bits per weight of a Python row: codes, and scales and zeros in 16 bits (absmax of bitsandbytes in 32); padding of rows is not in it. */
export function pythonBits(method) {
  const [, bits, group] = /^hqq-(\d)bit-g(\d+)/.exec(method) ?? [];
  if (bits) return (bits === '3' ? 3.2 : Number(bits)) + 32 / Number(group);
  if (/^bnb-(nf4|fp4)$/.test(method)) return 4.5;
  if (method === 'bnb-nf4-dq') return 4.127;
  if (method === 'bnb-int8') return 8;
  const [, width] = /^higgs-(\d)bit/.exec(method) ?? [];
  return width ? Number(width) + 16 / 256 : undefined;
}

/** Rows that no other beats in bits and KL. */
export function frontier(rows) {
  let least = Number.POSITIVE_INFINITY;
  return [...rows]
    .sort((a, b) => a.bitsPerWeight - b.bitsPerWeight || a.kl - b.kl)
    .filter(({ kl }) => {
      if (kl >= least) return false;
      least = kl;
      return true;
    });
}

const sig = (value, digits = 3) => String(Number(value.toPrecision(digits)));

function tableOf(rows, best) {
  const hasSpeed = rows.some(({ pp128 }) => pp128);
  const head = [
    'quantizer',
    'bits per weight',
    'KL',
    '±',
    'perplexity',
    'same token',
    'MB',
    ...(hasSpeed ? ['reads, tokens/s', 'writes, tokens/s'] : []),
    'made in, s',
    'processor, s',
    'importance, processor, s',
  ];
  const lines = rows.map((row) => {
    const name = `\`${row.quantizer}\``;
    const speed = hasSpeed ? [row.pp128, row.tg32].map((of) => (of ? `${sig(of.mean)} ± ${sig(of.stddev, 2)}` : '')) : [];
    const cells = [
      best.has(row) ? `**${name}**` : name,
      row.bitsPerWeight.toFixed(2),
      sig(row.kl),
      sig(row.klStderr, 2),
      row.perplexity.toFixed(3),
    ];
    return [
      ...cells,
      `${(100 * row.top1).toFixed(1)} %`,
      (row.bytes / 1e6).toFixed(2),
      ...speed,
      ...['quantizeSeconds', 'quantizeCpuSeconds', 'importanceCpuSeconds'].map((key) => (row[key] === undefined ? '' : sig(row[key]))),
    ];
  });
  return [head, head.map((_, i) => (i === 0 ? '---' : '---:')), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** What Python's libraries make, too: none of our solvers, scales or importance. */
export function isOfPython(quantizer) {
  return (
    /^(?:hqq|nf4|fp4|int8|higgs)\b/.test(quantizer) &&
    !/:(?:ls|least-squares|search|unbiased|imp|random-tokens|self|weights)\b/.test(quantizer)
  );
}

/** What is least of all in each class of bits, and every preset, against the best of Python's: here on the same windows, and as the libraries themselves ran. */
function classesOf(rows, python) {
  const told = (row) => (row ? `\`${row.quantizer}\` ${sig(row.kl)}` : 'not measured');
  const ratio = (own, theirs) => (theirs ? sig(own.kl / theirs.kl, 2) : '');
  const lines = CLASSES.flatMap(([title, from, to]) => {
    const least = (all) => all.filter(({ bitsPerWeight }) => bitsPerWeight >= from && bitsPerWeight <= to).sort((x, y) => x.kl - y.kl);
    const here = least(rows);
    const [same, theirs] = [here.find(({ quantizer }) => isOfPython(quantizer)), least(python)[0]];
    const shown = here.filter((row) => row === here[0] || PRESETS.includes(row.quantizer));
    return shown.map(
      (own) =>
        `| ${title} (${from} to ${to}) | ${told(own)} at ${own.bitsPerWeight.toFixed(2)} | ${told(same)} | ${ratio(own, same)} | ${told(theirs)} | ${ratio(own, theirs)} |`,
    );
  });
  const head = [
    '| class of bits | here | best Python method, the same windows | ratio | best of the libraries, all windows | ratio |',
    '|---|---|---|---:|---|---:|',
  ];
  return lines.length === 0 ? '' : [...head, ...lines].join('\n');
}

/** Bits that were shared out: what was predicted, what was measured, and the least that one choice for all loses with as many bits or fewer. */
function allocatedOf(rows) {
  const shared = rows.filter(({ predicted }) => predicted !== undefined);
  if (shared.length === 0) return [];
  const lines = shared.map((row) => {
    const [, target, methods] = row.quantizer.split(':');
    const beside = rows.filter(({ predicted, bitsPerWeight }) => predicted === undefined && bitsPerWeight <= row.bitsPerWeight + 0.005);
    const single = beside.sort((a, b) => a.kl - b.kl)[0];
    const choices = Object.entries(row.choices)
      .sort(([, a], [, b]) => b - a)
      .map(([choice, share]) => `${choice} ${Math.round(100 * share)} %`);
    const cells = [
      target,
      methods.replaceAll('+', ', '),
      row.bitsPerWeight.toFixed(2),
      sig(row.predicted),
      `${sig(row.kl)} ± ${sig(row.klStderr, 2)}`,
    ];
    const other = single ? `\`${single.quantizer}\` ${sig(single.kl)} at ${single.bitsPerWeight.toFixed(2)}` : '';
    return [...cells, sig(row.predicted / row.kl, 2), other, single ? sig(row.kl / single.kl, 2) : '', choices.join(', ')];
  });
  const head = [
    'target',
    'methods',
    'bits',
    'predicted KL',
    'measured KL',
    'predicted / measured',
    'best of one choice for all, as many bits or fewer',
    'ratio',
    'weights by choice',
  ];
  return [
    '',
    `Bits shared out (\`--target-bits\`, \`--methods\`), by sensitivities to ${shared[0].tokensTested} random tokens, hqq by least squares and random importance. Random tokens predict what errors cost on random tokens; a text tells the scale better ([sharing out bits](allocation.md)).`,
    '',
    [head, head.map((_, i) => (i === 1 || i === 6 || i === 8 ? '---' : '---:')), ...lines]
      .map((cells) => `| ${cells.join(' | ')} |`)
      .join('\n'),
  ];
}

/** Text of the page. */
export function page(results, golden, speeds = readSpeeds()) {
  // Rows on more of a text first: what is measured on less is not compared with them.
  const runs = [...new Map(results.map(({ model, windows }) => [`${model} ${windows}`, { model, windows }])).values()].sort(
    (a, b) =>
      results.findIndex(({ model }) => model === a.model) - results.findIndex(({ model }) => model === b.model) || b.windows - a.windows,
  );
  const sections = runs.map((run) => {
    const { model } = run;
    const all = results.filter((row) => row.model === model && row.windows === run.windows);
    const isFirst = !runs.slice(0, runs.indexOf(run)).some((before) => before.model === model);
    const original = all.find(({ quantizer }) => quantizer === 'original');
    const rows = all.filter((row) => row !== original).sort((a, b) => a.bitsPerWeight - b.bitsPerWeight || a.kl - b.kl);
    const stored = golden.models[PYTHON[model]];
    const python = (stored?.rows ?? []).flatMap(({ method, kl }) => {
      const bitsPerWeight = pythonBits(method);
      return bitsPerWeight === undefined || kl === 0 ? [] : [{ quantizer: method, bitsPerWeight, kl }];
    });
    const single = rows.filter(({ predicted }) => predicted === undefined);
    const { windows, tokens, text, backend } = original ?? all[0];
    return [
      isFirst ? `## ${model}` : `### ${model}, on ${windows} of the windows`,
      '',
      `${tokens} tokens in ${windows} windows of ${text}, ${backend}.${original ? ` As stored: perplexity ${original.perplexity.toFixed(3)} ± ${sig(original.perplexityStderr, 2)}, ${(original.bytes / 1e6).toFixed(2)} MB.` : ''}`,
      'Bold: no other row has both fewer bits and less KL.',
      '',
      tableOf(single, new Set(frontier(single))),
      ...allocatedOf(rows),
      ...(python.length > 0
        ? [
            '',
            `Against the Python libraries, whose figures are of ${stored.predictions} tokens of the same text and of nominal bits:`,
            '',
            classesOf(single, python),
          ]
        : []),
    ].join('\n');
  });
  return `# Quality per bit

Made by \`node tools/quality-page.mjs\` of \`bench/results\` and \`fixtures/golden/quality.json\`; nothing in it is typed by hand. For a model of your own:

\`\`\`sh
npm run bench:quality -- ./model text.txt --out rows.jsonl           # every method and bit width, and the presets
lowbit report ./model-best4 ./model --data text.txt --frontier rows.jsonl -o report.html
\`\`\`

KL divergence of the next-token distribution to the model as stored, nats per token; ± is one standard error, tokens taken as independent. Every linear of the layers is quantized, embeddings and head are not; bits
count scales, zeros, tables and padding. Seconds to make a model are of a machine shared with other work, so those of the processor, of all threads together, are given beside them; finding importance, which is done once for a model, is
apart. Rows without seconds of the processor are older than they. Names are as in rules of \`lowbit quantize\`, with \`imp\` for importance of random tokens and \`self\` of tokens that the model wrote; \`best4\`, \`small3\`, \`tiny2\` and \`python4\` are presets, \`small3:feedback\` is one with \`--feedback 0.75\` (its importance is found while it is made).

${sections.join('\n\n')}

## Speed

${speedText(speeds)}

${speedTable(speeds)}
`;
}

/** All rows of bench/results. */
export function readResults(folder = `${root}bench/results`) {
  const files = readdirSync(folder).filter((name) => name.endsWith('.jsonl'));
  return files.sort().flatMap((name) =>
    readFileSync(`${folder}/${name}`, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line)),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = page(readResults(), JSON.parse(readFileSync(`${root}fixtures/golden/quality.json`, 'utf8')));
  if (!process.argv.includes('--check')) writeFileSync(PAGE, text);
  else if (readFileSync(PAGE, 'utf8') !== text)
    throw new Error('docs/quality.md is not what the results say: run node tools/quality-page.mjs');
}
