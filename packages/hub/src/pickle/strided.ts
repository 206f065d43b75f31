// Tensors as views of storages: whether a view lies inside of its storage, and reading pieces of views that are not in order.

import { DTYPE_BYTES } from '@lowbit/core';
import type { TorchTensor } from './values.ts';

/** Bytes of a storage held at a time while a view out of order is gathered. */
const WINDOW = 32 * 1024 * 1024;

/** What is wrong with a view, as the end of a sentence; undefined if it lies inside of a storage of `bytes` bytes. */
export function viewProblem({ storage, dtype, shape, strides, offset }: TorchTensor, bytes: number): string | undefined {
  const claimed = storage.count * (storage.dtype === undefined ? 1 : DTYPE_BYTES[storage.dtype]);
  if (claimed !== bytes) return `its storage should have ${claimed} bytes, the archive's entry has ${bytes}`;
  const room = Math.floor(bytes / DTYPE_BYTES[dtype]);
  let count = 1;
  let last = offset;
  for (const [i, extent] of shape.entries()) {
    count *= extent;
    last += Math.max(0, extent - 1) * strides[i]!;
    if (!Number.isSafeInteger(count) || !Number.isSafeInteger(last)) return 'its shape overflows';
  }
  if (count > 0 && last >= room) return `it looks at element ${last} of a storage that has ${room}`;
  // Repeated elements (`expand`) cost nothing in the file and everything in memory.
  if (count > room) return `it has ${count} elements over a storage of ${room}`;
  return undefined;
}

/** True if the elements follow each other in the storage, in order. */
export function isContiguous({ shape, strides }: TorchTensor): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return shape.includes(0);
    step *= shape[i]!;
  }
  return true;
}

/**
 * Elements [from, to) of any view, gathered into `into`. `read` reads bytes of the storage; what is read goes through a window of bounded size, and
 * a range of a transposed matrix reads all of the storage that it is spread over.
 */
export async function gather(
  tensor: TorchTensor,
  from: number,
  to: number,
  into: Uint8Array,
  read: (at: number, length: number) => Promise<Uint8Array>,
  window: number = WINDOW,
): Promise<void> {
  const width = DTYPE_BYTES[tensor.dtype];
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (const at of places(tensor, from, to)) {
    low = Math.min(low, at);
    high = Math.max(high, at + 1);
  }
  const step = Math.max(1, Math.floor(window / width));
  for (let start = low; start < high; start += step) {
    const end = Math.min(high, start + step);
    const bytes = await read(start * width, (end - start) * width);
    let out = 0;
    for (const at of places(tensor, from, to)) {
      if (at >= start && at < end) {
        const source = (at - start) * width;
        for (let b = 0; b < width; b++) into[out + b] = bytes[source + b]!;
      }
      out += width;
    }
  }
}

/** Places in the storage of elements [from, to), counting like an odometer. */
function* places({ shape, strides, offset }: TorchTensor, from: number, to: number): Generator<number> {
  const index = shape.map(() => 0);
  let at = offset;
  let rest = from;
  for (let d = shape.length - 1; d >= 0; d--) {
    index[d] = rest % shape[d]!;
    rest = Math.floor(rest / shape[d]!);
    at += index[d]! * strides[d]!;
  }
  for (let i = from; i < to; i++) {
    yield at;
    for (let d = shape.length - 1; d >= 0; d--) {
      at += strides[d]!;
      if (++index[d]! < shape[d]!) break;
      at -= index[d]! * strides[d]!;
      index[d] = 0;
    }
  }
}
