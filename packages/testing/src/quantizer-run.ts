// Quantizing a weight while it is watched: what is written, and what is said of it.

import {
  byteLength,
  codecFor,
  DTYPE_BYTES,
  type DType,
  elementCount,
  type Format,
  type FormatCodec,
  type HostTensor,
  type Matrix,
  memoryReader,
  type PartWriter,
  type QuantizeContext,
  type QuantizedTensor,
  type Quantizer,
  toFloat32,
  type WeightError,
} from '@lowbit/core';
import { check } from './kit.ts';

/** The quantizer under test, and the codecs of its formats. */
export interface Subject {
  readonly quantizer: Quantizer;
  readonly codecs: readonly FormatCodec[];
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

/** What came of a weight. */
interface Run {
  readonly quantized: QuantizedTensor;
  readonly error: WeightError;
  /** Weights that `onWeights` was told of. */
  readonly announced: number;
}

/** Quantizes a weight; each element of each part must be written once. */
export async function run({ quantizer, codecs }: Subject, weight: HostTensor, format: Format, context: QuantizeContext): Promise<Run> {
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
export function checkError({ codecs }: Subject, weight: HostTensor, quantized: QuantizedTensor, error: WeightError): number {
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
export function checkSame(what: string, got: QuantizedTensor, expected: QuantizedTensor): void {
  for (const [part, { data }] of Object.entries(expected.parts)) {
    const at = data.findIndex((byte, i) => byte !== got.parts[part]!.data[i]);
    check(at < 0, `byte ${at} of ${part} differs: ${what}`);
  }
}
