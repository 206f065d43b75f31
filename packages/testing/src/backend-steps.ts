// Cases about steps: the same rows come out however sequences are forked or cut, what is asked for is given, and an unusable batch changes nothing.

import { type HostTensor, toFloat32 } from '@lowbit/core';
import { cutProgram } from '@lowbit/program';
import type { SuiteContext } from './backend.ts';
import { checkClose } from './compare.ts';
import { type Case, check, checkThrows } from './kit.ts';
import { alone, play, scriptStep, whyNot } from './play.ts';
import { decoderCase } from './programs.ts';
import { type Bench, decoderStep, withProgram } from './step-bench.ts';
import { outputCases } from './step-outputs.ts';
import { refusalCases } from './step-refusals.ts';

/** Forks, truncation, wanted rows, cuts, and what a step refuses. */
export function stepCases(context: SuiteContext): readonly Case[] {
  return [
    decoderStep(context, 'a fork goes its own way', forkGoesItsOwnWay),
    decoderStep(context, 'truncating forgets', truncatingForgets),
    ...outputCases(context),
    ...refusalCases(context),
    { group: 'sequences', name: 'the pieces of a cut program give what the whole gives', run: () => piecesGiveTheWhole(context) },
  ];
}

async function forkGoesItsOwnWay({ executable, feed, same }: Bench): Promise<void> {
  const first = executable.open();
  await feed(first, [1, 2, 3, 4]);
  const second = executable.fork(first);
  check(executable.length(second) === 4, `a fork of 4 tokens has ${executable.length(second)}`);
  const a = await feed(first, [5, 6]);
  const b = await feed(second, [7, 8]);
  const fresh = executable.open();
  same('the original', a, (await feed(fresh, [1, 2, 3, 4, 5, 6])).subarray(-a.length));
  const other = executable.open();
  same('the fork', b, (await feed(other, [1, 2, 3, 4, 7, 8])).subarray(-b.length));
  const held = executable.memory().cache;
  const short = executable.fork(second, 3);
  check(executable.length(short) === 3, `a fork of 3 of 6 tokens has ${executable.length(short)}`);
  check(executable.memory().cache - held < held, 'a fork of 3 tokens takes as much as the rest together');
  same('a fork of the first tokens', await feed(short, [9]), (await feed(executable.open(), [1, 2, 3, 9])).subarray(-a.length / 2));
  for (const length of [7, -1, 1.5])
    await checkThrows(`a fork of ${length} tokens`, 'ERR_BAD_ARGUMENT', () => executable.fork(second, length));
  executable.close(first);
  same('the fork after closing the original', await feed(second, [9]), await feed(other, [9]));
}

async function truncatingForgets({ executable, feed, same }: Bench): Promise<void> {
  const id = executable.open();
  await feed(id, [1, 2, 3, 9, 9, 9]);
  executable.truncate(id, 3);
  check(executable.length(id) === 3, `length is ${executable.length(id)} after truncating to 3`);
  const again = await feed(id, [4, 5]);
  const fresh = executable.open();
  same('after truncating', again, (await feed(fresh, [1, 2, 3, 4, 5])).subarray(-again.length));
  executable.truncate(id, 0);
  same('from the start', await feed(id, [1, 2]), await feed(executable.open(), [1, 2]));
  await checkThrows('truncating to more than there is', 'ERR_BAD_ARGUMENT', () => executable.truncate(id, 3));
}

async function piecesGiveTheWhole(context: SuiteContext): Promise<unknown> {
  const subject = await context.backend();
  const one = decoderCase();
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  const script = one.scripts[0]!;
  const whole = await withProgram(subject, one.test, (executable) => play(executable, one.test.program, [script], alone([script])));
  const carried: Record<string, HostTensor> = {};
  for (const { program, takes, gives } of cutProgram(one.test.program, [1, 1])) {
    await withProgram(subject, { program, weights: one.test.weights }, async (executable) => {
      const inputs = Object.fromEntries(takes.map((name) => [name, carried[name]!]));
      const outputs = await executable.step([{ ...scriptStep(script, executable.open(), 0, script.tokens.length), inputs }]);
      for (const [name, tensor] of Object.entries(outputs)) {
        if (gives.includes(name)) carried[name] = tensor;
        else checkClose(name, toFloat32(tensor), whole[0]![name]!, context.tolerances.batch);
      }
    });
  }
}
