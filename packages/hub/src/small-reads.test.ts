import type { Entries, HostTensor, TensorSpec } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import type { FileSource } from './reading.ts';
import { smallReads } from './small-reads.ts';

/** A file of `sizes` bytes a tensor, one after another, whose reads are counted. */
function counted(sizes: readonly number[], { place = true, shorter = 0 } = {}) {
  const all = Uint8Array.from({ length: sizes.reduce((sum, size) => sum + size, 0) }, (_, i) => i % 251);
  const there = all.subarray(0, all.length - shorter);
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, size) => sum + size, 0));
  const reads = { blocks: 0, single: 0 };
  const file = {
    async read(into: Uint8Array, at: number) {
      reads.blocks++;
      const part = there.subarray(at, at + into.byteLength);
      into.set(part);
      return part.byteLength;
    },
  };
  const entries: Entries = new Map(sizes.map((size, i): [string, TensorSpec] => [`t${i}`, { dtype: 'u8', shape: [size] }]));
  const bytesOf = (name: string): Uint8Array => {
    const i = Number(name.slice(1));
    return all.slice(starts[i], starts[i]! + sizes[i]!);
  };
  const source = {
    label: 'file',
    entries,
    files: [],
    state: undefined,
    async read(name: string): Promise<HostTensor> {
      reads.single++;
      if (bytesOf(name).byteLength + starts[Number(name.slice(1))]! > there.length) throw new Error('the file became shorter');
      return { ...entries.get(name)!, data: bytesOf(name) };
    },
    ...(place ? { place: (name: string) => ({ file, at: starts[Number(name.slice(1))]!, bytes: sizes[Number(name.slice(1))]! }) } : {}),
    async [Symbol.asyncDispose]() {},
  } as FileSource;
  return { source, reads, bytesOf, names: [...entries.keys()] };
}

describe('smallReads', () => {
  it('reads neighbours once, and gives the same bytes', async () => {
    const { source, reads, bytesOf, names } = counted([...new Array<number>(3000).fill(4), 70_000, 8, 200]);
    const small = smallReads(source);
    for (const [i, { data }] of (await Promise.all(names.map((name) => small.read(name)))).entries())
      expect(data).toEqual(bytesOf(names[i]!));
    expect(reads.single).toBe(1); // the large one
    expect(reads.blocks).toBeLessThan(5);
  });

  it('reads tensors across the edge of a block, ranges and those without a place as before', async () => {
    const { source, reads, bytesOf } = counted([8190, 4, 10]);
    const small = smallReads(source);
    expect((await small.read('t1')).data).toEqual(bytesOf('t1'));
    await small.read('t2', { range: [0, 10] });
    expect(reads).toEqual({ blocks: 0, single: 2 });
    const bare = counted([4], { place: false });
    expect(smallReads(bare.source)).toBe(bare.source);
  });

  it('leaves what is missing to whoever can say what is wrong', async () => {
    const { source } = counted([4, 4], { shorter: 2 });
    await expect(smallReads(source).read('t1')).rejects.toThrow('the file became shorter');
    await expect(smallReads(source).read('t0')).resolves.toMatchObject({ dtype: 'u8' });
  });
});
