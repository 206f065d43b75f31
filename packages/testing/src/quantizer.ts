// Conformance of a quantizer: what it writes is what its format announces, the same whatever the memory it is given, and honest about its error.

import {
  byteLength,
  castFloat,
  codecFor,
  DTYPE_BYTES,
  type DType,
  elementCount,
  type Format,
  type FormatCodec,
  type HostTensor,
  isLowbitError,
  type Matrix,
  memoryReader,
  type PartWriter,
  type QuantizeContext,
  type QuantizedTensor,
  type Quantizer,
  type Routine,
  toFloat32,
  type WeightError,
} from '@lowbit/core';
import { type Case, check, checkJson, checkThrows, registerCases, type TestRunner } from './kit.ts';
import { inProcessPool } from './pool.ts';
import { seededTensor } from './random.ts';

/** Of `quantizerConformance`. */
export interface QuantizerConformanceOptions {
  /** Shapes it must take; default [64, 128] and [40, 256]. */
  readonly shapes?: readonly Matrix[];
  /** Codecs of its formats, where they are a third party's. */
  readonly codecs?: readonly FormatCodec[];
  /** Most that the root mean square error may be, as a share of the weight's; default 0.6. */
  readonly worstError?: number;
  /** Byte budgets that must give the same bytes; default 1 MiB, 64 KiB and no limit. */
  readonly budgets?: readonly number[];
  /** What the module of `Quantizer.worker` serves; needed to try the method with workers. */
  readonly routines?: Readonly<Record<string, Routine>>;
  /** The same method with other settings, each of which changes the bytes: their identities must differ. Default none. */
  readonly others?: readonly Quantizer[];
}

/** Weights that are worth a thread, and several. */
const SEVERAL: Matrix = [64, 1024];
const LARGE: Matrix = [256, 2048];

/** A writer that counts how often each element was written. */
function countingWriter(specs: Readonly<Record<string, { readonly dtype: DType; readonly shape: readonly number[] }>>): {
  readonly writer: PartWriter;
  readonly parts: Readonly<Record<string, HostTensor>>;
  readonly counts: Readonly<Record<string, Uint8Array>>;
} {
  const parts = Object.fromEntries(
    Object.entries(specs).map(([name, spec]) => [name, { ...spec, data: new Uint8Array(byteLength(spec)) }]),
  );
  const counts = Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, new Uint8Array(elementCount(spec.shape))]));
  const writer: PartWriter = {
    async write(part, at, data) {
      const target = parts[part];
      check(target !== undefined, `wrote part '${part}', which the format does not have`);
      const width = DTYPE_BYTES[target.dtype];
      const count = data.byteLength / width;
      check(Number.isInteger(count), `wrote ${data.byteLength} bytes of ${part}: no whole elements of ${target.dtype}`);
      check(
        at >= 0 && at + count <= counts[part]!.length,
        `wrote elements ${at} .. ${at + count} of ${part}, which has ${counts[part]!.length}`,
      );
      target.data.set(data, at * width);
      for (let i = at; i < at + count; i++) counts[part]![i]!++;
    },
  };
  return { writer, parts, counts };
}

interface Run {
  readonly quantized: QuantizedTensor;
  readonly error: WeightError;
  readonly announced: number;
}

async function run(
  quantizer: Quantizer,
  weight: HostTensor,
  format: Format,
  codecs: readonly FormatCodec[],
  context: QuantizeContext,
): Promise<Run> {
  const shape = weight.shape as Matrix;
  const { writer, parts, counts } = countingWriter(codecFor(format, codecs).parts(format, shape));
  let announced = 0;
  const error = await quantizer.quantize(memoryReader('weight', weight), format, writer, {
    ...context,
    onWeights: (count) => {
      announced += count;
    },
  });
  for (const [part, list] of Object.entries(counts)) {
    const wrong = list.findIndex((count) => count !== 1);
    check(wrong < 0, `element ${wrong} of ${part} was written ${list[wrong]} times`);
  }
  return { quantized: { format, shape, parts }, error, announced };
}

/** Checks the reported error against what the codec makes of the parts. Gives the root mean square error as a share of the weight's. */
function checkError(weight: HostTensor, quantized: QuantizedTensor, error: WeightError, codecs: readonly FormatCodec[]): number {
  const numbers = toFloat32(codecFor(quantized.format, codecs).dequantize(quantized));
  check(numbers.every(Number.isFinite), 'a dequantized number is not finite');
  let squared = 0;
  let norm = 0;
  let largest = 0;
  for (const [i, value] of toFloat32(weight).entries()) {
    squared += (value - numbers[i]!) ** 2;
    norm += value * value;
    largest = Math.max(largest, Math.abs(value - numbers[i]!));
  }
  const near = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-3 * Math.abs(b) + 1e-12;
  check(near(error.squaredError, squared), `reported squaredError ${error.squaredError}, it is ${squared}`);
  check(near(error.squaredWeight, norm), `reported squaredWeight ${error.squaredWeight}, it is ${norm}`);
  check(near(error.maxAbs, largest), `reported maxAbs ${error.maxAbs}, it is ${largest}`);
  return Math.sqrt(squared / norm);
}

/** Throws ERR_CONFORMANCE unless all parts have the same bytes. */
function checkSame(what: string, got: QuantizedTensor, expected: QuantizedTensor): void {
  for (const [part, { data }] of Object.entries(expected.parts)) {
    const at = data.findIndex((byte, i) => byte !== got.parts[part]!.data[i]);
    check(at < 0, `byte ${at} of ${part} differs: ${what}`);
  }
}

/** The cases, for any way of running them. */
export function quantizerCases(quantizer: Quantizer, options: QuantizerConformanceOptions = {}): readonly Case[] {
  const {
    codecs = [],
    worstError = 0.6,
    shapes = [
      [64, 128],
      [40, 256],
    ],
    budgets = [2 ** 20, 2 ** 16, Number.POSITIVE_INFINITY],
    routines,
    others = [],
  } = options;
  const cases = shapes.flatMap((shape, index): Case[] => {
    const group = `[${shape.join(', ')}]`;
    const weight = seededTensor(index + 50, shape, 0.1);
    return [
      {
        group,
        name: 'the format is data, and its parts have sizes',
        async run() {
          const format = quantizer.format(shape, 'f16');
          check(JSON.stringify(format) === JSON.stringify(quantizer.format(shape, 'f16')), 'two calls give two formats');
          check(JSON.stringify(structuredClone(format)) === JSON.stringify(format), 'the format does not survive structuredClone');
          check(Object.keys(codecFor(format, codecs).parts(format, shape)).length > 0, 'the format has no parts');
          checkJson('format', format);
        },
      },
      {
        group,
        name: 'writes each element of each part once, and an honest error',
        async run() {
          for (const metaDtype of ['f32', 'f16'] as const) {
            const format = quantizer.format(shape, metaDtype);
            const { quantized, error, announced } = await run(quantizer, weight, format, codecs, { budget: budgets[0]! });
            check(
              announced === 0 || announced === shape[0] * shape[1],
              `onWeights announced ${announced} of ${shape[0] * shape[1]} weights`,
            );
            const share = checkError(weight, quantized, error, codecs);
            check(share <= worstError, `root mean square error ${share} of the weight's, allowed ${worstError}`);
          }
        },
      },
      {
        group,
        name: 'writes the same bytes whatever the budget and the dtype that holds the weight',
        async run() {
          const format = quantizer.format(shape, 'f16');
          const narrow = castFloat(weight, 'bf16');
          const first = await run(quantizer, narrow, format, codecs, { budget: budgets[0]! });
          const others = [
            ...budgets.slice(1).map((budget) => [narrow, budget] as const),
            [castFloat(castFloat(narrow, 'f32'), 'f32'), budgets[0]!] as const,
          ];
          for (const [source, budget] of others) {
            const { quantized } = await run(quantizer, source, format, codecs, { budget });
            checkSame(`budget ${budget}, weight ${source.dtype}`, quantized, first.quantized);
          }
        },
      },
      {
        group,
        name: 'refuses NaN and infinity, and stops when aborted',
        async run() {
          const format = quantizer.format(shape, 'f16');
          for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
            const values = toFloat32(weight).slice();
            values[values.length - 3] = bad;
            const damaged: HostTensor = { ...weight, data: new Uint8Array(values.buffer) };
            await checkThrows(`a weight with ${bad}`, 'ERR_NON_FINITE', () =>
              run(quantizer, damaged, format, codecs, { budget: budgets[0]! }),
            );
          }
          const reason = Object.assign(new Error('stop'), { code: 'ERR_TEST_ABORT' });
          await checkThrows('an aborted call', 'ERR_TEST_ABORT', () =>
            run(quantizer, weight, format, codecs, { budget: budgets[0]!, signal: AbortSignal.abort(reason) }),
          );
        },
      },
      {
        group,
        name: 'takes constant and zero weights',
        async run() {
          const format = quantizer.format(shape, 'f32');
          for (const value of [0, 0.25]) {
            const constant: HostTensor = { ...weight, data: new Uint8Array(new Float32Array(shape[0] * shape[1]).fill(value).buffer) };
            const { quantized } = await run(quantizer, constant, format, codecs, { budget: budgets[0]! });
            check(
              toFloat32(codecFor(format, codecs).dequantize(quantized)).every(Number.isFinite),
              `a weight of ${value} dequantizes to something not finite`,
            );
          }
        },
      },
    ];
  });
  const budget = budgets[0]!;
  const withWorkers: Case = {
    group: 'routines',
    name: 'writes the same bytes with workers, whatever the order they answer in',
    async run() {
      if (!routines) return 'pass `routines`, what its worker serves';
      const weight = seededTensor(80, LARGE, 0.1);
      const format = quantizer.format(LARGE, 'f16');
      const alone = await run(quantizer, weight, format, codecs, { budget: Number.POSITIVE_INFINITY });
      for (const threads of [1, 3]) {
        const pool = inProcessPool(routines, threads);
        const { quantized, error } = await run(quantizer, weight, format, codecs, { budget: Number.POSITIVE_INFINITY, workers: pool });
        check(pool.calls() > 0, `it names a worker, and calls no routine for [${LARGE.join(', ')}]`);
        check(pool.most() <= threads * 8, `${pool.most()} calls at a time for ${threads} threads`);
        checkSame(`${threads} threads`, quantized, alone.quantized);
        checkError(weight, quantized, error, codecs);
      }
    },
  };
  cases.push(
    {
      group: 'settings',
      name: 'are data, and their identity tells them from others',
      async run() {
        check(quantizer.spec === 1 && quantizer.method.length > 0, 'spec must be 1, and the method not empty');
        checkJson('config', quantizer.config);
        check(typeof quantizer.identity === 'string' && quantizer.identity.length > 0, 'the identity must be a text');
        for (const other of others) {
          const settings = JSON.stringify(other.config);
          check(other.identity !== quantizer.identity, `${settings} has the same identity, ${JSON.stringify(other.identity)}`);
        }
      },
    },
    {
      group: 'shapes',
      name: 'refuses shapes it cannot hold with a reason, and quantizes those it accepts',
      async run() {
        for (const [index, shape] of (
          [
            [1, 1],
            [3, 5],
            [7, 13],
            [1, 64],
          ] as Matrix[]
        ).entries()) {
          const what = `[${shape.join(', ')}]`;
          let format: Format;
          try {
            format = quantizer.format(shape, 'f16');
            codecFor(format, codecs).parts(format, shape);
          } catch (error) {
            const reason = isLowbitError(error, 'ERR_UNSUPPORTED_FORMAT') && error.message.length > 0;
            check(reason, `${what} must give ERR_UNSUPPORTED_FORMAT, gave ${error}`);
            continue;
          }
          const weight = seededTensor(index + 70, shape, 0.1);
          const { quantized, error } = await run(quantizer, weight, format, codecs, { budget });
          checkError(weight, quantized, error, codecs);
        }
      },
    },
    ...(quantizer.worker ? [withWorkers] : []),
    {
      group: 'routines',
      name: 'hands on what a routine fails with, where it calls one of a worker or a backend',
      async run() {
        const weight = seededTensor(81, SEVERAL, 0.1);
        const format = quantizer.format(SEVERAL, 'f16');
        const failure = Object.assign(new Error('lost'), { code: 'ERR_TEST_LOST' });
        let asked = 0;
        const fails = (): Routine => {
          asked++;
          return async () => {
            throw failure;
          };
        };
        for (const [what, context] of [
          ['a failing worker', { workers: { threads: 2, routine: fails } }],
          ['a failing backend', { routine: fails }],
        ] as const) {
          const before = asked;
          const error = await run(quantizer, weight, format, codecs, { budget, ...context }).then(
            () => undefined,
            (reason: unknown) => reason,
          );
          if (asked > before) check(error === failure, `${what} must fail the call, it gave ${error ?? 'no error'}`);
        }
        if (asked === 0) return;
        const none = await run(quantizer, weight, format, codecs, { budget, routine: () => undefined });
        checkSame('a backend without the routine', none.quantized, (await run(quantizer, weight, format, codecs, { budget })).quantized);
      },
    },
  );
  return cases;
}

/**
 * Registers the conformance cases of a quantizer.
 *
 * @example
 * quantizerConformance(hqq({ bits: 4 }), { describe, it });
 */
export function quantizerConformance(quantizer: Quantizer, runner: TestRunner, options: QuantizerConformanceOptions = {}): void {
  registerCases(`quantizer '${quantizer.method}' ${JSON.stringify(quantizer.config)}`, quantizerCases(quantizer, options), runner);
}
