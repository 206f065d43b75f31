// What the reference outputs list as inputs that an implementation should refuse: here each is a typed error before any work.

import { float32Tensor, type Matrix, quantize } from '@lowbit/core';
import { expect, it } from 'vitest';
import { goldenJson } from '../../../fixtures/golden.ts';
import { hqq } from './hqq.ts';
import type { HqqBits } from './options.ts';

interface Case {
  name: string;
  shape: Matrix;
  config: { nbits: HqqBits; group_size: number; axis: 0 | 1 };
}
const cases = goldenJson<{ cases: Case[] }>('hqq/cases.json').cases.filter(({ name }) => name.startsWith('reject-'));

it('knows all five', () => expect(cases.length).toBe(5));

it.each(cases.map((c) => [c.name, c] as const))('%s', async (name, { shape, config }) => {
  const attempt = async () =>
    quantize(
      float32Tensor(
        shape,
        Array.from({ length: shape[0] * shape[1] }, (_, i) => Math.sin(i)),
      ),
      hqq({ bits: config.nbits, groupSize: config.group_size, axis: config.axis }),
    );
  const code = name === 'reject-bits-7' ? 'ERR_BAD_ARGUMENT' : 'ERR_UNSUPPORTED_FORMAT';
  await expect(attempt()).rejects.toMatchObject({ code, hint: expect.stringMatching(/./) });
});
