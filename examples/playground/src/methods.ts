// What the page offers to quantize with.

import { int8, nf4 } from '@lowbit/bnb';
import type { Quantizer } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';

export type Method = 'hqq' | 'nf4' | 'int8' | 'higgs';
export type Bits = 2 | 3 | 4 | 8;

export interface Settings {
  readonly method: Method;
  readonly bits: Bits;
}

export interface MethodInfo {
  readonly label: string;
  readonly about: string;
  readonly bits: readonly Bits[];
}

export const METHODS: Readonly<Record<Method, MethodInfo>> = {
  hqq: { label: 'HQQ', about: 'Fits scale and zero of each group of 64 weights. A good first choice.', bits: [2, 3, 4, 8] },
  higgs: {
    label: 'HIGGS',
    about: 'Rotates weights and rounds pairs of them to an optimal grid. Small errors, slower here.',
    bits: [2, 3, 4],
  },
  nf4: { label: 'NF4', about: 'The 4-bit normal float of bitsandbytes and QLoRA.', bits: [4] },
  int8: { label: 'LLM.int8', about: 'Eight bits per weight with a scale for each row, as bitsandbytes has it.', bits: [8] },
};

export function makeQuantizer({ method, bits }: Settings): Quantizer {
  switch (method) {
    case 'hqq':
      return hqq({ bits });
    case 'higgs':
      return higgs({ bits: bits as 2 | 3 | 4 });
    case 'nf4':
      return nf4();
    case 'int8':
      return int8();
  }
}
