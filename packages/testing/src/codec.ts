// Conformance of a format codec: sizes, row ranges, dtypes, and what it refuses.

import {
  type Affine,
  byteLength,
  type Codebook,
  elements,
  type FormatCodec,
  type FormatNumbers,
  grouping,
  type HostTensor,
  hadamardBlocks,
  INT8_STEP,
  productDtype,
  type QuantizedTensor,
  roundTo,
  storedColumns,
  toFloat32,
} from '@lowbit/core';
import { checkClose } from './compare.ts';
import type { FormatSample } from './formats.ts';
import { type Case, check, checkThrows, registerCases, type TestRunner } from './kit.ts';

export interface CodecSample extends FormatSample {
  /** The numbers it must dequantize to, f32 [out, in], bit for bit. */
  readonly values?: HostTensor;
}

/** Ranges of rows that cover the matrix in uneven steps. */
function ranges(rows: number): (readonly [from: number, to: number])[] {
  const list: (readonly [number, number])[] = [];
  for (let from = 0, step = 1; from < rows; from += step, step = (step * 2) % 7 || 3) list.push([from, Math.min(rows, from + step)]);
  return list;
}

/** Weights of codes and numbers, as `FormatNumbers` says. */
function weightsOf({ format, shape }: QuantizedTensor, codes: ArrayLike<number>, { scale, zero, table }: FormatNumbers): Float32Array {
  const count = shape[0] * shape[1];
  if (format.kind === 'affine') {
    const { groups, group } = grouping(format as Affine, shape);
    check(scale.length === groups && zero?.length === groups, `${scale.length} scales and ${zero?.length} zeros of ${groups} groups`);
    const groupOf = (i: number): number => ((format as Affine).axis === 1 ? Math.floor(i / group) : i % groups);
    return Float32Array.from({ length: count }, (_, i) => Math.fround(codes[i]! - zero[groupOf(i)]!) * scale[groupOf(i)]!);
  }
  if (format.kind === 'int8') {
    check(scale.length === shape[0], `${scale.length} scales of ${shape[0]} rows`);
    return Float32Array.from({ length: count }, (_, i) => Math.fround(codes[i]! * scale[Math.floor(i / shape[1])]!) * INT8_STEP);
  }
  const { bits, dim, group, rotate } = format as Codebook;
  const columns = storedColumns(format as Codebook, shape);
  const stored = shape[0] * columns;
  const blocks = Math.ceil(stored / group);
  check(scale.length === blocks && table?.length === 2 ** (bits * dim) * dim, `${scale.length} scales, a table of ${table?.length}`);
  const dtype = productDtype(format as Codebook);
  const values = Float32Array.from({ length: stored }, (_, i) => {
    return roundTo(dtype, table[codes[Math.floor(i / dim)]! * dim + (i % dim)]! * scale[Math.floor(i / group)]!);
  });
  if (rotate) hadamardBlocks(values, rotate.block);
  return values.filter((_, i) => i % columns < shape[1]);
}

/** The cases, for any way of running them. */
export function codecCases(codec: FormatCodec, samples: readonly CodecSample[]): readonly Case[] {
  return samples.flatMap(({ name, weight, values }): Case[] => {
    const { format, shape, parts } = weight;
    const [out, inp] = shape;
    const unpacking: Case = {
      group: name,
      name: 'unpacks rows as it unpacks all',
      async run() {
        const all = codec.unpackRows(weight, 0, out);
        check(all.dtype === 'u8' || all.dtype === 'u16' || all.dtype === 'i8', `codes are ${all.dtype}`);
        const codes = elements({ dtype: all.dtype, data: all.data }) as Uint8Array;
        for (const [from, to] of ranges(out)) {
          const rows = codec.unpackRows(weight, from, to);
          const width = codes.length / out;
          checkClose(
            `rows ${from} .. ${to}`,
            elements({ dtype: rows.dtype, data: rows.data }) as Uint8Array,
            codes.subarray(from * width, to * width),
            0,
          );
        }
      },
    };
    const making: Case = {
      group: name,
      name: 'its codes and numbers make its weights',
      async run() {
        const numbers = codec.numbers(weight);
        check(numbers !== undefined, 'numbers gives none');
        const rows = codec.unpackRows(weight, 0, out);
        const codes = elements({ dtype: rows.dtype, data: rows.data }) as Uint8Array;
        checkClose('weights', weightsOf(weight, codes, numbers), toFloat32(codec.dequantize(weight)), 0);
        for (const list of Object.values(numbers)) list.fill(0); // they are the caller's
        const again = codec.numbers(weight)!;
        checkClose('weights, once more', weightsOf(weight, codes, again), toFloat32(codec.dequantize(weight)), 0);
        await checkThrows('without parts', 'ERR_TENSOR_MISMATCH', () => codec.numbers({ ...weight, parts: {} }));
      },
    };
    const grouped = format.kind === 'affine' || format.kind === 'codebook' || format.kind === 'int8';
    return [
      ...(format.kind === 'dense' ? [] : [unpacking]), // dense weights have no codes
      ...(grouped ? [making] : []), // what a custom format's numbers mean is its own matter
      {
        group: name,
        name: 'the parts have the announced dtypes, shapes and bytes',
        async run() {
          const specs = codec.parts(format, shape);
          check(Object.keys(specs).length > 0, 'parts names none');
          for (const [part, spec] of Object.entries(specs)) {
            const tensor = parts[part];
            check(tensor !== undefined, `the sample has no part ${part}`);
            check(
              tensor.dtype === spec.dtype && tensor.shape.join() === spec.shape.join(),
              `part ${part} is ${tensor.dtype} [${tensor.shape.join(', ')}]`,
            );
            check(tensor.data.byteLength === byteLength(spec), `part ${part} has ${tensor.data.byteLength} bytes`);
          }
          check(
            JSON.stringify(codec.parts(structuredClone(format), shape)) === JSON.stringify(specs),
            'a clone of the format has other parts',
          );
        },
      },
      {
        group: name,
        name: 'dequantizes rows as it dequantizes all',
        async run() {
          const all = codec.dequantize(weight);
          check(all.dtype === 'f32' && all.shape[0] === out && all.shape[1] === inp, `got ${all.dtype} [${all.shape.join(', ')}]`);
          const numbers = toFloat32(all);
          check(numbers.every(Number.isFinite), 'a number is not finite');
          if (values) checkClose('numbers', numbers, toFloat32(values), 0);
          for (const [from, to] of ranges(out)) {
            const rows = codec.dequantize(weight, { from, to });
            check(rows.shape[0] === to - from, `rows ${from} .. ${to} have shape [${rows.shape.join(', ')}]`);
            checkClose(`rows ${from} .. ${to}`, toFloat32(rows), numbers.subarray(from * inp, to * inp), 0);
          }
          checkClose('of a clone', toFloat32(codec.dequantize(structuredClone(weight))), numbers, 0);
        },
      },
      {
        group: name,
        name: 'dequantizes to 16 bits',
        async run() {
          const exact = toFloat32(codec.dequantize(weight));
          for (const dtype of ['f16', 'bf16'] as const) {
            const narrow = codec.dequantize(weight, { dtype });
            check(narrow.dtype === dtype && narrow.data.byteLength === 2 * out * inp, `asked for ${dtype}, got ${narrow.dtype}`);
            checkClose(dtype, toFloat32(narrow), exact, dtype === 'f16' ? 4e-3 : 4e-2);
          }
        },
      },
      {
        group: name,
        name: 'refuses missing parts and rows that are not there',
        async run() {
          for (const part of Object.keys(codec.parts(format, shape))) {
            const { [part]: _, ...rest } = parts;
            await checkThrows(`without ${part}`, 'ERR_TENSOR_MISMATCH', () => codec.dequantize({ ...weight, parts: rest }));
          }
          await checkThrows('rows beyond the last', 'ERR_BAD_ARGUMENT', () => codec.dequantize(weight, { from: 0, to: out + 1 }));
          await checkThrows('rows from a fraction', 'ERR_BAD_ARGUMENT', () => codec.dequantize(weight, { from: 0.5, to: 1 }));
        },
      },
    ];
  });
}

/** Registers the conformance cases of a codec, each on every sample (weights of its kind). */
export function codecConformance(codec: FormatCodec, samples: readonly CodecSample[], runner: TestRunner): void {
  registerCases(`codec '${codec.kind}'`, codecCases(codec, samples), runner);
}
