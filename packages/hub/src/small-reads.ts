// Many small tensors in few reads: a quantized layer of some layouts has twenty of a few bytes each, and they lie together in the file.

import { elementCount, type HostTensor, type ReadOptions, type TensorSource } from '@lowbit/core';
import type { FileSource, TensorPlace } from './reading.ts';

const BLOCK = 8192;
/** Bytes of a tensor that is read with its neighbours. */
const SMALL = 256;

/**
 * The same tensors, of which small ones are read with the block of their file that they are in. For one pass over the files: what was read once is not
 * looked at again.
 */
export function smallReads(source: FileSource): TensorSource {
  const { place } = source;
  if (place === undefined) return source;
  const blocks = new Map<TensorPlace['file'], Map<number, Promise<Uint8Array>>>();
  const blockOf = (file: TensorPlace['file'], index: number, signal: AbortSignal | undefined): Promise<Uint8Array> => {
    const own = blocks.get(file) ?? new Map<number, Promise<Uint8Array>>();
    blocks.set(file, own);
    let block = own.get(index);
    if (block === undefined) {
      const into = new Uint8Array(BLOCK);
      block = file.read(into, index * BLOCK, signal).then((bytes) => into.subarray(0, bytes));
      own.set(index, block);
    }
    return block;
  };
  return {
    ...source,
    async read(name: string, options: ReadOptions = {}): Promise<HostTensor> {
      const spec = source.entries.get(name);
      const { file, at, bytes } = (spec && options.range === undefined && elementCount(spec.shape) <= SMALL && place(name)) || {};
      if (spec === undefined || file === undefined || bytes! > SMALL) return source.read(name, options);
      const index = Math.floor(at! / BLOCK);
      const from = at! - index * BLOCK;
      if (from + bytes! > BLOCK) return source.read(name, options);
      const block = await blockOf(file, index, options.signal);
      if (from + bytes! > block.byteLength) return source.read(name, options); // says what is wrong with the file
      return { dtype: spec.dtype, shape: spec.shape, data: block.slice(from, from + bytes!) };
    },
  };
}
