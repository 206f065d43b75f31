// The self-test's model in subgroups that SwiftShader, whose are of 4, does not have: of other sizes, and of invocations that do not stand side by side.
import { expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS, withSubgroupsOf } from '../../../fixtures/webgpu.ts';
import { findAdapter, findGpu, requestDevice } from './adapter.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();

it.for([8, 32, 64])('subgroups of %i give right numbers', async (width, context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  const real = await requestDevice(await findAdapter(await findGpu(TEST_OPTIONS.dawn), { software: true }));
  const problems: unknown[] = [];
  const onProblem = (problem: unknown): void => void problems.push(problem);
  const device = withSubgroupsOf(width, real);
  await using backend = await webgpu({ software: true, device, features: ['subgroups'], onProblem }).open();
  expect(problems).toEqual([]);
  expect(backend.device.features).toContain('subgroups');
  real.destroy();
});
