// The conformance kit, in the test runner that Node.js has.
import { describe, it } from 'node:test';
import { quantize } from '@lowbit/core';
import { layoutConformance, quantizerConformance } from '@lowbit/testing';
import { rtn, rtnLayout } from './index.js';

const weight = {
  dtype: 'f32',
  shape: [48, 64],
  data: new Uint8Array(Float32Array.from({ length: 48 * 64 }, (_, i) => Math.sin(i)).buffer),
};

for (const options of [{}, { bits: 8, group: 64 }]) {
  quantizerConformance(rtn(options), { describe, it }, { others: [rtn({ ...options, group: 16 }), rtn({ bits: 8, group: 128 })] });
}
const four = rtn();
const eight = rtn({ bits: 8 });
layoutConformance(
  rtnLayout,
  [
    { name: '4 bits', use: four, weight: await quantize(weight, four) },
    { name: '8 bits', use: eight, weight: await quantize(weight, eight) },
  ],
  { describe, it },
);
