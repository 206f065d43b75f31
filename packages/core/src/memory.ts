// Tensor sources and sinks in memory: for browsers, for small models, and for trying a quantizer without a file system.

import { byteLength, DTYPE_BYTES } from './dtype.ts';
import type { TensorSink, TensorSource } from './spec/checkpoint.ts';
import { LowbitError } from './spec/errors.ts';
import type { HostTensor, Json, TensorSpec } from './spec/tensor.ts';

function unknownTensor(name: string, label: string): LowbitError {
  return new LowbitError('ERR_TENSOR_MISMATCH', `${label} has no tensor ${name}`, { details: { tensor: name } });
}

/** A source over tensors that are in memory. Ranges are views, not copies. */
export function memorySource(tensors: Readonly<Record<string, HostTensor>>, label = 'memory'): TensorSource {
  const byName = new Map(Object.entries(tensors));
  return {
    label,
    entries: byName,
    async read(name, { range } = {}) {
      const tensor = byName.get(name);
      if (!tensor) throw unknownTensor(name, label);
      if (!range) return tensor;
      const width = DTYPE_BYTES[tensor.dtype];
      return { dtype: tensor.dtype, shape: [range[1] - range[0]], data: tensor.data.subarray(range[0] * width, range[1] * width) };
    },
    async [Symbol.asyncDispose]() {},
  };
}

/** A sink that keeps everything in memory; `tensors` are complete after `close`. */
export interface MemorySink extends TensorSink {
  readonly tensors: ReadonlyMap<string, HostTensor>;
}

export function memorySink(label = 'memory'): MemorySink {
  const tensors = new Map<string, HostTensor>();
  const done = new Map<string, Json>();
  let lateNames: ReadonlySet<string> = new Set();
  return {
    tensors,
    done,
    async reserve(specs: ReadonlyMap<string, TensorSpec>, _metadata, late = new Set()) {
      lateNames = late;
      for (const [name, { dtype, shape }] of specs) tensors.set(name, { dtype, shape, data: new Uint8Array(byteLength({ dtype, shape })) });
    },
    async write(name, at, data) {
      const tensor = tensors.get(name);
      if (!tensor) throw unknownTensor(name, label);
      if (lateNames.has(name)) tensors.set(name, { dtype: tensor.dtype, shape: [data.byteLength], data: data.slice() });
      else tensor.data.set(data, at * DTYPE_BYTES[tensor.dtype]);
    },
    async commit(unit, note) {
      done.set(unit, note);
    },
    async close() {},
    async [Symbol.asyncDispose]() {
      tensors.clear();
    },
  };
}
