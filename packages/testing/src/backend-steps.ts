// Cases about steps: the same rows come out however sequences are batched, chunked, forked or cut, and an unusable batch changes nothing.

import {
  type Backend,
  type Executable,
  elements,
  type HostTensor,
  largestOfRows,
  type QuantizedLinear,
  type SequenceId,
  type StepOptions,
  type StepSequence,
  toFloat32,
} from '@lowbit/core';
import { cutProgram } from '@lowbit/program';
import type { SuiteContext } from './backend.ts';
import { checkClose } from './compare.ts';
import { type Case, check, checkThrows } from './kit.ts';
import {
  alone,
  chunked,
  type Played,
  play,
  prepareWeights,
  type Schedule,
  scriptStep,
  type TestProgram,
  together,
  whyNot,
} from './play.ts';
import { decoderCase, type ProgramCase, programCases } from './programs.ts';

const CONTEXT = 32;

/** Prepares and compiles a program for the length of `body`. */
async function withProgram<T>(
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

/** Steps on one sequence of the decoder. */
interface Bench {
  readonly executable: Executable;
  readonly one: ProgramCase;
  /** Feeds tokens; all rows are wanted. */
  feed(id: SequenceId, tokens: readonly number[], more?: Partial<StepSequence>): Promise<Float32Array>;
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
      }),
    maxSequences,
  );
}

/** Forks, truncation, wanted rows, cuts, and what a step refuses. */
export function stepCases(context: SuiteContext): readonly Case[] {
  const { tolerances } = context;
  const same = (what: string, got: ArrayLike<number>, expected: ArrayLike<number>): void =>
    checkClose(what, got, expected, tolerances.batch);
  const group = 'sequences';
  return [
    {
      group,
      name: 'a fork goes its own way',
      run: () =>
        onDecoder(context, async ({ executable, feed }) => {
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
        }),
    },
    {
      group,
      name: 'truncating forgets',
      run: () =>
        onDecoder(context, async ({ executable, feed }) => {
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
        }),
    },
    {
      group,
      name: 'wanted rows',
      run: () =>
        onDecoder(context, async ({ executable, feed, one }) => {
          const all = await feed(executable.open(), [1, 2, 3, 4]);
          const width = all.length / 4;
          const vocab = one.test.program.tensors[one.test.program.outputs.logits!]!.width;
          check(width === vocab, `rows of ${width}`);
          const some = await feed(executable.open(), [1, 2, 3, 4], { wanted: Uint32Array.of(0, 2) });
          same('rows 0 and 2', some, [...all.subarray(0, width), ...all.subarray(2 * width, 3 * width)]);
          const id = executable.open();
          const none = await feed(id, [1, 2, 3], { wanted: new Uint32Array(0) });
          check(none.length === 0, `no rows are wanted, got ${none.length} numbers`);
          const { logits } = await executable.step([{ id, tokens: Uint32Array.of(4) }]);
          same('the last row by default', toFloat32(logits!), all.subarray(3 * width));
        }),
    },
    {
      group,
      name: 'only the outputs asked for are read back',
      run: () =>
        onDecoder(context, async ({ executable, one }) => {
          const names = Object.keys(one.test.program.outputs).sort();
          const step = { tokens: Uint32Array.of(1, 2, 3) };
          const all = await executable.step([{ ...step, id: executable.open() }]);
          check(Object.keys(all).sort().join() === names.join(), `all outputs by default, got ${Object.keys(all).join()}`);
          for (const outputs of [['logits'], names.slice(0, 1), names, []]) {
            const id = executable.open();
            const some = await executable.step([{ ...step, id }], { outputs });
            check(Object.keys(some).sort().join() === outputs.join(), `asked for [${outputs}], got [${Object.keys(some).join()}]`);
            for (const name of outputs) same(name, toFloat32(some[name]!), toFloat32(all[name]!));
            await checkThrows('an unknown output', 'ERR_BAD_ARGUMENT', () =>
              executable.step([{ ...step, id }], { outputs: ['logits', 'nobody'] }),
            );
            check(executable.length(id) === 3, `length is ${executable.length(id)} after 3 tokens`);
            executable.close(id);
          }
        }),
    },
    {
      group,
      name: 'the largest numbers of an output in place of its rows',
      run: () =>
        onDecoder(context, async ({ executable, one }) => {
          const { width } = one.test.program.tensors[one.test.program.outputs.logits!]!;
          const step = { tokens: Uint32Array.of(1, 2, 3), wanted: Uint32Array.of(0, 2) };
          const outputs = ['logits'];
          const id = executable.open();
          const whole = toFloat32((await executable.step([{ ...step, id }], { outputs })).logits!);
          for (const count of [1, 3, width, width + 5]) {
            executable.truncate(id, 0);
            const got = await executable.step([{ ...step, id }], { outputs, largest: { logits: count } });
            check(Object.keys(got).sort().join() === 'logits,logits.ids', `the largest ${count} are [${Object.keys(got).join()}]`);
            const columns = Math.min(count, width);
            const expected = largestOfRows(whole, width, columns);
            const ids = got['logits.ids']!;
            for (const { shape } of [got.logits!, ids])
              check(shape.join() === `2,${columns}`, `the largest ${count} are [${shape.join()}]`);
            check(ids.dtype === 'i32', `ids are ${ids.dtype}`);
            const places = elements({ dtype: 'i32', data: ids.data });
            check(places.join() === expected.ids.join(), `the largest ${count} are at ${places.join()}, not at ${expected.ids.join()}`);
            same(`the largest ${count}`, toFloat32(got.logits!), expected.values);
          }
          const bad: readonly StepOptions[] = [
            { largest: { nobody: 1 } },
            { outputs: [], largest: { logits: 1 } },
            { largest: { logits: 0 } },
            { largest: { logits: 1.5 } },
          ];
          for (const options of bad) {
            await checkThrows(JSON.stringify(options), 'ERR_BAD_ARGUMENT', () => executable.step([{ ...step, id }], options));
            check(executable.length(id) === 3, `length is ${executable.length(id)} after 3 tokens`);
          }
        }),
    },
    {
      group,
      name: 'an unusable batch is refused and changes nothing',
      run: () =>
        onDecoder(context, async ({ executable, feed }) => {
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
        }),
    },
    {
      group,
      name: 'no more sequences than maxSequences',
      run: () =>
        onDecoder(
          context,
          async ({ executable }) => {
            const ids = [executable.open(), executable.open()];
            await checkThrows('a third', 'ERR_LIMIT', () => executable.open());
            await checkThrows('a fork as a third', 'ERR_LIMIT', () => executable.fork(ids[0]!));
            executable.close(ids[1]!);
            executable.open();
          },
          2,
        ),
    },
    {
      group,
      name: 'an input that is missing, an injection in the wrong place',
      async run() {
        const subject = await context.backend();
        const one = programCases().find(({ name }) => name === 'inject')!;
        const reason = whyNot(subject, one.test);
        if (reason) return reason;
        await withProgram(subject, one.test, async (executable) => {
          const id = executable.open();
          const whole = scriptStep(one.scripts[0]!, id, 0, 6);
          await checkThrows('a missing input', 'ERR_BAD_ARGUMENT', () => executable.step([{ ...whole, inputs: {} }]));
          await checkThrows('an input of too few rows', 'ERR_BAD_ARGUMENT', () =>
            executable.step([{ ...whole, tokens: new Uint32Array(7) }]),
          );
          const { image } = whole.injections!;
          await checkThrows('an injection beyond the tokens', 'ERR_BAD_ARGUMENT', () =>
            executable.step([{ ...whole, injections: { image: { ...image!, at: Uint32Array.of(0, 2, 6) } } }]),
          );
          check(executable.length(id) === 0, `length is ${executable.length(id)}`);
          await executable.step([whole]);
        });
      },
    },
    {
      group,
      name: 'the pieces of a cut program give what the whole gives',
      async run() {
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
              else same(name, toFloat32(tensor), whole[0]![name]!);
            }
          });
        }
      },
    },
  ];
}
