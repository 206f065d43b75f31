// The conformance kit on the adapter of this machine with all that it has (SwiftShader, where there is no GPU: subgroups of 4).
import { expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { webgpuConformance } from '../../../fixtures/webgpu-conformance.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();

it('there is an adapter', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  expect(await webgpu(TEST_OPTIONS).probe()).toMatchObject({ ok: true });
});

if (missing === undefined) webgpuConformance({});
