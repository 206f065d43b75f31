// How long it takes until something happens: `lowbit --help`, `lowbit --version`, and imports of the packages, beside an empty Node.js process of the same round.
//   node bench/cold-start.mjs [--rounds 15]     (after a build)
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median } from './spread.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({ options: { rounds: { type: 'string', default: '15' } } });
const rounds = Math.max(9, Number(values.rounds));

const imported = (name) => ['--input-type=module', '-e', `await import('${name}')`];
const cases = {
  'node, an empty module': ['--input-type=module', '-e', ''],
  "import '@lowbit/core'": imported('@lowbit/core'),
  "import '@lowbit/hqq'": imported('@lowbit/hqq'),
  "import '@lowbit/models'": imported('@lowbit/models'),
  'lowbit --version': ['packages/cli/bin/lowbit.js', '--version'],
  'lowbit --help': ['packages/cli/bin/lowbit.js', '--help'],
};

const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
for (let round = 0; round <= rounds; round++) {
  for (const [name, args] of Object.entries(cases)) {
    const start = performance.now();
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${name}: ${stderr}`);
    if (round > 0) times[name].push(performance.now() - start); // the first round fills the caches of the disk
  }
}

const empty = median(times['node, an empty module']);
console.log(`medians of ${rounds} interleaved rounds, Node.js ${process.versions.node}`);
console.log('| started | ms | more than an empty process |\n|---|---|---|');
for (const [name, list] of Object.entries(times)) {
  console.log(`| ${name} | ${Math.round(median(list))} | ${Math.round(median(list) - empty)} |`);
}
