import { memorySource, type TensorSink, type TensorSource } from '@lowbit/core';
import { runCases, type SinkSubject, sampleTensors, sinkCases, sourceCases } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { memorySink } from './memory-sink.ts';

/** A sink in memory with something wrong. */
function faulty(change: (sink: TensorSink) => Partial<TensorSink>, early = false): () => Promise<SinkSubject> {
  return async () => {
    const sink = memorySink();
    let closed = early;
    const close = async () => {
      await sink.close();
      closed = true;
    };
    return {
      sink: { ...sink, close, ...change({ ...sink, close }) },
      open: async () => memorySource(closed ? Object.fromEntries(sink.tensors) : {}),
    };
  };
}

const reasons = async (cases: Parameters<typeof runCases>[0]): Promise<string> =>
  (await runCases(cases)).flatMap(({ outcome, name, reason }) => (outcome === 'failed' ? [`${name}: ${reason}`] : [])).join('\n');

describe('a faulty sink fails the kit', () => {
  it('and a right one passes', async () => {
    expect(await reasons(sinkCases(faulty(() => ({}))))).toBe('');
  });

  it.each<[string, () => Promise<SinkSubject>, RegExp]>([
    [
      'that loses elements',
      faulty((sink) => ({ write: (name, at, data) => sink.write(name, at, at === 0 ? data : new Uint8Array(data.byteLength)) })),
      /takes pieces in any order.*: byte \d+ of/,
    ],
    [
      'that keeps the buffers it is given',
      faulty((sink) => {
        const waiting: (() => Promise<void>)[] = [];
        return {
          write: async (name, at, data) => void waiting.push(() => sink.write(name, at, data)),
          close: async () => {
            for (const write of waiting) await write();
            await sink.close();
          },
        };
      }),
      /has taken the bytes over/,
    ],
    ['whose result is there too early', faulty(() => ({}), true), /before close the result can be opened/],
    [
      'that closes incomplete',
      faulty(() => ({ close: async () => {} })),
      /closing without one piece must throw ERR_BAD_ARGUMENT, threw nothing/,
    ],
    ['that forgets units', faulty(() => ({ commit: async () => {} })), /unit 0 is not done/],
  ])('%s', async (_, make, reason) => {
    expect(await reasons(sinkCases(make))).toMatch(reason);
  });
});

describe('a faulty source fails the kit', () => {
  const source = (change: (source: TensorSource) => Partial<TensorSource>) => async () => {
    const inner = memorySource(sampleTensors());
    return { source: { ...inner, ...change(inner) } };
  };

  it('and a right one passes', async () => {
    expect(await reasons(sourceCases(source(() => ({}))))).toBe('');
  });

  it.each<[string, (source: TensorSource) => Partial<TensorSource>, RegExp]>([
    ['that ignores ranges', (inner) => ({ read: (name) => inner.read(name) }), /reads ranges.* is f32 \[37, 16\], expected/],
    [
      'that keeps shapes',
      (inner) => ({ read: async (name, options) => ({ ...(await inner.read(name, options)), shape: inner.entries.get(name)!.shape }) }),
      /reads ranges/,
    ],
    [
      'that goes on after an abort',
      (inner) => ({ read: (name, options) => inner.read(name, { ...options, signal: undefined }) }),
      /ERR_TEST_ABORT/,
    ],
    ['that outlives its disposal', () => ({ [Symbol.asyncDispose]: async () => {} }), /must throw ERR_DISPOSED, threw nothing/],
  ])('%s', async (_, change, reason) => {
    expect(await reasons(sourceCases(source(change)))).toMatch(reason);
  });
});
