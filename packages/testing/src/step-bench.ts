// What cases about steps stand on: a compiled program, and a decoder that is fed token by token.

import { type Backend, type Executable, type QuantizedLinear, type SequenceId, type StepSequence, toFloat32 } from '@lowbit/core';
import type { SuiteContext } from './backend.ts';
import { checkClose } from './compare.ts';
import type { Case } from './kit.ts';
import { prepareWeights, type TestProgram, whyNot } from './play.ts';
import { decoderCase, type ProgramCase } from './programs.ts';

/** Tokens of a sequence, at most. */
export const CONTEXT = 32;

/** Prepares and compiles a program for the length of `body`. */
export async function withProgram<T>(
  backend: Backend,
  test: TestProgram,
  body: (executable: Executable, linears: readonly QuantizedLinear[]) => Promise<T>,
  maxSequences = 8,
): Promise<T> {
  const linears = await prepareWeights(backend, test);
  try {
    using executable = await backend.compile(test.program, linears, { contextLength: CONTEXT, maxSequences });
    return await body(executable, linears);
  } finally {
    for (const linear of linears) linear[Symbol.dispose]();
  }
}

/** Steps on one sequence of the decoder. */
export interface Bench {
  readonly executable: Executable;
  readonly one: ProgramCase;
  /** Feeds tokens; all rows are wanted. */
  feed(id: SequenceId, tokens: readonly number[], more?: Partial<StepSequence>): Promise<Float32Array>;
  /** Throws ERR_CONFORMANCE unless two batches gave the same rows. */
  same(what: string, got: ArrayLike<number>, expected: ArrayLike<number>): void;
}

async function onDecoder(context: SuiteContext, body: (bench: Bench) => Promise<void>, maxSequences?: number): Promise<unknown> {
  const subject = await context.backend();
  const one = decoderCase();
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  await withProgram(
    subject,
    one.test,
    (executable) =>
      body({
        executable,
        one,
        async feed(id, tokens, more = {}) {
          const { logits } = await executable.step([
            { id, tokens: Uint32Array.from(tokens), wanted: Uint32Array.from(tokens.keys()), ...more },
          ]);
          return toFloat32(logits!).slice();
        },
        same: (what, got, expected) => checkClose(what, got, expected, context.tolerances.batch),
      }),
    maxSequences,
  );
}

/** A case on the decoder of the tests, which can hold `maxSequences`. */
export function decoderStep(context: SuiteContext, name: string, body: (bench: Bench) => Promise<void>, maxSequences?: number): Case {
  return { group: 'sequences', name, run: () => onDecoder(context, body, maxSequences) };
}
