// Every operation against the reference backend, and the same rows however sequences are batched and chunked.

import type { SuiteContext } from './backend.ts';
import { checkClose } from './compare.ts';
import type { Case } from './kit.ts';
import { alone, chunked, type Played, play, type Schedule, together, whyNot } from './play.ts';
import { programCases } from './programs.ts';
import { withProgram } from './step-bench.ts';

function checkPlayed(what: string, got: Played, expected: Played, tolerance: number): void {
  for (const [i, outputs] of expected.entries()) {
    for (const [name, rows] of Object.entries(outputs))
      checkClose(`${what}: ${name} of sequence ${i}`, got[i]![name] ?? [], rows, tolerance);
  }
}

/** Every operation against the reference, and the same rows from other schedules. */
export function operationCases({ backend, reference, tolerances }: SuiteContext): readonly Case[] {
  return programCases().map((one) => ({
    group: 'operations',
    name: one.name,
    async run() {
      const subject = await backend();
      const reason = whyNot(subject, one.test);
      if (reason) return reason;
      const { program } = one.test;
      const expected = await withProgram(await reference(), one.test, (executable) =>
        play(executable, program, one.scripts, alone(one.scripts)),
      );
      await withProgram(subject, one.test, async (executable) => {
        const run = (schedule: Schedule): Promise<Played> => play(executable, program, one.scripts, schedule);
        const single = await run(alone(one.scripts));
        checkPlayed('alone', single, expected, tolerances[one.tolerance]);
        const others: [string, Schedule][] = [
          ['in one step', together(one.scripts)],
          ['in one step, last first', together(one.scripts, { reversed: true })],
        ];
        if (!one.whole) others.push(['token by token', chunked(one.scripts, 1)], ['in chunks of 4', chunked(one.scripts, 4)]);
        for (const [name, schedule] of others) checkPlayed(name, await run(schedule), single, tolerances.batch);
      });
    },
  }));
}
