// @ts-check
// `pnpm check`: layers, lint, unused code and types, two at a time, then the unit tests: the everyday loop. What ends badly is shown and ends it. Arguments go to vitest.
import { spawn } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { root, run } from './workspace.mjs';

const bin = join(root, 'node_modules', '.bin');
/** The longest first. @type {[command: string, ...args: string[]][]} */
const steps = [
  ['tsc', '--noEmit'],
  ['tsc', '--noEmit', '-p', 'tsconfig.browser.json'],
  ['knip', '--no-progress'],
  ['tsc', '--noEmit', '-p', 'tools'],
  ['biome', 'ci', '--error-on-warnings', `--colors=${process.stdout.isTTY ? 'force' : 'off'}`, '.'],
  ['node', 'tools/check-layers.mjs'],
];

/**
 * Runs a step; what it prints is printed at once, when it has ended.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {Promise<boolean>}
 */
function ended(command, args) {
  const start = performance.now();
  const child = spawn(command, args, {
    cwd: root,
    shell: process.platform === 'win32',
    env: { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  /** @type {Buffer[]} */
  const printed = [];
  child.stdout.on('data', (data) => printed.push(data));
  child.stderr.on('data', (data) => printed.push(data));
  return new Promise((resolve) => {
    const end = (/** @type {boolean} */ ok, text = '') => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      console.log(`${ok ? 'ok    ' : 'FAILED'} ${[command, ...args].join(' ')} (${seconds} s)`);
      if (!ok) console.log(`${Buffer.concat(printed)}${text}`);
      resolve(ok);
    };
    child.on('error', (error) => end(false, error.message));
    child.on('close', (code) => end(code === 0));
  });
}

let failed = false;
async function worker() {
  for (let step = steps.shift(); step; step = steps.shift()) {
    const [command, ...args] = step;
    if (!(await ended(command, args))) failed = true;
  }
}
await Promise.all([worker(), worker()]);
if (failed || !run('vitest', ['run', '--project', 'unit', ...process.argv.slice(2)])) process.exitCode = 1;
