// The conformance kit on the kernels for `shader-f16`. SwiftShader has no f16: it runs them with f32 in its place, which holds the same numbers.
import { afterAll, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS, withHalvesAsFloats } from '../../../fixtures/webgpu.ts';
import { webgpuConformance } from '../../../fixtures/webgpu-conformance.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import { type WebGpuOptions, webgpu } from './webgpu.ts';

const missing = await noWebGpu();
const real =
  missing === undefined ? await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true })) : undefined;
afterAll(() => real?.destroy());

it('kernels for f16 are used, and fused with what stands beside them', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const problems: unknown[] = [];
  const more: WebGpuOptions = { selfTest: true, onProblem: (problem) => problems.push(problem) };
  await using backend = await webgpu({ ...TEST_OPTIONS, device: withHalvesAsFloats(real!), features: ['shader-f16'], ...more }).open();
  expect(problems).toEqual([]);
  expect(backend.device.features).toContain('shader-f16');
});

// A format for each width of codes, and two for other grids. Of other weights, and of operations, the kernels are the core's.
const GROUPS = /^lifetime$|: (affine (8 bits|6 bits|4 bits|4 bits, axis 0|3 bits|2 bits|1 bit)|dense f16)$/;
if (real) webgpuConformance({ device: withHalvesAsFloats(real), features: ['shader-f16'] }, GROUPS);
