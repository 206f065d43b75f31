// A tensor source in memory: for state dicts, for small models, and for trying what reads checkpoints without a file system.

import { disposedError } from './disposed.ts';
import { DTYPE_BYTES, elementCount } from './dtype.ts';
import { quote } from './quote.ts';
import type { TensorSource } from './spec/checkpoint.ts';
import { LowbitError } from './spec/errors.ts';
import type { HostTensor, TensorSpec } from './spec/tensor.ts';

/** The elements of a tensor that were asked for, all by default. Throws ERR_BAD_ARGUMENT if it does not have them. */
export function elementRange(
  name: string,
  { shape }: TensorSpec,
  range: readonly [from: number, to: number] | undefined,
): readonly [from: number, to: number] {
  const count = elementCount(shape);
  const [from, to] = range ?? [0, count];
  if (Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && to >= from && to <= count) return [from, to];
  throw new LowbitError('ERR_BAD_ARGUMENT', `elements ${from} to ${to} of ${quote(name)}, which has ${count}`, {
    details: { tensor: name, range: [from, to], count },
  });
}

/** A source over tensors that are in memory. Ranges are views, not copies. */
export function memorySource(tensors: Readonly<Record<string, HostTensor>>, label = 'memory'): TensorSource {
  const byName = new Map(Object.entries(tensors));
  let closed = false;
  return {
    label,
    entries: byName,
    async read(name, { range, signal } = {}) {
      signal?.throwIfAborted();
      if (closed) throw disposedError(label, `${quote(name)} was read`);
      const tensor = byName.get(name);
      if (!tensor) throw new LowbitError('ERR_TENSOR_MISMATCH', `${label} has no tensor ${quote(name)}`, { details: { tensor: name } });
      if (!range) return tensor;
      const width = DTYPE_BYTES[tensor.dtype];
      const [from, to] = elementRange(name, tensor, range);
      return { dtype: tensor.dtype, shape: [to - from], data: tensor.data.subarray(from * width, to * width) };
    },
    async [Symbol.asyncDispose]() {
      closed = true;
    },
  };
}
