// The conformance kit on the adapter of this machine; where there is no GPU, that is SwiftShader.
import { backendConformance, type TestRunner } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import { noWebGpu, TEST_OPTIONS } from '../../../fixtures/webgpu.ts';
import { webgpu } from './webgpu.ts';

const missing = await noWebGpu();

it('there is an adapter', async (context) => {
  needs(context, 'webgpu', missing === undefined, missing ?? '');
  expect(await webgpu(TEST_OPTIONS).probe()).toMatchObject({ ok: true });
});

/** SwiftShader compiles every kernel with care: programs of many of them take longer than tests usually may. */
const runner: TestRunner = { describe, it: (name, body) => it(name, { timeout: 120_000 }, body) };

// Large enough for the kit's own weights, and exceeded by [600, 256] in 4 bits.
if (missing === undefined) backendConformance(webgpu({ ...TEST_OPTIONS, bindingLimit: 1 << 16 }), runner, { giant: [1000, 256] });
