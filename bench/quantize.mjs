// Peak memory and time of quantizing a checkpoint folder, in a process of its own.
//   node bench/quantize.mjs MODEL [--bits 4] [--axis 1] [--solver hqq] [--lm-head] [--max-memory BYTES] [--threads 1] [--runs 1]
// Prints one JSON line a run: peak resident set in MB (10^6 bytes, as the operating system counts it), seconds, processor seconds, weights.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    bits: { type: 'string', default: '4' },
    axis: { type: 'string', default: '1' },
    solver: { type: 'string', default: 'hqq' },
    'lm-head': { type: 'boolean', default: false },
    'max-memory': { type: 'string' },
    threads: { type: 'string', default: '1' },
    runs: { type: 'string', default: '1' },
    child: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});
const [model] = positionals;
if (!model) throw new Error('usage: node bench/quantize.mjs MODEL [options]');

if (values.child) {
  const { openCheckpoint, quantizeCheckpoint } = await import('../packages/hub/dist/index.js');
  const { hqq } = await import('../packages/hqq/dist/index.js');
  const { llama } = await import('../packages/models/dist/index.js');
  const quantizer = hqq({ bits: Number(values.bits), axis: Number(values.axis), solver: values.solver });
  const source = await openCheckpoint(model);
  const report = await quantizeCheckpoint(source, {
    out: values.out,
    quantizer,
    adapters: [llama],
    rules: values['lm-head'] ? [{ match: 'lm_head', use: quantizer }] : [],
    maxMemory: values['max-memory'] ? Number(values['max-memory']) : undefined,
    threads: Number(values.threads),
  });
  const { maxRSS } = process.resourceUsage();
  const result = {
    bits: Number(values.bits),
    axis: Number(values.axis),
    solver: values.solver,
    threads: Number(values.threads),
    peakMB: Math.round((maxRSS * 1024) / 1e5) / 10,
    seconds: Math.round(report.ms / 10) / 100,
    cpuSeconds: Math.round(process.cpuUsage().user / 1e4) / 100,
    weights: report.summary.quantizedWeights,
    nsPerWeight: Math.round((report.ms * 1e7) / report.summary.quantizedWeights) / 10,
    weightError: report.weightError,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
} else {
  for (let run = 0; run < Number(values.runs); run++) {
    const dir = mkdtempSync(join(tmpdir(), 'lowbit-bench-'));
    const { status } = spawnSync(
      process.execPath,
      [fileURLToPath(import.meta.url), ...process.argv.slice(2), '--child', '--out', join(dir, 'out')],
      { stdio: 'inherit' },
    );
    rmSync(dir, { recursive: true, force: true });
    if (status !== 0) process.exit(status ?? 1);
  }
}
