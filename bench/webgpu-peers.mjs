// Products of 4-bit weights on WebGPU against onnxruntime-web (MatMulNBits) in the same page of headless Chromium, on the same adapter, in interleaved rounds:
//   node bench/webgpu-peers.mjs [--size 2048] [--layers 2] [--rows 1,128] [--rounds 9] [--repeat 8] [--gpu] [--json]
// Without --gpu the adapter is SwiftShader: it says which kernels do less work on a processor, and nothing of a GPU. onnxruntime-web is installed into
// bench/peers/installed-web on first use, without install scripts; nothing in this repository depends on it. Needs the built packages and Chromium.
// Time is processor time of all processes of the browser, in ticks of 10 ms (so few rows are multiplied several times a round): on a software adapter that is the
// work, and other work on the machine is not in it. With --gpu it is the clock. Ratio: its time over ours of the same round, so above 1 is faster than
// onnxruntime-web.

import { spawnSync } from 'node:child_process';
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { cpus, loadavg, tmpdir } from 'node:os';
import { basename, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { build } from 'vite';
import { writeOnnx } from './peers/onnx.mjs';
import { median } from './spread.mjs';

const VERSION = '1.30.0';
const TYPES = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.wasm': 'application/wasm' };
const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '2048' },
    layers: { type: 'string', default: '2' },
    rows: { type: 'string', default: '1,128' },
    rounds: { type: 'string', default: '9' },
    repeat: { type: 'string' },
    gpu: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const [size, layers, rounds] = [values.size, values.layers, values.rounds].map(Number);

const installed = fileURLToPath(new URL('peers/installed-web', import.meta.url));
const ort = join(installed, 'node_modules', 'onnxruntime-web', 'dist');
if (!existsSync(ort)) {
  mkdirSync(installed, { recursive: true });
  writeFileSync(join(installed, 'package.json'), JSON.stringify({ private: true, dependencies: { 'onnxruntime-web': VERSION } }));
  const install = ['install', '--ignore-scripts', '--no-audit', '--no-fund'];
  const { status } = spawnSync('npm', install, { cwd: installed, stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new Error('onnxruntime-web could not be installed');
}

const scratch = mkdtempSync(join(tmpdir(), 'lowbit-webgpu-peers-'));

/** Milliseconds of processor time that the processes below this one have taken: the browser's. */
function processor() {
  const all = new Map();
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
        .replace(/^.*\) /s, '')
        .split(' ');
      all.set(Number(pid), { parent: Number(fields[1]), ms: 10 * (Number(fields[11]) + Number(fields[12])) });
    } catch {
      // It has ended.
    }
  }
  const ours = (pid) => pid === process.pid || (all.has(pid) && ours(all.get(pid).parent));
  return [...all].reduce((sum, [pid, { parent, ms }]) => (pid !== process.pid && ours(parent) ? sum + ms : sum), 0);
}

let browser;
let server;
try {
  for (const accuracy of [0, 4]) writeOnnx(join(scratch, `${accuracy}.onnx`), { layers, accuracy, size });
  const entry = fileURLToPath(new URL('peers/webgpu-page.mjs', import.meta.url));
  const lib = { entry, formats: ['es'], fileName: () => 'page.js' };
  await build({ configFile: false, logLevel: 'error', build: { outDir: scratch, emptyOutDir: false, target: 'es2022', lib } });
  server = createServer(({ url }, response) => {
    const name = basename(url);
    const path = url.startsWith('/ort/') ? join(ort, name) : join(scratch, name);
    if (url === '/') response.setHeader('content-type', 'text/html').end('<!doctype html><script type="module" src="/page.js"></script>');
    else if (!existsSync(path)) response.writeHead(404).end();
    else {
      response.setHeader('content-type', TYPES[extname(name)] ?? 'application/octet-stream');
      createReadStream(path).pipe(response);
    }
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const software = ['--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan', '--use-vulkan=swiftshader'];
  const path = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((one) => existsSync(one));
  browser = await chromium.launch({
    executablePath: process.env.LOWBIT_CHROMIUM ?? path,
    args: [
      ...['--headless=new', '--no-sandbox', '--disable-quic', '--no-first-run', '--enable-unsafe-webgpu'],
      ...(values.gpu ? [] : [...software, '--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension']),
    ],
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  page.on('pageerror', (error) => console.error(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') console.error(message.text());
  });
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.waitForFunction('typeof contestant === "function"');
  const sides = [
    ['lowbit', 'lowbit', { size, layers, features: ['subgroups', 'shader-f16'] }],
    ['lowbit, core alone', 'lowbit', { size, layers, features: [] }],
    ['onnxruntime-web', 'onnxruntime', { size, model: '/0.onnx' }],
    ['onnxruntime-web, accuracy_level 4', 'onnxruntime', { size, model: '/4.onnx' }],
  ];
  const call = (name, ...given) => page.evaluate(`${name}(${given.map((one) => JSON.stringify(one)).join()})`);
  console.log(`${cpus()[0].model}, load ${loadavg()[0].toFixed(0)}, Chromium ${browser.version()}, onnxruntime-web ${VERSION}`);
  for (const side of sides) console.log(`${side[0]}: ${await call('contestant', ...side)}`);
  for (const rows of values.rows.split(',').map(Number)) {
    const repeat = Number(values.repeat ?? (rows < 8 ? 8 : 1));
    const times = new Map(sides.map(([label]) => [label, []]));
    for (let round = 0; round <= rounds; round++) {
      for (const [label] of sides) {
        const before = processor();
        const { elapsed, numbers } = await call('run', label, rows, repeat);
        const ms = (values.gpu ? elapsed : processor() - before) / repeat;
        if (numbers !== rows * size) throw new Error(`${label} gave ${numbers} numbers`);
        if (round > 0) times.get(label).push(ms); // the first one compiles
      }
    }
    for (const label of ['lowbit', 'lowbit, core alone']) {
      for (const peer of ['onnxruntime-web', 'onnxruntime-web, accuracy_level 4']) {
        const ratios = times.get(peer).map((ms, i) => ms / times.get(label)[i]);
        const row = {
          test: `${layers} x [${size}, ${size}], ${rows} ${rows === 1 ? 'row' : 'rows'}`,
          ...{ ours: label, ms: Number(median(times.get(label)).toFixed(1)) },
          ...{ theirs: peer, theirMs: Number(median(times.get(peer)).toFixed(1)) },
          ...{ ratio: Number(median(ratios).toFixed(2)), lowest: Number(Math.min(...ratios).toFixed(2)) },
          highest: Number(Math.max(...ratios).toFixed(2)),
        };
        if (values.json) console.log(JSON.stringify(row));
        else
          console.log(
            `${row.test}: ${label} ${row.ms} ms, ${peer} ${row.theirMs} ms, ratio ${row.ratio} (${row.lowest} to ${row.highest}, ${rounds} rounds)`,
          );
      }
    }
  }
} finally {
  await browser?.close();
  server?.close();
  rmSync(scratch, { recursive: true, force: true });
}
