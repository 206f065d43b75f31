// @ts-check
// A vitest reporter that lists what was skipped, with the reason given to `ctx.skip(reason)`, and ends with one plain line:
// `N passed, N failed, N skipped`. With LOWBIT_SUMMARY set to a file name the counts go there as JSON and the caller prints the line.
import { writeFileSync } from 'node:fs';

/** @typedef {{ passed: number, failed: number, skipped: number }} Counts */

/**
 * @param {Counts} counts
 * @returns {string}
 */
export function summaryLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

export default class SummaryReporter {
  /**
   * @param {ReadonlyArray<import('vitest/node').TestModule>} modules
   * @param {ReadonlyArray<unknown>} unhandled errors outside of any test
   */
  onTestRunEnd(modules, unhandled) {
    const counts = { passed: 0, failed: unhandled.length, skipped: 0 };
    /** @type {string[]} */
    const skipped = [];
    for (const module of modules) {
      let failures = 0;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === 'passed') counts.passed++;
        else if (result.state === 'failed') failures++;
        else {
          counts.skipped++;
          const note = result.state === 'skipped' ? result.note : undefined;
          skipped.push(`  ${module.relativeModuleId} > ${test.fullName}: ${note ?? `no reason given (${test.options.mode})`}`);
        }
      }
      // A file that could not be loaded, or a failed hook, has no failed test of its own.
      if (failures === 0 && module.state() === 'failed') failures = 1;
      counts.failed += failures;
    }
    if (skipped.length > 0) console.log(`\nSkipped:\n${skipped.join('\n')}`);
    if (counts.passed + counts.failed === 0) process.exitCode = 1;
    if (process.env.LOWBIT_SUMMARY) writeFileSync(process.env.LOWBIT_SUMMARY, JSON.stringify(counts));
    else console.log(`\n${summaryLine(counts)}`);
  }
}
