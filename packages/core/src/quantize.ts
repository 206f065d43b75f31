// Quantizing a weight that is in memory: the small public call, over the same streaming contract that checkpoints use.

import { codecFor } from './codecs/index.ts';
import { byteLength, DTYPE_BYTES, elementCount, FLOAT_DTYPES, readFloat32 } from './dtype.ts';
import { checkOptionNames } from './option-names.ts';
import { LowbitError } from './spec/errors.ts';
import type { FormatCodec, QuantizedTensor } from './spec/format.ts';
import type { Importance, PartWriter, Quantizer, Routine, WeightReader } from './spec/quantizer.ts';
import type { CallOptions, DType, HostTensor, Matrix } from './spec/tensor.ts';
import { assertTensor } from './tensor.ts';
import { poolFor, type Workers, withWorkers } from './workers/workers.ts';

/** Of `quantize`. */
export interface QuantizeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with the number of weights finished. */
  readonly onProgress?: CallOptions['onProgress'];
  /** Backends that may bring faster versions of the quantizer's routines. */
  readonly runtime?: { routine(name: string): Routine | undefined } | undefined;
  readonly importance?: Importance | undefined;
  /** Threads to use where the method can, or those of `createWorkers`; default 1, the one that calls. The bytes are the same. */
  readonly threads?: number | Workers | undefined;
  /** Storage dtype of scales and zeros; default f32. */
  readonly metaDtype?: DType;
  /** For quantizers whose format is a third party's. */
  readonly codecs?: readonly FormatCodec[];
}

const OPTIONS = Object.keys({
  signal: true,
  onProgress: true,
  runtime: true,
  importance: true,
  threads: true,
  metaDtype: true,
  codecs: true,
} satisfies Record<keyof QuantizeOptions, true>);

/** Shape of a two-dimensional weight. Throws ERR_TENSOR_MISMATCH otherwise. */
export function matrixShape(name: string, shape: readonly number[]): Matrix {
  const [out, inp] = shape;
  if (shape.length === 2 && out! > 0 && inp! > 0) return [out!, inp!];
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${name}: expected a matrix [out, in], got shape [${shape.join(', ')}]`, {
    hint: 'Only the weights of linear layers can be quantized.',
    details: { tensor: name, shape },
  });
}

function nonFinite(name: string, value: number, index: number): LowbitError {
  return new LowbitError('ERR_NON_FINITE', `${name}: element ${index} is ${value}`, {
    hint: 'The tensor is damaged or overflowed its dtype. Take another copy of the checkpoint.',
    details: { tensor: name, index },
  });
}

/** Throws ERR_NON_FINITE, naming the tensor, if values[from, to) holds NaN or infinity; `first` is the flat index of values[from] in the tensor. */
export function assertFinite(name: string, values: Float32Array, from: number, to: number, first: number): void {
  // One in the place of the exponent carries into the sign if the exponent is all ones: this is where a quantizer's reading spends its time.
  const words = new Int32Array(values.buffer, values.byteOffset + 4 * from, to - from);
  const whole = words.length & ~3;
  let carries = 0;
  for (let i = 0; i < whole; i += 4) {
    carries |= (words[i]! & EXPONENT) + 0x800000;
    carries |= (words[i + 1]! & EXPONENT) + 0x800000;
    carries |= (words[i + 2]! & EXPONENT) + 0x800000;
    carries |= (words[i + 3]! & EXPONENT) + 0x800000;
  }
  for (let i = whole; i < words.length; i++) carries |= (words[i]! & EXPONENT) + 0x800000;
  if (carries >= 0) return;
  const at = words.findIndex((word) => (word & EXPONENT) === EXPONENT);
  throw nonFinite(name, values[from + at]!, first + at);
}

const EXPONENT = 0x7f800000;

/** Reads a weight that is in memory. */
export function memoryReader(name: string, weight: HostTensor): WeightReader {
  const width = DTYPE_BYTES[weight?.dtype];
  if (width === undefined || !FLOAT_DTYPES.has(weight.dtype)) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${name}: expected a HostTensor of floats, got ${weight?.dtype ?? typeof weight}`, {
      hint: 'Make one with float32Tensor(shape, values) or hostTensor(dtype, shape, typedArray).',
      details: { tensor: name, dtype: weight?.dtype },
    });
  }
  assertTensor(name, weight);
  const expected = byteLength(weight);
  if (weight.data.byteLength !== expected) {
    const what = `${weight.dtype} [${weight.shape.join(', ')}] needs ${expected} bytes, got ${weight.data.byteLength}`;
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${name}: ${what}`, {
      details: { tensor: name, expected, actual: weight.data.byteLength },
    });
  }
  return {
    name,
    shape: matrixShape(name, weight.shape),
    dtype: weight.dtype,
    async read(from, to, into, at = 0, nonFinite = 'refuse') {
      readFloat32(weight.dtype, weight.data.subarray(from * width, to * width), into, at);
      if (nonFinite !== 'keep') assertFinite(name, into, at, at + to - from, from);
    },
    readStored: async (from, to) => weight.data.subarray(from * width, to * width),
  };
}

/** Collects parts in memory. */
export function memoryWriter(specs: Readonly<Record<string, { readonly dtype: DType; readonly shape: readonly number[] }>>): {
  readonly writer: PartWriter;
  readonly parts: Readonly<Record<string, HostTensor>>;
} {
  const parts = Object.fromEntries(
    Object.entries(specs).map(([name, { dtype, shape }]) => [name, { dtype, shape, data: new Uint8Array(byteLength({ dtype, shape })) }]),
  );
  const writer: PartWriter = {
    async write(part, at, data) {
      const target = parts[part];
      if (!target)
        throw new LowbitError('ERR_BAD_ARGUMENT', `the format has no part '${part}'`, { details: { part, parts: Object.keys(parts) } });
      target.data.set(data, at * DTYPE_BYTES[target.dtype]);
    },
  };
  return { writer, parts };
}

/** True for what has the two functions that quantizing takes. */
export function isQuantizer(value: unknown): value is Quantizer {
  const { quantize, format } = (value ?? {}) as Readonly<Record<string, unknown>>;
  return typeof quantize === 'function' && typeof format === 'function';
}

/**
 * Quantizes one weight [out, in] of any float dtype.
 * @throws ERR_TENSOR_MISMATCH (not a matrix), ERR_NON_FINITE, ERR_BAD_ARGUMENT (an unknown option, threads), ERR_WORKER,
 * and what the quantizer throws for unsuitable shapes.
 */
export async function quantize(weight: HostTensor, quantizer: Quantizer, options: QuantizeOptions = {}): Promise<QuantizedTensor> {
  const reader = memoryReader('weight', weight);
  checkOptionNames('quantize', options, OPTIONS);
  if (!isQuantizer(quantizer)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'quantize needs a quantizer as its second argument', {
      hint: 'Pass what a method returns, such as hqq({ bits: 4 }).',
    });
  }
  const format = quantizer.format(reader.shape, options.metaDtype ?? 'f32');
  const { writer, parts } = memoryWriter(codecFor(format, options.codecs).parts(format, reader.shape));
  const { signal, runtime, onProgress } = options;
  signal?.throwIfAborted();
  const total = elementCount(reader.shape);
  let done = 0;
  const onWeights = (count: number): void => {
    done += count;
    onProgress?.({ phase: 'quantize', done, total, unit: 'weights', item: reader.name });
  };
  await withWorkers(options.threads === undefined ? 1 : options.threads, (workers) =>
    quantizer.quantize(reader, format, writer, {
      budget: Number.POSITIVE_INFINITY,
      signal,
      importance: options.importance,
      routine: runtime && ((name) => runtime.routine(name)),
      workers: poolFor(quantizer, workers),
      onWeights,
    }),
  );
  return { format, shape: reader.shape, parts };
}
