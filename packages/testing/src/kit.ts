// The bones of the conformance kit: cases are plain data, so that any test runner can run them, or none.

import { isPlainRecord, LowbitError } from '@lowbit/core';

/** One check. `run` rejects if it fails; a string it resolves to is the reason why the case does not apply to the subject. */
export interface Case {
  readonly group: string;
  readonly name: string;
  run(): Promise<unknown>;
}

/** What the kit needs of a test runner: vitest's, jest's and node:test's functions fit. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown;
  it(name: string, body: (context?: { skip?(reason?: string): unknown }) => Promise<void>): unknown;
}

/** Registers cases with a test runner. A case that does not apply is skipped where the runner can, and passes where it cannot. */
export function registerCases(title: string, cases: readonly Case[], { describe, it }: TestRunner): void {
  describe(title, () => {
    for (const group of new Set(cases.map((one) => one.group))) {
      describe(group, () => {
        for (const one of cases.filter((other) => other.group === group)) {
          it(one.name, async (context) => {
            const skipped = await one.run();
            if (typeof skipped === 'string') context?.skip?.(skipped);
          });
        }
      });
    }
  });
}

/** How a case ended. */
export interface Outcome {
  readonly group: string;
  readonly name: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Why it failed or was skipped. */
  readonly reason?: string;
}

/** Runs cases one after another without a test runner. */
export async function runCases(cases: readonly Case[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const { group, name, run } of cases) {
    try {
      const skipped = await run();
      outcomes.push(
        typeof skipped === 'string' ? { group, name, outcome: 'skipped', reason: skipped } : { group, name, outcome: 'passed' },
      );
    } catch (error) {
      outcomes.push({ group, name, outcome: 'failed', reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return outcomes;
}

/** Throws ERR_CONFORMANCE, the error of every failed check, unless `condition` holds. */
export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new LowbitError('ERR_CONFORMANCE', message);
}

/** Throws ERR_CONFORMANCE unless `body` throws or rejects with that code. */
export async function checkThrows(what: string, code: string, body: () => unknown): Promise<void> {
  let thrown: unknown;
  try {
    await body();
  } catch (error) {
    thrown = error;
  }
  const actual = thrown === undefined ? 'nothing' : ((thrown as { code?: string }).code ?? String(thrown));
  check(actual === code, `${what} must throw ${code}, threw ${actual}`);
}

/** Throws ERR_CONFORMANCE, naming the place, for a value that JSON would lose or change: undefined, NaN, functions, instances of classes. */
export function checkJson(what: string, value: unknown): void {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return;
  if (typeof value === 'number') {
    check(Number.isFinite(value) && !Object.is(value, -0), `${what} is ${Object.is(value, -0) ? '-0' : value}, which JSON does not have`);
  } else if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) checkJson(`${what}[${i}]`, item);
  } else {
    check(isPlainRecord(value), `${what} is ${typeof value}, which JSON does not have`);
    for (const [key, item] of Object.entries(value)) checkJson(`${what}.${key}`, item);
  }
}
