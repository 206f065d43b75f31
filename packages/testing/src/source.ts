// Conformance of a tensor source: whole tensors and ranges, whatever else is being read, and what it refuses.

import { DTYPE_BYTES, elementCount, type HostTensor, isLowbitError, quote, type TensorSource } from '@lowbit/core';
import { type Case, check, checkThrows, registerCases, type TestRunner } from './kit.ts';
import { seeded, seededTensor } from './random.ts';

/** An opened source. */
export interface SourceSubject {
  readonly source: TensorSource;
  /** What it must hold, all of it. Default `sampleTensors()`. */
  readonly tensors?: Readonly<Record<string, HostTensor>>;
}

/** Small tensors of several dtypes and shapes, a scalar and an empty one among them: what sources and sinks are tried with. */
export function sampleTensors(): Readonly<Record<string, HostTensor>> {
  const next = seeded(7);
  const bytes = (count: number) => Uint8Array.from({ length: count }, () => Math.floor(next() * 256));
  return {
    'model.embed.weight': seededTensor(1, [37, 16]),
    'model.layers.0.q.weight': { dtype: 'bf16', shape: [12, 20], data: bytes(480) },
    'model.layers.0.q.codes': { dtype: 'u8', shape: [333], data: bytes(333) },
    scalar: { dtype: 'f32', shape: [], data: bytes(4) },
    none: { dtype: 'f16', shape: [0, 4], data: new Uint8Array(0) },
    'last.offsets': { dtype: 'i64', shape: [5], data: bytes(40) },
  };
}

/** Throws ERR_CONFORMANCE unless the tensors are the same. */
export function checkTensor(what: string, got: HostTensor, expected: HostTensor): void {
  const spec = ({ dtype, shape }: HostTensor): string => `${dtype} [${shape.join(', ')}]`;
  check(spec(got) === spec(expected), `${what} is ${spec(got)}, expected ${spec(expected)}`);
  check(got.data.byteLength === expected.data.byteLength, `${what} has ${got.data.byteLength} bytes, expected ${expected.data.byteLength}`);
  const at = expected.data.findIndex((byte, i) => byte !== got.data[i]);
  check(at < 0, `byte ${at} of ${what} is ${got.data[at]}, expected ${expected.data[at]}`);
}

/** Elements [from, to) of a tensor, as a source must give them. */
function slice({ dtype, data }: HostTensor, from: number, to: number): HostTensor {
  return { dtype, shape: [to - from], data: data.subarray(from * DTYPE_BYTES[dtype], to * DTYPE_BYTES[dtype]) };
}

/** Ranges of `count` elements in uneven steps, one empty and the whole among them. */
function ranges(count: number): (readonly [from: number, to: number])[] {
  const list: (readonly [number, number])[] = [
    [0, count],
    [count, count],
  ];
  for (let from = 0, step = 1; from < count; from += step, step = (step * 3) % 50 || 7) list.push([from, Math.min(count, from + step)]);
  return list;
}

/** The cases, for any way of running them. `make` opens a source; the case that it is made for disposes it. */
export function sourceCases(make: () => Promise<SourceSubject>): readonly Case[] {
  const on = (name: string, body: (source: TensorSource, tensors: Readonly<Record<string, HostTensor>>) => Promise<void>): Case => ({
    group: 'tensors',
    name,
    async run() {
      const { source, tensors = sampleTensors() } = await make();
      try {
        await body(source, tensors);
      } finally {
        await source[Symbol.asyncDispose]();
      }
    },
  });
  return [
    on('lists every tensor with its dtype and shape', async (source, tensors) => {
      check(source.label.length > 0, 'the label is empty');
      const list = (all: Iterable<readonly [string, { readonly dtype: string; readonly shape: readonly number[] }]>): string =>
        [...all]
          .map(([name, { dtype, shape }]) => `${name} ${dtype} [${shape.join(', ')}]`)
          .sort()
          .join('; ');
      const [got, expected] = [list(source.entries), list(Object.entries(tensors))];
      check(got === expected, `entries are ${got}, expected ${expected}`);
    }),
    on('reads whole tensors', async (source, tensors) => {
      for (const [name, tensor] of Object.entries(tensors)) checkTensor(quote(name), await source.read(name), tensor);
    }),
    on('reads ranges of elements, one-dimensional', async (source, tensors) => {
      for (const [name, tensor] of Object.entries(tensors)) {
        for (const [from, to] of ranges(elementCount(tensor.shape))) {
          checkTensor(`${quote(name)} ${from} .. ${to}`, await source.read(name, { range: [from, to] }), slice(tensor, from, to));
        }
      }
    }),
    on('reads many at once', async (source, tensors) => {
      await Promise.all(
        Object.entries(tensors).flatMap(([name, tensor]) =>
          ranges(elementCount(tensor.shape)).map(async ([from, to]) => {
            checkTensor(`${quote(name)} ${from} .. ${to}`, await source.read(name, { range: [from, to] }), slice(tensor, from, to));
          }),
        ),
      );
    }),
    on('refuses tensors and elements that are not there', async (source, tensors) => {
      await checkThrows('an unknown tensor', 'ERR_TENSOR_MISMATCH', () => source.read('no such tensor'));
      for (const [name, { shape }] of Object.entries(tensors)) {
        const count = elementCount(shape);
        for (const range of [
          [0, count + 1],
          [-1, 0],
          [1, 0],
          [0, 0.5],
          [Number.NaN, 0],
        ] as const) {
          await checkThrows(`elements ${range.join(' .. ')} of ${quote(name)}`, 'ERR_BAD_ARGUMENT', () => source.read(name, { range }));
        }
      }
    }),
    on('stops when aborted', async (source, tensors) => {
      const reason = Object.assign(new Error('stop'), { code: 'ERR_TEST_ABORT' });
      const [name] = Object.keys(tensors);
      await checkThrows('an aborted read', 'ERR_TEST_ABORT', () => source.read(name!, { signal: AbortSignal.abort(reason) }));
    }),
    on('reads nothing once disposed, which may be done twice', async (source, tensors) => {
      await source[Symbol.asyncDispose]();
      await source[Symbol.asyncDispose]();
      for (const name of Object.keys(tensors)) {
        const error = await source.read(name).then(
          () => undefined,
          (reason: unknown) => reason,
        );
        check(
          isLowbitError(error, 'ERR_DISPOSED'),
          `reading ${quote(name)} after disposal must throw ERR_DISPOSED, threw ${error ?? 'nothing'}`,
        );
      }
    }),
  ];
}

/**
 * Registers the conformance cases of a tensor source.
 *
 * @example
 * sourceConformance('my source', async () => ({ source: await openMine(folderOf(sampleTensors())) }), { describe, it });
 */
export function sourceConformance(name: string, make: () => Promise<SourceSubject>, runner: TestRunner): void {
  registerCases(`source '${name}'`, sourceCases(make), runner);
}
