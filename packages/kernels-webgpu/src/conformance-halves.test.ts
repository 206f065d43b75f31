// The conformance kit on the kernels for `shader-f16`. SwiftShader has no f16: it runs them with f32 in its place, which holds the same numbers.
import { afterAll, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS, withHalvesAsFloats } from '../../../fixtures/webgpu.ts';
import { webgpuConformance } from '../../../fixtures/webgpu-conformance.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const real =
  missing === undefined ? await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true })) : undefined;
afterAll(() => real?.destroy());

it('kernels for f16 are used', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  await using backend = await webgpu({ ...TEST_OPTIONS, device: withHalvesAsFloats(real!), features: ['shader-f16'] }).open();
  expect(backend.device.features).toContain('shader-f16');
});

// Of other weights the kernels are the core's.
if (real) webgpuConformance({ device: withHalvesAsFloats(real), features: ['shader-f16'] }, /affine|dense f16|operations|lifetime/);
