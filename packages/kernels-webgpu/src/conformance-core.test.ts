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

if (missing === undefined) webgpuConformance({ features: [] });
