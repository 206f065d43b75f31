// Conformance of a tensor sink: the same result for any order of writes, whole or not at all, and what it refuses.

import { byteLength, DTYPE_BYTES, type HostTensor, type Json, type TensorSink, type TensorSource, type TensorSpec } from '@lowbit/core';
import { type Case, check, checkThrows, registerCases, type TestRunner } from './kit.ts';
import { seeded } from './random.ts';
import { checkTensor, sampleTensors } from './source.ts';

/** A sink that nothing was done with, for a new place or name. */
export interface SinkSubject {
  readonly sink: TensorSink;
  /** Opens what `close` has made. Where nothing was closed it rejects, or gives a source without tensors. */
  open(): Promise<TensorSource>;
  /** For sinks that a later run can go on with: disposes this one as an interrupted run does, and opens it again for the same job. */
  again?(): Promise<SinkSubject>;
}

type Tensors = Readonly<Record<string, HostTensor>>;

const LATE = 'state';
const LATE_BYTES = new TextEncoder().encode('{"offset": 0.25}');
const LATE_SPEC: TensorSpec = { dtype: 'u8', shape: [64] };

const specsOf = (tensors: Tensors): Map<string, TensorSpec> =>
  new Map(Object.entries(tensors).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));

/** Pieces of all tensors, shuffled. */
function pieces(tensors: Tensors, seed: number): readonly { readonly name: string; readonly at: number; readonly data: Uint8Array }[] {
  const next = seeded(seed);
  const all = Object.entries(tensors).flatMap(([name, { dtype, data }]) => {
    const width = DTYPE_BYTES[dtype];
    const list: { name: string; at: number; data: Uint8Array }[] = [];
    for (let from = 0; from < data.byteLength; ) {
      const to = Math.min(data.byteLength, from + width * (1 + Math.floor(next() * 40)));
      list.push({ name, at: from / width, data: data.subarray(from, to) });
      from = to;
    }
    return list;
  });
  return all
    .map((piece) => ({ piece, order: next() }))
    .sort((a, b) => a.order - b.order)
    .map(({ piece }) => piece);
}

async function checkResult({ open }: SinkSubject, expected: Tensors): Promise<void> {
  const source = await open();
  try {
    const [got, wanted] = [[...source.entries.keys()].sort().join(), Object.keys(expected).sort().join()];
    check(got === wanted, `the result holds ${got}, expected ${wanted}`);
    for (const [name, tensor] of Object.entries(expected)) checkTensor(name, await source.read(name), tensor);
  } finally {
    await source[Symbol.asyncDispose]();
  }
}

/** Throws ERR_CONFORMANCE if there is something to open. */
async function checkNothing({ open }: SinkSubject, when: string): Promise<void> {
  const source = await open().catch(() => undefined);
  if (source === undefined) return;
  const { size } = source.entries;
  await source[Symbol.asyncDispose]();
  check(size === 0, `${when} the result can be opened, with ${size} tensors`);
}

/** What cases write, and a case on a new sink. */
interface Work {
  readonly tensors: Tensors;
  readonly specs: ReadonlyMap<string, TensorSpec>;
  on(name: string, body: (subject: SinkSubject) => Promise<unknown>): Case;
}

async function writeAll(sink: TensorSink, tensors: Tensors): Promise<void> {
  for (const { name, at, data } of pieces(tensors, 1)) await sink.write(name, at, data);
}

/** The cases, for any way of running them. `make` makes a sink; the case that it is made for disposes it. */
export function sinkCases(make: () => Promise<SinkSubject>): readonly Case[] {
  const tensors = sampleTensors();
  const specs = specsOf(tensors);
  const work = (group: string): Work => ({
    tensors,
    specs,
    on: (name, body) => ({
      group,
      name,
      async run() {
        const subject = await make();
        try {
          return await body(subject);
        } finally {
          await subject.sink[Symbol.asyncDispose]();
        }
      },
    }),
  });
  return [
    ...writingCases(work('writing')),
    ...refusalCases(work('refusals')),
    ...wholenessCases(work('whole or not at all')),
    ...unitCases(work('units of work')),
  ];
}

/** Any order, any number at a time. */
function writingCases({ on, tensors, specs }: Work): readonly Case[] {
  return [
    on('takes pieces in any order, several at once', async (subject) => {
      const { sink } = subject;
      await sink.reserve(specs, { format: 'pt' });
      await Promise.all(pieces(tensors, 2).map(({ name, at, data }) => sink.write(name, at, data)));
      await sink.close();
      await checkResult(subject, tensors);
    }),
    on('has taken the bytes over when a write resolves', async (subject) => {
      const { sink } = subject;
      await sink.reserve(specs, {});
      for (const { name, at, data } of pieces(tensors, 3)) {
        const own = data.slice();
        await sink.write(name, at, own);
        own.fill(0xaa);
      }
      await sink.close();
      await checkResult(subject, tensors);
    }),
    on('the last write of an element counts', async (subject) => {
      const { sink } = subject;
      await sink.reserve(specs, {});
      for (const [name, { data }] of Object.entries(tensors)) await sink.write(name, 0, new Uint8Array(data.byteLength).fill(0x55));
      await writeAll(sink, tensors);
      await sink.close();
      await checkResult(subject, tensors);
    }),
    on('gives late tensors the length of their bytes', async (subject) => {
      const { sink } = subject;
      await sink.reserve(new Map([[LATE, LATE_SPEC], ...specs]), {}, new Set([LATE]));
      await writeAll(sink, tensors);
      await checkThrows('closing without the late tensor', 'ERR_BAD_ARGUMENT', () => sink.close());
      await checkThrows('a late tensor from element 1', 'ERR_BAD_ARGUMENT', () => sink.write(LATE, 1, LATE_BYTES));
      await checkThrows('a late tensor larger than reserved', 'ERR_BAD_ARGUMENT', () => sink.write(LATE, 0, new Uint8Array(65)));
      const own = LATE_BYTES.slice();
      await sink.write(LATE, 0, own);
      own.fill(0);
      await sink.close();
      await checkResult(subject, { ...tensors, [LATE]: { dtype: 'u8', shape: [LATE_BYTES.length], data: LATE_BYTES } });
    }),
  ];
}

/** What is refused, and changes nothing. */
function refusalCases({ on, tensors, specs }: Work): readonly Case[] {
  return [
    on('calls in a wrong order', async ({ sink }) => {
      await checkThrows('a write before reserve', 'ERR_BAD_ARGUMENT', () => sink.write('scalar', 0, new Uint8Array(4)));
      await checkThrows('a commit before reserve', 'ERR_BAD_ARGUMENT', () => sink.commit('a', null));
      await checkThrows('close before reserve', 'ERR_BAD_ARGUMENT', () => sink.close());
      await sink.reserve(specs, {});
      await checkThrows('a second reserve', 'ERR_BAD_ARGUMENT', () => sink.reserve(specs, {}));
    }),
    on('late tensors that are no bytes', async ({ sink }) => {
      const late = new Map<string, TensorSpec>([[LATE, { dtype: 'f32', shape: [4] }]]);
      await checkThrows('a late tensor of f32', 'ERR_BAD_ARGUMENT', () => sink.reserve(late, {}, new Set([LATE])));
    }),
    on('tensors and elements that were not reserved', async (subject) => {
      const { sink } = subject;
      await sink.reserve(specs, {});
      await checkThrows('an unknown tensor', 'ERR_TENSOR_MISMATCH', () => sink.write('no such tensor', 0, new Uint8Array(1)));
      for (const [name, spec] of specs) {
        const width = DTYPE_BYTES[spec.dtype];
        const bytes = byteLength(spec);
        for (const [at, count] of [
          [0, bytes + width],
          [bytes / width, width],
          [-1, width],
          [0.5, width],
          [2 ** 53, width],
          ...(width > 1 ? [[0, width - 1] as const] : []),
        ] as const) {
          await checkThrows(`${count} bytes from element ${at} of ${name}`, 'ERR_BAD_ARGUMENT', () =>
            sink.write(name, at, new Uint8Array(count)),
          );
        }
      }
      await writeAll(sink, tensors); // nothing of it was written
      await sink.close();
      await checkResult(subject, tensors);
    }),
  ];
}

/** A result is there when it is closed, and before that nothing. */
function wholenessCases({ on, tensors, specs }: Work): readonly Case[] {
  return [
    on('does not close before all is written, and goes on then', async (subject) => {
      const { sink } = subject;
      await sink.reserve(specs, {});
      const all = pieces(tensors, 4);
      for (const { name, at, data } of all.slice(1)) await sink.write(name, at, data);
      await checkThrows('closing without one piece', 'ERR_BAD_ARGUMENT', () => sink.close());
      await checkNothing(subject, 'before close');
      const { name, at, data } = all[0]!;
      await sink.write(name, at, data);
      await sink.close();
      await checkResult(subject, tensors);
    }),
    on('leaves nothing that looks whole when disposed without close', async (subject) => {
      const { sink } = subject;
      await sink.reserve(specs, {});
      await writeAll(sink, tensors);
      await sink[Symbol.asyncDispose]();
      await checkNothing(subject, 'after disposal without close');
    }),
    on('takes nothing once closed or disposed', async ({ sink }) => {
      await sink.reserve(specs, {});
      await writeAll(sink, tensors);
      await sink.close();
      const after = async (when: string): Promise<void> => {
        await checkThrows(`a write ${when}`, 'ERR_DISPOSED', () => sink.write('scalar', 0, new Uint8Array(4)));
        await checkThrows(`a commit ${when}`, 'ERR_DISPOSED', () => sink.commit('a', null));
      };
      await after('after close');
      await sink[Symbol.asyncDispose]();
      await sink[Symbol.asyncDispose]();
      await after('after disposal');
    }),
  ];
}

/** What is committed is durable. */
function unitCases({ on, tensors, specs }: Work): readonly Case[] {
  return [
    on('are done when their commit resolves, many at once', async ({ sink }) => {
      await sink.reserve(specs, {});
      check(sink.done.size === 0, `a new sink has ${sink.done.size} units done`);
      const note = (i: number): Json => ({ error: i / 3, list: [i, null, 'x'] });
      await Promise.all(
        Array.from({ length: 40 }, async (_, i) => {
          await sink.commit(`unit ${i}`, note(i));
          check(sink.done.has(`unit ${i}`), `unit ${i} is not done though its commit has resolved`);
        }),
      );
      for (let i = 0; i < 40; i++)
        check(JSON.stringify(sink.done.get(`unit ${i}`)) === JSON.stringify(note(i)), `unit ${i} has another note`);
    }),
    on('and what they wrote are there in the next run', async (subject) => {
      if (!subject.again) return 'runs cannot be resumed';
      const { sink } = subject;
      const [early, later] = [pieces(tensors, 5).slice(0, 20), pieces(tensors, 5).slice(20)];
      await sink.reserve(specs, {});
      for (const { name, at, data } of early) await sink.write(name, at, data);
      await sink.commit('early', { pieces: early.length });
      const next = await subject.again();
      try {
        check(
          JSON.stringify([...next.sink.done]) === JSON.stringify([['early', { pieces: early.length }]]),
          'the committed unit is not done',
        );
        await next.sink.reserve(specs, {});
        for (const { name, at, data } of later) await next.sink.write(name, at, data);
        await next.sink.close();
        await checkResult(next, tensors);
      } finally {
        await next.sink[Symbol.asyncDispose]();
      }
    }),
  ];
}

/**
 * Registers the conformance cases of a tensor sink.
 *
 * @example
 * sinkConformance('my sink', async () => { const sink = await createMine(); return { sink, open: () => openMine(sink.path) }; }, { describe, it });
 */
export function sinkConformance(name: string, make: () => Promise<SinkSubject>, runner: TestRunner): void {
  registerCases(`sink '${name}'`, sinkCases(make), runner);
}
