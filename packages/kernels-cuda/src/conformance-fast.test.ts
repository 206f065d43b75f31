// The conformance kit with activations of prompts in one plane (`precision: 'fast'`), by tolerances of its own: what has fewer than 65 rows is held to the kit's.
import { backendConformance } from '@lowbit/testing';
import { describe, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

it('addon and emulator are there', (context) => needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? ''));

if (noFakeDriver === undefined) {
  pretend();
  // A sum of many numbers of 12 bits: a 4,094th of the largest activation each, in the mean far less. LLM.int8 is as it was.
  backendConformance(cuda({ driver: FAKE_DRIVER, precision: 'fast' }), { describe, it }, { tolerances: { linear: 5e-4, batch: 5e-4 } });
}
