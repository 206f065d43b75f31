// What a quantizer makes of routines that others run for it: workers, a backend, and those that fail.

import type { Matrix, Routine } from '@lowbit/core';
import { type Case, check } from './kit.ts';
import { inProcessPool } from './pool.ts';
import { checkError, checkSame, run, type Subject } from './quantizer-run.ts';
import { seededTensor } from './random.ts';

/** Weights that are worth a thread, and several. */
const SEVERAL: Matrix = [64, 1024];
const LARGE: Matrix = [256, 2048];

/** `routines`: what its worker serves. `budget`: bytes. */
export function routineCases(subject: Subject, routines: Readonly<Record<string, Routine>> | undefined, budget: number): readonly Case[] {
  const group = 'routines';
  const withWorkers: Case = {
    group,
    name: 'writes the same bytes with workers, whatever the order they answer in',
    run: async () => (routines ? sameWithWorkers(subject, routines) : 'pass `routines`, what its worker serves'),
  };
  return [
    ...(subject.quantizer.worker ? [withWorkers] : []),
    {
      group,
      name: 'hands on what a routine fails with, where it calls one of a worker or a backend',
      run: () => handsFailuresOn(subject, budget),
    },
  ];
}

async function sameWithWorkers(subject: Subject, routines: Readonly<Record<string, Routine>>): Promise<void> {
  const { quantizer } = subject;
  const weight = seededTensor(80, LARGE, 0.1);
  const format = quantizer.format(LARGE, 'f16');
  const alone = await run(subject, weight, format, { budget: Number.POSITIVE_INFINITY });
  for (const threads of [1, 3]) {
    const pool = inProcessPool(routines, threads);
    const { quantized, error } = await run(subject, weight, format, { budget: Number.POSITIVE_INFINITY, workers: pool });
    check(pool.calls() > 0, `it names a worker, and calls no routine for [${LARGE.join(', ')}]`);
    check(pool.most() <= threads * 8, `${pool.most()} calls at a time for ${threads} threads`);
    checkSame(`${threads} threads`, quantized, alone.quantized);
    checkError(subject, weight, quantized, error);
  }
}

async function handsFailuresOn(subject: Subject, budget: number): Promise<void> {
  const { quantizer } = subject;
  const weight = seededTensor(81, SEVERAL, 0.1);
  const format = quantizer.format(SEVERAL, 'f16');
  const failure = Object.assign(new Error('lost'), { code: 'ERR_TEST_LOST' });
  let asked = 0;
  const fails = (): Routine => {
    asked++;
    return async () => {
      throw failure;
    };
  };
  for (const [what, context] of [
    ['a failing worker', { workers: { threads: 2, routine: fails } }],
    ['a failing backend', { routine: fails }],
  ] as const) {
    const before = asked;
    const error = await run(subject, weight, format, { budget, ...context }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (asked > before) check(error === failure, `${what} must fail the call, it gave ${error ?? 'no error'}`);
  }
  if (asked === 0) return;
  const none = await run(subject, weight, format, { budget, routine: () => undefined });
  checkSame('a backend without the routine', none.quantized, (await run(subject, weight, format, { budget })).quantized);
}
