// How long it takes to open a model folder and its tokenizer, which comes before any weight: one new process a measurement.
//   node bench/open.mjs MODEL [--rounds 7] [--against DIR]
// `--against` names the `packages` folder of another build of this repository; rounds are interleaved. Prints medians (and the smallest) in ms of wall clock
// and of processor time.

import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '7' }, against: { type: 'string' }, once: { type: 'string' } },
});
const [folder] = positionals;
if (!folder) throw new Error('usage: node bench/open.mjs MODEL [--rounds N] [--against DIR]');

async function once(packages) {
  const from = (name) => import(pathToFileURL(resolve(packages, name, 'dist/index.js')).href);
  const [{ openCheckpoint }, { loadTokenizer }] = [await from('hub'), await from('models')];
  const spent = {};
  const timed = async (name, body) => {
    const [started, before] = [performance.now(), process.cpuUsage()];
    const result = await body();
    const { user, system } = process.cpuUsage(before);
    spent[name] = performance.now() - started;
    spent[`${name} processor`] = (user + system) / 1000;
    return result;
  };
  const checkpoint = await timed('open', () => openCheckpoint(folder));
  const tokenizer = await timed('tokenizer', () => loadTokenizer(checkpoint));
  await timed('encode', async () => tokenizer.encode('The capital of France is'));
  await checkpoint[Symbol.asyncDispose]();
  return spent;
}

if (values.once !== undefined) {
  console.log(JSON.stringify(await once(values.once)));
} else {
  const own = fileURLToPath(new URL('../packages', import.meta.url));
  const builds = { 'this build': own, ...(values.against ? { against: values.against } : {}) };
  const results = Object.fromEntries(Object.keys(builds).map((name) => [name, []]));
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [name, packages] of Object.entries(builds)) {
      const { stdout, stderr, status } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), folder, '--once', packages], {
        encoding: 'utf8',
      });
      if (status !== 0) throw new Error(stderr);
      results[name].push(JSON.parse(stdout));
    }
  }
  for (const [name, rows] of Object.entries(results)) {
    const text = (what) => {
      const list = rows.map((row) => row[what]).sort((a, b) => a - b);
      return `${what} ${list[list.length >> 1].toFixed(0)} (${list[0].toFixed(0)})`;
    };
    console.log(`${name.padEnd(10)}  ${Object.keys(rows[0]).map(text).join('  ')}`);
  }
}
