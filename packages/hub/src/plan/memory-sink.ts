// A tensor sink in memory: for small models, and for trying a quantizer or a layout without a file system.

import type { HostTensor, Json, TensorSink, TensorSpec } from '@lowbit/core';
import { byteLength, disposedError, LowbitError, quote } from '@lowbit/core';
import { addRange, checkLateSpec, checkLateWrite, firstGap, type Ranges, writtenBytes } from './ranges.ts';

function unknownTensor(name: string, label: string): LowbitError {
  return new LowbitError('ERR_TENSOR_MISMATCH', `${label} has no tensor ${quote(name)}`, { details: { tensor: name } });
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
