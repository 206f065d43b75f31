// What every codec checks: shapes, row ranges, and that a quantized tensor has the parts its format asks for.

import { byteLength, FLOAT_DTYPES } from '../dtype.ts';
import { LowbitError } from '../spec/errors.ts';
import type { DequantizeOptions } from '../spec/format.ts';
import type { DType, HostTensor, Matrix, TensorSpec } from '../spec/tensor.ts';

export type ComputeDType = NonNullable<DequantizeOptions['dtype']>;
export type PartSpecs = Readonly<Record<string, TensorSpec>>;
export type Parts = Readonly<Record<string, HostTensor>>;

/** The ERR_UNSUPPORTED_FORMAT that codecs throw. */
export function unsupported(message: string, hint?: string, details?: Readonly<Record<string, unknown>>): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', message, { hint, details });
}

/** Throws ERR_UNSUPPORTED_FORMAT unless `value` is an integer in [low, high]. */
export function checkInteger(what: string, value: number, low: number, high: number = Number.MAX_SAFE_INTEGER): void {
  if (Number.isSafeInteger(value) && value >= low && value <= high) return;
  const wanted = high === Number.MAX_SAFE_INTEGER ? `an integer of at least ${low}` : `an integer in ${low} .. ${high}`;
  throw unsupported(`${what} must be ${wanted}, got ${value}`, undefined, { [what]: value });
}

/** Number of weights. Throws ERR_UNSUPPORTED_FORMAT for an empty or fractional shape. */
export function weightCount([out, inp]: Matrix): number {
  checkInteger('out_features', out, 1);
  checkInteger('in_features', inp, 1);
  checkInteger('out_features * in_features', out * inp, 1);
  return out * inp;
}

/** Throws ERR_UNSUPPORTED_FORMAT unless `dtype` holds floats. */
export function checkFloat(what: string, dtype: DType): void {
  if (!FLOAT_DTYPES.has(dtype)) throw unsupported(`${what} cannot be stored as ${dtype}`, 'Use f64, f32, f16 or bf16.', { dtype });
}

/** The rows asked for, checked. Throws ERR_BAD_ARGUMENT if they are not in the matrix. */
export function rowRange([out]: Matrix, from: number = 0, to: number = out): readonly [from: number, to: number] {
  if (Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= out) return [from, to];
  throw new LowbitError('ERR_BAD_ARGUMENT', `rows ${from} to ${to} are not in a matrix of ${out} rows`, {
    details: { from, to, rows: out },
  });
}

/** Throws ERR_TENSOR_MISMATCH, naming part, expected and actual, unless every part of `specs` is there with its dtype, shape and length. */
export function checkParts(specs: PartSpecs, parts: Parts): void {
  for (const [part, expected] of Object.entries(specs)) {
    const actual = Object.hasOwn(parts, part) ? parts[part] : undefined;
    if (!actual) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `part '${part}' is missing: expected ${specText(expected)}`, {
        hint: `The tensor has the parts ${Object.keys(parts).join(', ') || '(none)'}.`,
        details: { part, expected },
      });
    }
    if (!sameSpec(actual, expected)) {
      throw new LowbitError('ERR_TENSOR_MISMATCH', `part '${part}': expected ${specText(expected)}, got ${specText(actual)}`, {
        details: { part, expected, actual: { dtype: actual.dtype, shape: actual.shape } },
      });
    }
    const bytes = byteLength(expected);
    if (actual.data.byteLength !== bytes) {
      throw new LowbitError(
        'ERR_TENSOR_MISMATCH',
        `part '${part}': ${specText(expected)} needs ${bytes} bytes, got ${actual.data.byteLength}`,
        {
          details: { part, expected: bytes, actual: actual.data.byteLength },
        },
      );
    }
  }
}

function sameSpec(a: TensorSpec, b: TensorSpec): boolean {
  return a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((extent, i) => extent === b.shape[i]);
}

function specText({ dtype, shape }: TensorSpec): string {
  return `${dtype} [${shape.join(', ')}]`;
}
