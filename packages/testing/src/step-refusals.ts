// What a step refuses, whole: nothing has changed afterwards.

import type { HostTensor, StepSequence } from '@lowbit/core';
import type { SuiteContext } from './backend.ts';
import { type Case, check, checkThrows } from './kit.ts';
import { scriptStep, whyNot } from './play.ts';
import { programCases } from './programs.ts';
import { type Bench, CONTEXT, decoderStep, withProgram } from './step-bench.ts';

export function refusalCases(context: SuiteContext): readonly Case[] {
  return [
    decoderStep(context, 'an unusable batch is refused and changes nothing', refusesUnusableBatches),
    decoderStep(context, 'no more sequences than maxSequences', refusesMoreSequences, 2),
    {
      group: 'sequences',
      name: 'an input that is missing, an injection in the wrong place',
      run: () => refusesInputs(context),
    },
  ];
}

async function refusesUnusableBatches({ executable, feed, same }: Bench): Promise<void> {
  const id = executable.open();
  await feed(id, [1, 2, 3]);
  const cache = executable.memory().cache;
  const closed = executable.open();
  executable.close(closed);
  const good = { id, tokens: Uint32Array.of(4) };
  const row: HostTensor = { dtype: 'f32', shape: [1, 2], data: new Uint8Array(8) };
  const bad: [string, string, readonly StepSequence[]][] = [
    ['an empty batch', 'ERR_BAD_ARGUMENT', []],
    ['a closed sequence', 'ERR_BAD_ARGUMENT', [good, { id: closed, tokens: Uint32Array.of(1) }]],
    ['a sequence twice', 'ERR_BAD_ARGUMENT', [good, good]],
    ['no tokens', 'ERR_BAD_ARGUMENT', [{ id, tokens: new Uint32Array(0) }]],
    ['a token out of the vocabulary', 'ERR_BAD_ARGUMENT', [{ id, tokens: Uint32Array.of(4, 19) }]],
    ['a wanted row that is not there', 'ERR_BAD_ARGUMENT', [{ ...good, wanted: Uint32Array.of(1) }]],
    ['wanted rows out of order', 'ERR_BAD_ARGUMENT', [{ id, tokens: Uint32Array.of(4, 5), wanted: Uint32Array.of(1, 0) }]],
    ['an input that the program does not take', 'ERR_BAD_ARGUMENT', [{ ...good, inputs: { nothing: row } }]],
    ['more tokens than contextLength', 'ERR_LIMIT', [{ id, tokens: new Uint32Array(CONTEXT - 2) }]],
  ];
  for (const [what, code, batch] of bad) {
    await checkThrows(what, code, () => executable.step(batch));
    check(executable.length(id) === 3, `${what}: length is ${executable.length(id)}`);
  }
  await checkThrows('an aborted step', 'ERR_TEST_ABORT', () => {
    const reason = Object.assign(new Error('stop'), { code: 'ERR_TEST_ABORT' });
    return executable.step([good], { signal: AbortSignal.abort(reason) });
  });
  check(executable.memory().cache === cache, `the caches take ${executable.memory().cache} bytes, before ${cache}`);
  const after = await feed(id, [4, 5]);
  const fresh = await feed(executable.open(), [1, 2, 3, 4, 5]);
  same('afterwards', after, fresh.subarray(-after.length));
}

/** Where there is room for two. */
async function refusesMoreSequences({ executable }: Bench): Promise<void> {
  const ids = [executable.open(), executable.open()];
  await checkThrows('a third', 'ERR_LIMIT', () => executable.open());
  await checkThrows('a fork as a third', 'ERR_LIMIT', () => executable.fork(ids[0]!));
  executable.close(ids[1]!);
  executable.open();
}

async function refusesInputs(context: SuiteContext): Promise<unknown> {
  const subject = await context.backend();
  const one = programCases().find(({ name }) => name === 'inject')!;
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  await withProgram(subject, one.test, async (executable) => {
    const id = executable.open();
    const whole = scriptStep(one.scripts[0]!, id, 0, 6);
    await checkThrows('a missing input', 'ERR_BAD_ARGUMENT', () => executable.step([{ ...whole, inputs: {} }]));
    await checkThrows('an input of too few rows', 'ERR_BAD_ARGUMENT', () => executable.step([{ ...whole, tokens: new Uint32Array(7) }]));
    const { image } = whole.injections!;
    await checkThrows('an injection beyond the tokens', 'ERR_BAD_ARGUMENT', () =>
      executable.step([{ ...whole, injections: { image: { ...image!, at: Uint32Array.of(0, 2, 6) } } }]),
    );
    check(executable.length(id) === 0, `length is ${executable.length(id)}`);
    await executable.step([whole]);
  });
}
