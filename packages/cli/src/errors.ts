// How failures reach people and scripts: a message, what to do about it, and a code; exit 1 for failures, 2 for wrong usage, 130 after Ctrl-C.

import { isLowbitError, LowbitError } from '@lowbit/core';
import { inFlags } from './in-flags.ts';
import { plain } from './table.ts';

/** Exit codes of the command. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const;

const SIGNALS = { SIGINT: ['interrupted', EXIT.interrupted], SIGTERM: ['terminated', 143], SIGHUP: ['hung up', 129] } as const;

/** Results cannot be written: the disk is full, say. */
export class OutputError extends LowbitError {
  override readonly name: string = 'OutputError';
  constructor(cause: Error) {
    const reason = /^\w+: (.+), write$/.exec(cause.message)?.[1] ?? cause.message;
    super('ERR_IO', `cannot write to stdout: ${reason}`, { cause });
  }
}

/** JSON was cut off: what there is of it was written. */
export class CutOffError extends LowbitError {
  override readonly name: string = 'CutOffError';
  constructor(finishReason: string) {
    super('ERR_LIMIT', 'the JSON is cut off', {
      hint: finishReason === 'length' ? 'Give more --max-tokens.' : "The model's context is full: shorten the prompt.",
    });
  }
}

/** A wrong command line. The message is the whole text; `hint` may name the nearest flag. */
export class UsageError extends LowbitError {
  override readonly name: string = 'UsageError';
  constructor(message: string, hint?: string) {
    super('ERR_USAGE', message, { hint });
  }
}

/** Runs what looks at flags alone: what it refuses as a bad argument is wrong usage, in words of the command line. */
export function asUsage<T>(body: () => T, before = ''): T {
  try {
    return body();
  } catch (error) {
    if (!isLowbitError(error, 'ERR_BAD_ARGUMENT')) throw error;
    throw new UsageError(before + inFlags(error.message), error.hint === undefined ? undefined : inFlags(error.hint));
  }
}

/** Runs what may fail with a hint that has another name in this command: what `reword` makes of the hint is said instead. */
export async function withHint<T>(body: () => Promise<T>, reword: (hint: string, error: LowbitError) => string): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    const { hint = '', details } = error;
    const said = reword(hint, error);
    if (said === hint) throw error;
    throw new LowbitError(error.code, error.message, { hint: said, details, cause: error });
  }
}

/** Names the flag of a number of tokens in the hint that says how many fit. */
export function tokensFlag(flag: string): (hint: string) => string {
  return (hint) => hint.replace(/\bTake at most (\d+) tokens\./, `Take at most $1 tokens (${flag} $1).`);
}

/** The reason that Ctrl-C, SIGTERM or SIGHUP (the terminal was closed) aborts with. */
export class Interrupted extends Error {
  override readonly name: string = 'Interrupted';
  /** 128 plus the number of the signal. */
  readonly exitCode: number;
  constructor(signal: keyof typeof SIGNALS) {
    const [message, exitCode] = SIGNALS[signal];
    super(message);
    this.exitCode = exitCode;
  }
}

export interface RenderedError {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export interface ErrorStyle {
  /** Write `{ "error": ... }` to stdout. */
  readonly json: boolean;
  /** LOWBIT_DEBUG: show stacks. */
  readonly debug?: boolean;
  readonly red?: (text: string) => string;
}

interface ErrorFacts {
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
  readonly details: unknown;
}

function factsOf(error: unknown): ErrorFacts {
  if (isLowbitError(error)) {
    const hint = error.hint === undefined ? undefined : inFlags(error.hint);
    return { code: error.code, message: inFlags(error.message), hint: hint === '' ? undefined : hint, details: error.details };
  }
  if (error instanceof Interrupted) return { code: 'ERR_ABORTED', message: error.message, hint: undefined, details: {} };
  if (error instanceof RangeError && /allocation failed|Invalid (?:typed )?array/i.test(error.message)) {
    return {
      code: 'ERR_LIMIT',
      message: `out of memory (${error.message})`,
      hint: 'Close other programs, or take a smaller model.',
      details: {},
    };
  }
  const message = error instanceof Error ? error.message : String(error);
  const hint = 'This looks like a bug in lowbit. Run again with LOWBIT_DEBUG=1 and report what it prints.';
  return { code: 'ERR_UNEXPECTED', message, hint, details: {} };
}

/** Whether whoever read our output has left. */
export function isBrokenPipe(error: unknown): boolean {
  return typeof error === 'object' && error !== null && (error as { code?: unknown }).code === 'EPIPE';
}

/** Exit code that goes with an error. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof Interrupted) return error.exitCode;
  return isLowbitError(error, 'ERR_USAGE') ? EXIT.usage : EXIT.failure;
}

/** What to print for an error, and the exit code. Control characters of names from files are not passed on. */
export function renderError(error: unknown, { json, debug = false, red = (text) => text }: ErrorStyle): RenderedError {
  const { code, message, hint, details } = factsOf(error);
  const exitCode = exitCodeOf(error);
  const stack = debug && error instanceof Error && error.stack ? `${stackOf(error)}\n` : '';
  if (json)
    return {
      stdout: `${JSON.stringify({ error: { code, message, hint: hint ?? null, details } }, safeValues)}\n`,
      stderr: stack,
      exitCode,
    };
  if (error instanceof Interrupted) return { stdout: '', stderr: `${message}\n${stack}`, exitCode };
  const lines = [`${red('error:')} ${message.split('\n').map(plain).join('\n')}${code === 'ERR_USAGE' ? '' : ` [${code}]`}`];
  if (hint) lines.push(`hint: ${plain(hint)}`);
  return { stdout: '', stderr: `${lines.join('\n')}\n${stack}`, exitCode };
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : '';
  return `${error.stack}${cause}`;
}

/** Details are free-form: what JSON has no word for becomes text. */
function safeValues(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
  if (value instanceof Map || value instanceof Set) return [...value];
  if (value instanceof Error) return value.message;
  return value;
}
