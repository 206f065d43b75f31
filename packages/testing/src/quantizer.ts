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
  toFloat32,
  type WeightError,
} from '@lowbit/core';
import { type Case, check, checkThrows, registerCases, type TestRunner } from './kit.ts';
import { seededTensor } from './random.ts';

export interface QuantizerConformanceOptions {
  /** Shapes it must take; default [64, 128] and [40, 256]. */
  readonly shapes?: readonly Matrix[];
  /** Codecs of its formats, where they are a third party's. */
  readonly codecs?: readonly FormatCodec[];
  /** Most that the root mean square error may be, as a share of the weight's; default 0.6. */
  readonly worstError?: number;
  /** Byte budgets that must give the same bytes; default 1 MiB, 64 KiB and no limit. */
  readonly budgets?: readonly number[];
}

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
          JSON.stringify(quantizer.config);
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
            const numbers = toFloat32(codecFor(format, codecs).dequantize(quantized));
            check(numbers.every(Number.isFinite), 'a dequantized number is not finite');
            const original = toFloat32(weight);
            let squared = 0;
            let norm = 0;
            let largest = 0;
            for (const [i, value] of original.entries()) {
              squared += (value - numbers[i]!) ** 2;
              norm += value * value;
              largest = Math.max(largest, Math.abs(value - numbers[i]!));
            }
            check(
              Math.sqrt(squared / norm) <= worstError,
              `root mean square error ${Math.sqrt(squared / norm)} of the weight's, allowed ${worstError}`,
            );
            const near = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-3 * Math.abs(b) + 1e-12;
            check(near(error.squaredError, squared), `reported squaredError ${error.squaredError}, it is ${squared}`);
            check(near(error.squaredWeight, norm), `reported squaredWeight ${error.squaredWeight}, it is ${norm}`);
            check(near(error.maxAbs, largest), `reported maxAbs ${error.maxAbs}, it is ${largest}`);
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
            for (const [part, { data }] of Object.entries(first.quantized.parts)) {
              const at = data.findIndex((byte, i) => byte !== quantized.parts[part]!.data[i]);
              check(at < 0, `byte ${at} of ${part} differs: budget ${budget}, weight ${source.dtype}`);
            }
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
  cases.push({
    group: 'shapes',
    name: 'refuses shapes it cannot hold with a reason, never silently',
    async run() {
      for (const shape of [
        [1, 1],
        [3, 5],
        [7, 13],
      ] as Matrix[]) {
        try {
          const format = quantizer.format(shape, 'f16');
          codecFor(format, codecs).parts(format, shape);
        } catch (error) {
          check(
            isLowbitError(error, 'ERR_UNSUPPORTED_FORMAT') && error.message.length > 0,
            `[${shape.join(', ')}] must give ERR_UNSUPPORTED_FORMAT, gave ${error}`,
          );
        }
      }
    },
  });
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
