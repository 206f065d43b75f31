// The conformance kit on the emulator: all of JavaScript, addon, driver interface and kernels.
import { backendConformance } from '@lowbit/testing';
import { describe, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

it('addon and emulator are there', (context) => needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? ''));

if (noFakeDriver === undefined) {
  pretend();
  backendConformance(cuda({ driver: FAKE_DRIVER }), { describe, it });
}
