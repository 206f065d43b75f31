import { float32Tensor, type Matrix, memoryReader, quantize } from '@lowbit/core';
import { seededTensor } from '@lowbit/core/testing';
import { expect, it } from 'vitest';
import { hqq } from './hqq.ts';
import { loadTile, tiling } from './tiles.ts';

const format = { kind: 'affine', levels: 16, axis: 0, scale: 'f32', zero: 'f32', packing: '4bit_u8' } as const;

it('begins at whole f32 words on axis 0, whatever the group size', () => {
  const { tiles } = tiling({ ...format, group: 48 }, [3072, 1024]);
  expect(tiles.length).toBe(4);
  for (const { from } of tiles) expect(from % 4).toBe(0);
});

it('reads and writes a tile of all columns at once', async () => {
  const shape: Matrix = [64, 32];
  const weight = seededTensor(1, shape);
  const reader = memoryReader('w', weight);
  const reads: number[] = [];
  const t = tiling({ ...format, group: 16 }, shape);
  const counting: typeof reader = {
    ...reader,
    read: (from, to, into, at) => {
      reads.push(to - from);
      return reader.read(from, to, into, at);
    },
  };
  const loaded = new Float32Array(64 * 32);
  await loadTile(counting, t, t.tiles[0]!, loaded);
  expect(reads).toEqual([64 * 32]);
  const transposed = Float32Array.from(loaded, (_, i) => loaded[(i % 128) * 16 + Math.floor(i / 128)]!);
  expect(float32Tensor(shape, transposed)).toEqual(weight);

  const quantizer = hqq({ channelWise: false });
  const whole = await quantize(weight, quantizer);
  const writes: string[] = [];
  const out = { write: async (part: string) => void writes.push(part) };
  await quantizer.quantize(reader, whole.format, out, { budget: Number.POSITIVE_INFINITY });
  expect(writes).toEqual(['codes', 'scale', 'zero']);
});
