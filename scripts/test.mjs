// @ts-check
// `npm test`: install, build, layers, lint, unused code, types and every test; further arguments go to vitest.
// The last line is always `N passed, N failed, N skipped`, where a failed step other than the tests counts as one failure.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { summaryLine } from '../tools/summary-reporter.mjs';
import { build, install, run } from './workspace.mjs';

/** @type {string[]} */
const failedSteps = [];

/**
 * @param {string} name
 * @param {() => boolean} action
 * @returns {boolean}
 */
function step(name, action) {
  console.log(`\n== ${name}`);
  const ok = action();
  if (!ok) failedSteps.push(name);
  return ok;
}

/** @returns {import('../tools/summary-reporter.mjs').Counts} */
function tests() {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-test-'));
  const file = join(dir, 'summary.json');
  const counts = { passed: 0, failed: 0, skipped: 0 };
  try {
    const ok = run('vitest', ['run', ...process.argv.slice(2)], { LOWBIT_SUMMARY: file });
    Object.assign(counts, JSON.parse(readFileSync(file, 'utf8')));
    if (!ok && counts.failed === 0) failedSteps.push('vitest');
  } catch {
    failedSteps.push('vitest (did not finish)');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  return counts;
}

let counts = { passed: 0, failed: 0, skipped: 0 };
if (step('install', install)) {
  step('build', build);
  step('layers', () => run('node', ['tools/check-layers.mjs']));
  const colors = process.stdout.isTTY ? 'force' : 'off';
  step('lint', () => run('biome', ['ci', '--error-on-warnings', `--colors=${colors}`, '.']));
  step('unused', () => run('knip', ['--no-progress']));
  step(
    'types',
    () => run('tsc', ['--noEmit']) && run('tsc', ['--noEmit', '-p', 'tools']) && run('tsc', ['--noEmit', '-p', 'tsconfig.browser.json']),
  );
  console.log('\n== tests');
  counts = tests();
}
if (failedSteps.length > 0) console.log(`\nFailed steps: ${failedSteps.join(', ')}`);
counts.failed += failedSteps.length;
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
console.log(`\n${summaryLine(counts)}`);
