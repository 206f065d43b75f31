// Tensor sources and sinks in memory: for browsers, for small models, and for trying a quantizer without a file system.

import { disposedError } from './disposed.ts';
import { byteLength, DTYPE_BYTES } from './dtype.ts';
import { quote } from './quote.ts';
import { addRange, checkLateSpec, checkLateWrite, elementRange, firstGap, type Ranges, writtenBytes } from './ranges.ts';
import type { TensorSink, TensorSource } from './spec/checkpoint.ts';
import { LowbitError } from './spec/errors.ts';
import type { HostTensor, Json, TensorSpec } from './spec/tensor.ts';

function unknownTensor(name: string, label: string): LowbitError {
  return new LowbitError('ERR_TENSOR_MISMATCH', `${label} has no tensor ${quote(name)}`, { details: { tensor: name } });
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
      if (!tensor) throw unknownTensor(name, label);
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

/** A sink that keeps everything in memory; `tensors` are complete after `close`, and gone after disposal. */
export interface MemorySink extends TensorSink {
  readonly tensors: ReadonlyMap<string, HostTensor>;
}

/** Throws as every sink does: ERR_BAD_ARGUMENT for calls in a wrong order and writes that do not fit, and from `close`, naming it, for a tensor not written. */
export function memorySink(label = 'memory'): MemorySink {
  const tensors = new Map<string, HostTensor>();
  const done = new Map<string, Json>();
  const written = new Map<string, Ranges>();
  const late = new Map<string, TensorSpec>();
  let state: 'open' | 'reserved' | 'closed' | 'disposed' = 'open';

  function check(wanted: 'open' | 'reserved'): void {
    if (state === wanted) return;
    if (state === 'disposed') throw disposedError(`the output ${label}`);
    if (state === 'closed')
      throw new LowbitError('ERR_DISPOSED', `the output ${label} is closed already`, { hint: 'Write everything before close.' });
    throw new LowbitError('ERR_BAD_ARGUMENT', state === 'open' ? 'reserve the tensors before writing them' : 'reserve was called before');
  }

  function missing(name: string, problem: string): LowbitError {
    return new LowbitError('ERR_BAD_ARGUMENT', `${quote(name)} was not written${problem}`, {
      hint: 'Every reserved tensor must be written before close.',
      details: { tensor: name },
    });
  }

  return {
    tensors,
    done,
    async reserve(specs, _metadata, lateNames = new Set()) {
      check('open');
      for (const [name, { dtype, shape }] of specs) {
        if (lateNames.has(name)) checkLateSpec(name, { dtype, shape });
      }
      for (const [name, { dtype, shape }] of specs) {
        if (lateNames.has(name)) late.set(name, { dtype, shape });
        else tensors.set(name, { dtype, shape, data: new Uint8Array(byteLength({ dtype, shape })) });
        written.set(name, []);
      }
      state = 'reserved';
    },
    async write(name, at, data) {
      check('reserved');
      const ranges = written.get(name);
      if (!ranges) throw unknownTensor(name, label);
      const most = late.get(name);
      if (most) {
        checkLateWrite(name, most, at, data.byteLength);
        tensors.set(name, { dtype: most.dtype, shape: [data.byteLength], data: data.slice() });
        return;
      }
      const tensor = tensors.get(name)!;
      const [from, to] = writtenBytes(name, tensor, at, data.byteLength);
      tensor.data.set(data, from);
      addRange(ranges, from, to);
    },
    async commit(unit, note) {
      check('reserved');
      done.set(unit, note);
    },
    async close() {
      if (state === 'closed') return;
      check('reserved');
      for (const [name, ranges] of written) {
        const tensor = tensors.get(name);
        if (!tensor) throw missing(name, '');
        if (late.has(name)) continue;
        const gap = firstGap(ranges, 0, tensor.data.byteLength);
        if (gap !== undefined) throw missing(name, ` completely: byte ${gap} of ${tensor.data.byteLength} is missing`);
      }
      state = 'closed';
    },
    async [Symbol.asyncDispose]() {
      state = 'disposed';
      tensors.clear();
    },
  };
}
