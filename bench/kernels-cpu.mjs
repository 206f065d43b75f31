// Speed of the native CPU backend's products against the machine's own limits in the same run: at 1 and 4 rows bytes of weights a second against a plain
// read of as many bytes, at 128 rows operations a second against a loop of vpdpbusd alone (two operations a multiply-add). Medians of interleaved rounds.
//   node bench/kernels-cpu.mjs [--shape 4096x4096] [--layers 16] [--rounds 9] [--threads 2] [--format hqq4]
// Builds packages/kernels-cpu/build/bench first (cmake, a C++20 compiler). Prints JSON lines.

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: '4096x4096' },
    layers: { type: 'string', default: '16' },
    rounds: { type: 'string', default: '9' },
    threads: { type: 'string', default: '2' },
    format: { type: 'string', default: '' },
  },
});
const home = fileURLToPath(new URL('../packages/kernels-cpu/', import.meta.url));
const build = `${home}build/bench`;
mkdirSync(build, { recursive: true });
const run = (command, args, stdio) => {
  const { status } = spawnSync(command, args, { stdio });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`);
};
run('cmake', ['-S', home, '-B', build, '-DCMAKE_BUILD_TYPE=Release'], ['ignore', 'ignore', 'inherit']);
run('cmake', ['--build', build, '--target', 'lowbit_bench', '--parallel', '2'], ['ignore', 'ignore', 'inherit']);
run(`${build}/lowbit_bench`, [...values.shape.split('x'), values.layers, values.rounds, values.threads, values.format], 'inherit');
