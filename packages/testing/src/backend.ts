// The conformance kit for backends: every case compares a backend with the reference, or with itself under another schedule.

import { type Backend, type BackendProvider, type Matrix, referenceBackend } from '@lowbit/core';
import { formatCases } from './backend-formats.ts';
import { lifetimeCases } from './backend-lifetime.ts';
import { operationCases } from './backend-operations.ts';
import { stepCases } from './backend-steps.ts';
import { DEFAULT_TOLERANCES, type Tolerances } from './compare.ts';
import { type Case, check, registerCases, type TestRunner } from './kit.ts';

/** Of `backendConformance`. */
export interface BackendConformanceOptions {
  /** Overrides of `DEFAULT_TOLERANCES`: `{ batch: 0 }` for a backend that promises the same bytes. */
  readonly tolerances?: Partial<Tolerances>;
  /** Shape of a 4-bit matrix to try that is larger than the device binds at once; `in` a multiple of 64. Default none. */
  readonly giant?: Matrix;
}

/** What the groups of cases share: backends are opened on first use. */
export interface SuiteContext {
  readonly provider: BackendProvider;
  readonly backend: () => Promise<Backend>;
  readonly reference: () => Promise<Backend>;
  readonly tolerances: Tolerances;
  readonly options: BackendConformanceOptions;
}

/** The cases, for any way of running them. The last one disposes the backend: run them in order. */
export function backendCases(provider: BackendProvider, options: BackendConformanceOptions = {}): readonly Case[] {
  let opened: Promise<Backend> | undefined;
  let reference: Promise<Backend> | undefined;
  const context: SuiteContext = {
    provider,
    backend: () => (opened ??= provider.open()),
    reference: () => (reference ??= referenceBackend().open()),
    tolerances: { ...DEFAULT_TOLERANCES, ...options.tolerances },
    options,
  };
  const last: Case = {
    group: 'lifetime',
    name: 'after all cases nothing is held',
    async run() {
      const subject = await context.backend();
      const held = subject.allocated();
      await subject[Symbol.asyncDispose]();
      await (await context.reference())[Symbol.asyncDispose]();
      check(held === 0, `${held} bytes are still held`);
    },
  };
  return [...operationCases(context), ...stepCases(context), ...formatCases(context), ...lifetimeCases(context), last];
}

/**
 * Registers the conformance cases of a backend: every operation and every built-in format against the reference, schedules, forks, cuts, refusals,
 * and memory. Operations and formats that the backend says it lacks are skipped, with its reason.
 *
 * @example
 * import { describe, it } from 'vitest';
 * backendConformance(cpu(), { describe, it });
 */
export function backendConformance(provider: BackendProvider, runner: TestRunner, options: BackendConformanceOptions = {}): void {
  registerCases(`backend '${provider.name}'`, backendCases(provider, options), runner);
}
