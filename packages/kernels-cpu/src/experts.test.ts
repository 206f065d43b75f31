// Experts: all rows of one expert in a step are one product, as in the reference. Only LLM.int8 can tell, whose rows share their outliers.

import { type Backend, type QuantizedTensor, referenceBackend } from '@lowbit/core';
import { alone, checkClose, chunked, play, programCases, type Schedule, sampleWeight } from '@lowbit/testing';
import { expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { cpu } from './cpu.ts';

it('rows of an expert share their outliers, as the reference has it', async (context) => {
  const probe = await cpu().probe();
  needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
  const one = programCases().find(({ name }) => name === 'experts')!;
  const { program } = one.test;
  const weights = new Map<string, QuantizedTensor>(one.test.weights);
  const routed = new Set(program.ops.flatMap((op) => (op.op === 'expertLinear' ? op.linears : [])));
  for (const id of routed) {
    const { path, shape } = program.linears[id]!;
    weights.set(path, sampleWeight({ kind: 'int8', threshold: 0.5 }, shape, id + 1));
  }
  const run = async (backend: Backend, schedule: Schedule): Promise<readonly number[]> => {
    const linears = [];
    for (const { path } of program.linears) linears.push(await backend.prepare(weights.get(path)!));
    using executable = await backend.compile(program, linears, { contextLength: 32 });
    const [played] = await play(executable, program, one.scripts, schedule);
    for (const linear of linears) linear[Symbol.dispose]();
    return Array.from(Object.values(played!)[0]!);
  };
  const [atOnce, rowByRow] = [alone(one.scripts), chunked(one.scripts, 1)];
  await using reference = await referenceBackend().open();
  await using native = await cpu({ threads: 2 }).open();
  const whole = await run(reference, atOnce);
  const single = await run(reference, rowByRow);
  checkClose('all rows in one step', await run(native, atOnce), whole, 1e-5);
  checkClose('row by row', await run(native, rowByRow), single, 1e-5);
  expect(() => checkClose('the two', single, whole, 1e-5)).toThrow();
});
