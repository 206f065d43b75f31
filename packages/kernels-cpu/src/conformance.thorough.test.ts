// The conformance kit on every instruction set of this machine, with 1 to 3 threads.
import { backendConformance } from '@lowbit/testing';
import { describe, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { cpu } from './cpu.ts';
import { addon } from './load.node.ts';

let isas: ReturnType<ReturnType<typeof addon.load>['isas']> = [];
let reason = '';
try {
  isas = addon.load().isas();
} catch (error) {
  reason = (error as Error).message;
}

it('the addon is there', (context) => needs(context, 'kernels-cpu', reason === '', reason));

for (const isa of isas) {
  for (const threads of [1, 2, 3]) {
    backendConformance(
      cpu({ isa, threads, name: `cpu ${isa} ${threads}` }),
      { describe, it },
      { tolerances: { batch: 0, dequantize: 0 }, giant: [4099, 128] },
    );
  }
}
