// The conformance kit with nothing beyond the core of WebGPU.
import { expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { webgpuConformance } from '../../../fixtures/webgpu-conformance.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();

it('no feature is used', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  await using backend = await webgpu({ ...TEST_OPTIONS, features: [] }).open();
  expect(backend.device.features).not.toContain('subgroups');
  expect(backend.device.features).not.toContain('shader-f16');
});

// Of weights a format for each kernel: what else tells formats apart does not depend on features.
const GROUPS =
  /^(operations|lifetime)$|: (affine 4 bits|affine 3 bits, axis 0|codebook 4 bits, a short last block|codebook of pairs, rotated|int8|dense f16)$/;
if (missing === undefined) webgpuConformance({ features: [] }, GROUPS);
