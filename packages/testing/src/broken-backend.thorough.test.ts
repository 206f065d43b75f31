// The kit is only worth something if wrong backends fail it: each of these differs from the reference in one way.

import { type Backend, type BackendProvider, type Op, type Program, referenceBackend, type StepOptions } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { backendCases } from './backend.ts';
import { type Outcome, runCases } from './kit.ts';

/** The reference with some methods replaced. */
function altered(change: (backend: Backend) => Partial<Backend>): BackendProvider {
  const provider = referenceBackend();
  return {
    ...provider,
    name: 'altered',
    open: async () => {
      const backend = await provider.open();
      const changes = change(backend);
      return new Proxy(backend, {
        get(target, key) {
          const own = key in changes ? changes[key as keyof Backend] : undefined;
          const value = own ?? target[key as keyof Backend];
          return typeof value === 'function' && own === undefined ? value.bind(target) : value;
        },
      });
    },
  };
}

/** A backend that runs other operations than it was given. */
const misreading = (change: (op: Op) => Op): BackendProvider =>
  altered((backend) => ({
    compile: (program: Program, linears, options) => backend.compile({ ...program, ops: program.ops.map(change) }, linears, options),
  }));

/** Failed cases, of the groups that match. */
async function failures(provider: BackendProvider, groups = /./): Promise<readonly Outcome[]> {
  const cases = backendCases(provider).filter(({ group }) => groups.test(group));
  return (await runCases(cases)).filter(({ outcome }) => outcome === 'failed');
}

describe('a broken backend fails the kit', () => {
  it('passes as the reference with nothing changed', async () => {
    expect(await failures(altered(() => ({})))).toEqual([]);
  });

  it.each<[string, RegExp, (op: Op) => Op]>([
    [
      'a window one too long',
      /window|decoder/,
      (op) => (op.op === 'attend' && op.window !== undefined ? { ...op, window: op.window + 1 } : op),
    ],
    ['interleaved for half', /rope/, (op) => (op.op === 'rope' ? { ...op, style: 'interleaved' } : op)],
    ['a wrong epsilon', /norm/, (op) => (op.op === 'norm' ? { ...op, eps: op.eps / 10 } : op)],
    ['exact gelu for tanh gelu', /gelu_tanh/, (op) => (op.op === 'activate' && op.kind === 'gelu_tanh' ? { ...op, kind: 'gelu' } : op)],
    ['no softcap', /softcap/, (op) => (op.op === 'attend' && op.softcap ? { ...op, softcap: 1e6 } : op)],
    ['a forgotten weight offset', /1 \+ weight/, (op) => (op.op === 'norm' ? { ...op, weightOffset: 0 } : op)],
    ['normalised router weights', /route sigmoid/, (op) => (op.op === 'route' ? { ...op, normalize: true } : op)],
    ['a position offset off by one', /positionEmbed/, (op) => (op.op === 'positionEmbed' ? { ...op, offset: op.offset - 1 } : op)],
    [
      'a bucket more',
      /relative/,
      (op) =>
        op.op === 'attend' && op.bias?.kind === 'relative' ? { ...op, bias: { ...op.bias, maxDistance: op.bias.maxDistance + 3 } } : op,
    ],
  ])('%s', async (_, where, change) => {
    const failed = await failures(misreading(change), /operations/);
    expect(failed.map(({ name }) => name).join('\n')).toMatch(where);
  });

  it('memory that never comes back', async () => {
    const leaking = altered((backend) => {
      let leaked = 0;
      return {
        prepare: async (weight, options) => {
          leaked += 16;
          return backend.prepare(weight, options);
        },
        allocated: () => backend.allocated() + leaked,
      };
    });
    expect((await failures(leaking, /dense f32|lifetime/)).map(({ reason }) => reason).join('\n')).toMatch(/16 bytes are still held/);
  });

  it.each<[string, (options: StepOptions) => StepOptions, readonly string[]]>([
    [
      'outputs that nobody asked for',
      ({ signal, largest }) => ({ signal, largest }),
      ['only the outputs asked for are read back', 'the largest numbers of an output in place of its rows'],
    ],
    [
      'whole rows in place of the largest numbers',
      ({ signal, outputs }) => ({ signal, outputs }),
      ['the largest numbers of an output in place of its rows'],
    ],
  ])('%s', async (_, heard, names) => {
    const deaf = altered((backend) => ({
      compile: async (program, linears, options) => {
        const executable = await backend.compile(program, linears, options);
        const { step } = executable;
        executable.step = (batch, more = {}) => step.call(executable, batch, heard(more));
        return executable;
      },
    }));
    expect((await failures(deaf, /sequences/)).map(({ name }) => name)).toEqual(names);
  });

  it('a refusal without a reason', async () => {
    const silent = altered(() => ({ supports: () => ({ level: 'none', reason: '' }) }));
    expect((await failures(silent)).length).toBeGreaterThan(20);
  });

  it('skips what a backend says it lacks', async () => {
    const weightsOnly = altered(() => ({ ops: new Set<Op['op']>(['linear', 'input', 'select']) }));
    const outcomes = await runCases(backendCases(weightsOnly));
    expect(outcomes.filter(({ outcome }) => outcome === 'failed')).toEqual([]);
    expect(outcomes.find(({ name }) => name === 'attend')).toMatchObject({
      outcome: 'skipped',
      reason: expect.stringContaining('does not run'),
    });
    expect(outcomes.find(({ name }) => name === 'linear')).toMatchObject({ outcome: 'passed' });
  });
});
