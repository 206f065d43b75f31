// State dicts that are damaged or of no one layer: what fromStateDict says of them.

import { createRuntime, float32Tensor, type HostTensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { Linear4bit } from './linear-4bit.ts';
import { Linear8bitLt } from './linear-8bit.ts';
import type { StateDict } from './state-dict.ts';

const weight = seededTensor(1, [32, 128], 0.1);
const open = () => createRuntime({ backends: [referenceBackend()] });
const four = (nested: boolean) => async (runtime: Awaited<ReturnType<typeof open>>) => {
  using layer = await Linear4bit.create({ weight }, { runtime, compressStatistics: nested });
  return layer.stateDict();
};
const eight = async (runtime: Awaited<ReturnType<typeof open>>) => {
  using layer = await Linear8bitLt.create({ weight }, { runtime });
  return layer.stateDict();
};
const layers = { plain: [Linear4bit, four(false)], nested: [Linear4bit, four(true)], int8: [Linear8bitLt, eight] } as const;

/** The state dict under a path, with element 1 of one tensor replaced. */
function damaged(state: StateDict, name: string, value: number): StateDict {
  const tensor = state[name]!;
  const values = toFloat32(tensor).slice();
  values[1 % values.length] = value;
  const made = { ...state, [name]: float32Tensor(tensor.shape, values) };
  return Object.fromEntries(Object.entries(made).map(([key, entry]) => [`m.${key}`, entry]));
}

describe('fromStateDict', () => {
  it.each([
    ['plain', 'weight.absmax', Number.NaN],
    ['plain', 'weight.absmax', Number.POSITIVE_INFINITY],
    ['nested', 'weight.nested_absmax', Number.NaN],
    ['nested', 'weight.nested_absmax', Number.NEGATIVE_INFINITY],
    ['nested', 'weight.nested_quant_map', Number.NaN],
    ['int8', 'SCB', Number.NaN],
    ['int8', 'SCB', Number.POSITIVE_INFINITY],
    ['int8', 'SCB', -1],
  ] as const)('refuses a %s layer whose %s has %d', async (kind, name, value) => {
    await using runtime = await open();
    const [Layer, make] = layers[kind];
    const state = damaged(await make(runtime), name, value);
    await expect(Layer.fromStateDict(state, { runtime, path: 'm' })).rejects.toMatchObject({
      code: Number.isFinite(value) ? 'ERR_TENSOR_MISMATCH' : 'ERR_NON_FINITE',
      message: expect.stringContaining(`"m.${name}"`),
      hint: expect.any(String),
      details: { tensor: `m.${name}` },
    });
    expect((await runtime.backend()).allocated()).toBe(0);
  });

  const order = (value: number): HostTensor => ({ dtype: 'u8', shape: [], data: Uint8Array.of(value) });
  it.each([
    ['an SCB', { SCB: float32Tensor([32], new Float32Array(32)) }, 'ERR_TENSOR_MISMATCH', 'SCB'],
    ['codes in another order', { weight_format: order(2) }, 'ERR_UNSUPPORTED_FORMAT', 'weight_format'],
  ] as const)('refuses a 4-bit layer with %s beside it', async (_, more, code, name) => {
    await using runtime = await open();
    const state = { ...(await four(false)(runtime)), ...more };
    await expect(Linear4bit.fromStateDict(state, { runtime })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(`"${name}"`),
    });
  });

  it('takes a 4-bit layer that says its codes are in rows', async () => {
    await using runtime = await open();
    const state = await four(false)(runtime);
    using layer = await Linear4bit.fromStateDict({ ...state, weight_format: order(0) }, { runtime });
    expect(layer.stateDict()).toEqual(state);
  });
});
