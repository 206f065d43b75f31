// Quantizing straight from a hub on this machine, killed with SIGKILL at random points and resumed until it is done: each result is compared with that of a run that
// nobody disturbed. Then the time that each fault of a connection costs a download. Fails if a run does not resume or its bytes differ.
//   node bench/hub-kills.mjs [KILLS] [FOLDER]        default 100, examples/tiny-llama

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const kills = Number(process.argv[2] ?? 100);
const folder = process.argv[3] ?? join(root, 'examples/tiny-llama');
const dir = mkdtempSync(join(tmpdir(), 'lowbit-kills-'));
const server = join(dir, 'hub.mjs');
// The server of the tests is TypeScript: bundled for this.
const { build } = createRequire(createRequire(join(root, 'package.json')).resolve('tsup/package.json'))('esbuild');
await build({ entryPoints: [join(root, 'fixtures/hub-server.ts')], bundle: true, platform: 'node', format: 'esm', outfile: server });
const { startHub } = await import(server);
const hub = await startHub();
const files = new Map(readdirSync(folder).map((name) => [name, new Uint8Array(readFileSync(join(folder, name)))]));
hub.repos.set('org/model', { files });
const bytes = [...files.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);

let state = 12;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};
const digests = (at) =>
  Object.fromEntries(
    readdirSync(at).map((name) => [
      name,
      createHash('sha256')
        .update(readFileSync(join(at, name)))
        .digest('hex'),
    ]),
  );

/** Runs the command; `point`: kills it once the hub has sent so many bytes to it, after so many milliseconds more. */
function run(out, point) {
  const args = ['quantize', 'org/model', '-o', out, '-m', 'hqq', '--resume', '--threads', '1', '--backend', 'reference', '--json'];
  const env = { ...process.env, HF_ENDPOINT: hub.url, HF_HOME: join(dir, 'home'), HF_HUB_OFFLINE: '', HF_HUB_CACHE: '' };
  const child = spawn(process.execPath, [join(root, 'packages/cli/dist/main.js'), ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (text) => (stdout += text));
  child.stderr.on('data', (text) => (stderr += text));
  const from = hub.requests.length;
  const watch =
    point &&
    setInterval(() => {
      if (hub.requests.slice(from).reduce((sum, { sent }) => sum + sent, 0) < point.bytes) return;
      clearInterval(watch);
      setTimeout(() => child.kill('SIGKILL'), point.ms);
    }, 2);
  return new Promise((done) =>
    child.on('close', (code, signal) => {
      clearInterval(watch);
      done({ code, signal, stdout, stderr });
    }),
  );
}

const calm = join(dir, 'calm');
const first = await run(calm);
if (first.code !== 0) throw new Error(first.stderr);
const expected = JSON.stringify(digests(calm));

let killed = 0;
let finished = 0;
let resumed = 0;
const started = performance.now();
while (killed < kills) {
  const out = join(dir, `run-${finished}`);
  for (;;) {
    const last = killed >= kills;
    const { code, signal, stdout, stderr } = await run(
      out,
      last ? undefined : { bytes: Math.floor(random() * bytes * 0.98), ms: random() * 200 },
    );
    if (signal === 'SIGKILL') {
      killed++;
      if (existsSync(out) && JSON.stringify(digests(out)) !== expected) throw new Error(`kill ${killed}: a folder that is not whole`);
      if (existsSync(out)) break; // it had its name already
      continue;
    }
    if (code !== 0) throw new Error(`after ${killed} kills: exit ${code}\n${stdout}\n${stderr}`);
    resumed += JSON.parse(stdout).resumed > 0 ? 1 : 0;
    break;
  }
  if (JSON.stringify(digests(out)) !== expected) throw new Error(`after ${killed} kills: other bytes`);
  if (existsSync(`${out}.partial`)) throw new Error(`after ${killed} kills: ${out}.partial is left`);
  finished++;
  rmSync(out, { recursive: true });
}
console.log(
  `${killed} kills, ${finished} results, all equal to the undisturbed one; ${resumed} of them took up earlier work; ${((performance.now() - started) / 1000).toFixed(0)} s`,
);

const { downloadModel, createHubClient } = await import(join(root, 'packages/hub/dist/index.js'));
const FAULTS = {
  'cut after 64 kB': { kind: 'cut', after: 65_536 },
  reset: { kind: 'reset' },
  'status 500': { kind: 'status', status: 500 },
  'status 429, Retry-After: 1': { kind: 'status', status: 429, headers: { 'Retry-After': '1' } },
};
const COUNT = 4;
async function download(fault) {
  const cacheDir = mkdtempSync(join(dir, 'cache-'));
  let left = fault ? COUNT : 0;
  let spare = 0;
  // Every other request, so that no file is given up.
  hub.fault = ({ host }) => (host === 'storage' && left > 0 && spare++ % 2 === 0 && left-- > 0 ? fault : undefined);
  const settings = { endpoint: hub.url, cacheDir, token: undefined, tokenFrom: 'HF_TOKEN', offline: false };
  const from = performance.now();
  await downloadModel('org/model', { settings, client: createHubClient({ endpoint: hub.url }) });
  const ms = performance.now() - from;
  rmSync(cacheDir, { recursive: true });
  return { ms, hit: fault ? COUNT - left : 0 };
}
await download(undefined);
for (const [name, fault] of Object.entries(FAULTS)) {
  const lost = [];
  let hit = 0;
  for (let round = 0; round < 5; round++) {
    const [calm, faulty] = [await download(undefined), await download(fault)];
    hit = faulty.hit;
    lost.push((faulty.ms - calm.ms) / faulty.hit);
  }
  console.log(`${name}: ${lost.sort((a, b) => a - b)[2].toFixed(0)} ms lost per fault (median of 5 rounds, ${hit} faults each)`);
}
hub.fault = undefined;
await hub[Symbol.asyncDispose]();
rmSync(dir, { recursive: true, force: true });
