// Why a pickle is refused: every message names the file, the opcode at work and its byte.

import type { LowbitError } from '@lowbit/core';
import { badPickle, CONVERT_HINT } from './values.ts';

export interface Refusals {
  /** The opcode at work, and its offset; the machine's loop keeps them true. */
  op: string;
  at: number;
  /** An ERR_BAD_PICKLE to throw. */
  fail(problem: string, hint?: string, details?: Readonly<Record<string, unknown>>): LowbitError;
  over(what: string, limit: number): LowbitError;
  /** For what is more than data: tells how to convert the file in Python. */
  notData(problem: string, details?: Readonly<Record<string, unknown>>): LowbitError;
}

export function createRefusals(file: string): Refusals {
  const refusals: Refusals = {
    op: '',
    at: 0,
    fail: (problem, hint, details) =>
      badPickle(file, `${refusals.op}: ${problem}`, {
        at: refusals.at,
        ...(hint === undefined ? {} : { hint }),
        details: { opcode: refusals.op, ...details },
      }),
    over: (what, limit) => refusals.fail(`more than ${limit} ${what}`, 'No checkpoint needs so many; do not trust this file.'),
    notData: (problem, details) => refusals.fail(problem, CONVERT_HINT, details),
  };
  return refusals;
}
