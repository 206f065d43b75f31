import { memoryReader, memoryWriter, type PartWriter, quantize } from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { expect, it } from 'vitest';
import { hqq } from './hqq.ts';
import { tiling } from './tiles.ts';

const format = { kind: 'affine', levels: 16, axis: 0, scale: 'f32', zero: 'f32', packing: '4bit_u8' } as const;

it('begins at whole f32 words on axis 0, whatever the group size', () => {
  const { tiles } = tiling({ ...format, group: 48 }, [3072, 1024]);
  expect(tiles.length).toBeGreaterThan(3);
  for (const { from } of tiles) expect(from % 4).toBe(0);
});

it('reads one grid for a whole weight in long ranges, and writes its codes at once', async () => {
  const weight = seededTensor(1, [64, 32]);
  const reader = memoryReader('w', weight);
  const reads: number[] = [];
  const counting: typeof reader = {
    ...reader,
    read: (from, to, into, at) => {
      reads.push(to - from);
      return reader.read(from, to, into, at);
    },
  };
  const quantizer = hqq({ channelWise: false });
  const whole = await quantize(weight, quantizer);
  const { writer, parts } = memoryWriter(whole.parts);
  const writes: string[] = [];
  const out: PartWriter = {
    write: (part, at, data) => {
      writes.push(part);
      return writer.write(part, at, data);
    },
  };
  await quantizer.quantize(counting, whole.format, out, { budget: Number.POSITIVE_INFINITY });
  expect(reads).toEqual([64 * 32]);
  expect(writes).toEqual(['codes', 'scale', 'zero']);
  expect(parts).toEqual(whole.parts);
});
