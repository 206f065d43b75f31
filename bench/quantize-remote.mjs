// Quantizing straight from a hub on this machine: peak memory, and bytes over the wire per byte of the weights. Clean, then with every connection to the
// storage cut after 8 MB.
//   node bench/synthetic-llama.mjs /tmp/llama 8b-layer && node bench/quantize-remote.mjs /tmp/llama [THREADS]

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [folder, threads = '2'] = process.argv.slice(2);
if (!folder) throw new Error('usage: node bench/quantize-remote.mjs FOLDER [THREADS]');
const dir = mkdtempSync(join(tmpdir(), 'lowbit-remote-'));
// The server of the tests is TypeScript: bundled for this.
const server = join(dir, 'hub.mjs');
const bundled = spawnSync(
  join(root, 'node_modules/.bin/esbuild'),
  [join(root, 'fixtures/hub-server.ts'), '--bundle', '--platform=node', '--format=esm', `--outfile=${server}`],
  { encoding: 'utf8' },
);
if (bundled.status !== 0) throw new Error(bundled.stderr);
const { startHub } = await import(server);

const digest = async (path) => {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path)) hash.update(piece);
  return hash.digest('hex');
};
const hub = await startHub();
const files = new Map();
let weights = 0;
for (const name of readdirSync(folder)) {
  const path = join(folder, name);
  const { size } = statSync(path);
  const large = name.endsWith('.safetensors');
  if (large) weights += size;
  files.set(name, large ? { path, size, sha256: await digest(path) } : new Uint8Array(readFileSync(path)));
}
hub.repos.set('org/model', { files });

for (const cut of [false, true]) {
  hub.requests.length = 0;
  hub.fault = cut ? ({ host }) => (host === 'storage' ? { kind: 'cut', after: 8_000_000 } : undefined) : undefined;
  const out = join(dir, cut ? 'cut' : 'clean');
  const started = performance.now();
  // Linux: the peak of the process itself, from its own report at the end.
  const child = spawn(
    process.execPath,
    [
      '--import',
      'data:text/javascript,process.on("exit",()=>console.error("PEAK",process.resourceUsage().maxRSS))',
      join(root, 'packages/cli/dist/main.js'),
      'quantize',
      'org/model',
      '-o',
      out,
      '-m',
      'hqq',
      '--threads',
      threads,
      '--quiet',
    ],
    { env: { ...process.env, HF_ENDPOINT: hub.url, HF_HOME: join(dir, 'hf'), HF_TOKEN: '' }, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let stderr = '';
  child.stderr.on('data', (text) => (stderr += text));
  const code = await new Promise((done) => child.on('close', done));
  if (code !== 0) throw new Error(stderr);
  const peak = Number(/PEAK (\d+)/.exec(stderr)[1]) * 1024;
  const sent = hub.requests.reduce((sum, { host, sent }) => sum + (host === 'storage' ? sent : 0), 0);
  console.log(
    `${cut ? 'cut every 8 MB' : 'clean'}: ${(performance.now() - started).toFixed(0)} ms, peak RSS ${(peak / 1e6).toFixed(0)} MB, ${hub.requests.length} requests, ${sent} bytes sent for ${weights} of weights (${(sent / weights).toFixed(4)})`,
  );
}
await hub[Symbol.asyncDispose]();
rmSync(dir, { recursive: true, force: true });
