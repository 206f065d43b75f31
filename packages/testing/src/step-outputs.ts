// What a step gives back: the rows and outputs that were asked for, whole or their largest numbers.

import { elements, largestOfRows, type StepOptions, toFloat32 } from '@lowbit/core';
import type { SuiteContext } from './backend.ts';
import { type Case, check, checkThrows } from './kit.ts';
import { type Bench, decoderStep } from './step-bench.ts';

export function outputCases(context: SuiteContext): readonly Case[] {
  return [
    decoderStep(context, 'wanted rows', givesWantedRows),
    decoderStep(context, 'only the outputs asked for are read back', readsOutputsAskedFor),
    decoderStep(context, 'the largest numbers of an output in place of its rows', givesLargest),
  ];
}

async function givesWantedRows({ executable, feed, one, same }: Bench): Promise<void> {
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
}

async function readsOutputsAskedFor({ executable, one, same }: Bench): Promise<void> {
  const names = Object.keys(one.test.program.outputs).sort();
  const step = { tokens: Uint32Array.of(1, 2, 3) };
  const all = await executable.step([{ ...step, id: executable.open() }]);
  check(Object.keys(all).sort().join() === names.join(), `all outputs by default, got ${Object.keys(all).join()}`);
  for (const outputs of [['logits'], names.slice(0, 1), names, []]) {
    const id = executable.open();
    const some = await executable.step([{ ...step, id }], { outputs });
    check(Object.keys(some).sort().join() === outputs.join(), `asked for [${outputs}], got [${Object.keys(some).join()}]`);
    for (const name of outputs) same(name, toFloat32(some[name]!), toFloat32(all[name]!));
    await checkThrows('an unknown output', 'ERR_BAD_ARGUMENT', () => executable.step([{ ...step, id }], { outputs: ['logits', 'nobody'] }));
    check(executable.length(id) === 3, `length is ${executable.length(id)} after 3 tokens`);
    executable.close(id);
  }
}

async function givesLargest({ executable, one, same }: Bench): Promise<void> {
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
    for (const { shape } of [got.logits!, ids]) check(shape.join() === `2,${columns}`, `the largest ${count} are [${shape.join()}]`);
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
}
