// The conformance kit on every layout of hub, with what the methods make.

import { fp4, int8, nf4 } from '@lowbit/bnb';
import { type DType, quantize } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { bitsAndBytesLayout, higgsLayout, hqqLayout, hqqNestedLayout, hqqSafetensorsLayout, mixedLayout } from '@lowbit/hub';
import { type LayoutSample, layoutConformance, seededTensor } from '@lowbit/testing';
import { describe, it } from 'vitest';

const runner = { describe, it };
/** Of 128 KiB of codes at 4 bits. */
const weight = seededTensor(1, [256, 1024], 0.1);
const samples = async (
  methods: Readonly<Record<string, Parameters<typeof quantize>[1]>>,
  metaDtype: DType = 'f32',
): Promise<LayoutSample[]> =>
  Promise.all(Object.entries(methods).map(async ([name, use]) => ({ name, use, weight: await quantize(weight, use, { metaDtype }) })));

const plain = await samples({
  '4 bits': hqq({ bits: 4, groupSize: 64 }),
  '3 bits, axis 0': hqq({ bits: 3, groupSize: 64, axis: 0 }),
  '8 bits, a group per row': hqq({ bits: 8, groupSize: null }),
});
layoutConformance(hqqLayout, plain, runner);
layoutConformance(hqqSafetensorsLayout, plain, runner);
layoutConformance(
  hqqNestedLayout,
  await samples({ 'quantized scales and zeros': hqq({ bits: 4, quantScale: true, quantZero: true }) }),
  runner,
);
layoutConformance(
  bitsAndBytesLayout,
  await samples({ nf4: nf4(), 'fp4, double quantization': fp4({ doubleQuant: true }), int8: int8() }),
  runner,
);
layoutConformance(
  higgsLayout,
  await samples(
    { 'tiles of FLUTE': higgs(), 'scalars of 2 bits': higgs({ bits: 2, p: 1 }), 'the portable form': higgs({ bits: 3 }) },
    'f16',
  ),
  runner,
);
layoutConformance(
  mixedLayout,
  await samples(
    {
      'hqq with quantized scales': hqq({ bits: 4, quantScale: true }),
      'nf4, double quantization': nf4({ doubleQuant: true }),
      int8: int8(),
      'HIGGS in the portable form': higgs({ bits: 3 }),
    },
    'f16',
  ),
  runner,
);
