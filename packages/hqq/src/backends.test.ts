// Which of a runtime's backends each of hqq's names stands for. Backends other than the reference are stood in for by it: only names matter here.

import { createRuntime, referenceBackend } from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { HQQ_BACKENDS, type HqqBackend } from './backends.ts';
import { hqq } from './hqq.ts';
import { prepareForInference } from './inference.ts';
import { HqqLinear } from './linear.ts';
import type { HqqOptions } from './options.ts';

const weight = seededTensor(1, [32, 128], 0.1);
const x = seededTensor(2, [3, 128]);
const named = (...names: string[]) => createRuntime({ backends: names.map((name) => referenceBackend({ name })) });

type Dtype = 'f32' | 'f16' | 'bf16';

/** Where a layer lands: the name of the backend that holds its bytes, or the code of the error. */
async function lands(name: HqqBackend, options: HqqOptions, computeDtype: Dtype, ...backends: string[]): Promise<string> {
  await using runtime = await named(...backends);
  using layer = await HqqLinear.create({ weight }, hqq({ optimize: false, ...options }), { runtime, computeDtype });
  const before = await layer.apply(x);
  try {
    await layer.setBackend(name);
  } catch (error) {
    expect(layer.backend).toBe('default');
    expect(await layer.apply(x)).toEqual(before);
    const { code, hint } = error as { code: string; hint?: string };
    expect(hint).toMatch(/./);
    return code;
  }
  expect(layer.backend).toBe(name);
  expect(await layer.apply(x)).toEqual(before);
  const holders: string[] = [];
  for (const backend of backends) if ((await runtime.backend(backend)).allocated() > 0) holders.push(backend);
  expect(await Promise.all(holders.map(async (holder) => (await runtime.backend(holder)).allocated()))).toEqual([layer.bytes]);
  return holders[0]!;
}

const everything = ['webgpu', 'reference', 'cpu', 'cuda'];
const UNSUPPORTED = 'ERR_UNSUPPORTED_FORMAT';

describe('names', () => {
  it('are those of hqq', () => expect(HQQ_BACKENDS.length).toBe(15));

  const cases: readonly (readonly [HqqBackend, HqqOptions, Dtype, string])[] = [
    ['default', {}, 'f16', 'webgpu'],
    ['PYTORCH', {}, 'f16', 'reference'],
    ['PYTORCH_FORWARD', { bits: 3, axis: 0 }, 'f32', 'reference'],
    ['PYTORCH_COMPILE', {}, 'f16', 'cpu'],
    ['PYTORCH_FORWARD_COMPILE', {}, 'f16', 'cpu'],
    ['PYTORCH_BACKPROP', {}, 'f16', UNSUPPORTED],
    ['PYTORCH_BACKPROP_COMPILE', {}, 'f16', UNSUPPORTED],
    ['ATEN', { axis: 0 }, 'f16', 'cuda'],
    ['ATEN', { axis: 1 }, 'f16', UNSUPPORTED],
    ['ATEN_FORWARD', { axis: 0, bits: 3 }, 'f32', 'cuda'],
    ['ATEN_BACKPROP', { axis: 0 }, 'f16', UNSUPPORTED],
    ['ATEN_FORWARD_INT8', { axis: 0 }, 'f16', UNSUPPORTED],
    ['torchao_int4', {}, 'bf16', 'cuda'],
    ['torchao_int4', { groupSize: null }, 'bf16', 'cuda'],
    ['torchao_int4', {}, 'f16', UNSUPPORTED],
    ['torchao_int4', { bits: 8 }, 'bf16', UNSUPPORTED],
    ['torchao_int4', { axis: 0 }, 'bf16', UNSUPPORTED],
    ['torchao_int4', { groupSize: 16 }, 'bf16', UNSUPPORTED],
    ['torchao_int4', { channelWise: false }, 'bf16', UNSUPPORTED],
    ['bitblas', { bits: 2, groupSize: 32 }, 'f16', 'cuda'],
    ['bitblas', { bits: 8 }, 'f16', UNSUPPORTED],
    ['bitblas', {}, 'bf16', UNSUPPORTED],
    ['gemlite', { bits: 8, groupSize: 16 }, 'bf16', 'cuda'],
    ['gemlite', { groupSize: null }, 'f16', 'cuda'],
    ['gemlite', { bits: 3 }, 'f16', UNSUPPORTED],
    ['gemlite', { axis: 0 }, 'f16', UNSUPPORTED],
    ['gemlite', { groupSize: 8 }, 'f16', UNSUPPORTED],
    ['gemlite', { groupSize: 256 }, 'f16', UNSUPPORTED],
    ['gemlite', {}, 'f32', UNSUPPORTED],
    ['marlin', { groupSize: null }, 'f16', UNSUPPORTED],
  ];
  it.each(cases)('%s of %o in %s: %s', async (name, options, dtype, expected) => {
    expect(await lands(name, options, dtype, ...everything)).toBe(expected);
  });

  it('say what the runtime lacks', async () => {
    for (const name of HQQ_BACKENDS) {
      const axis = name.startsWith('ATEN') ? 0 : 1;
      const dtype = name === 'torchao_int4' ? 'bf16' : 'f16';
      const landed = await lands(name, { axis }, dtype, 'reference');
      const refused = /BACKPROP|INT8|marlin/.test(name);
      const here = /^(default|PYTORCH|PYTORCH_FORWARD)$/.test(name);
      expect(landed, name).toBe(refused ? UNSUPPORTED : here ? 'reference' : 'ERR_BACKEND_UNAVAILABLE');
    }
    expect(await lands('torchao_int4', {}, 'bf16', 'reference', 'cpu')).toBe('cpu');
    expect(await lands('TRITON' as HqqBackend, {}, 'f16', 'reference')).toBe('ERR_BAD_ARGUMENT');
    expect(await lands('toString' as HqqBackend, {}, 'f16', 'reference')).toBe('ERR_BAD_ARGUMENT');
  });
});

describe('a layer', () => {
  it('starts on the backend asked for, quantized now, later or before', async () => {
    await using runtime = await named('reference', 'cuda');
    const options = { runtime, backend: 'ATEN' } as const;
    using now = await HqqLinear.create({ weight }, hqq({ axis: 0 }), options);
    using later = await HqqLinear.create({ weight }, hqq({ axis: 0 }), { ...options, initialize: false });
    using changed = await HqqLinear.create({ weight }, hqq({ axis: 0 }), { runtime, initialize: false });
    await changed.setBackend('ATEN');
    await later.initialize();
    await changed.initialize();
    using before = await HqqLinear.fromStateDict(now.stateDict(), options);
    expect([now.backend, later.backend, changed.backend, before.backend]).toEqual(['ATEN', 'ATEN', 'ATEN', 'ATEN']);
    expect((await runtime.backend('reference')).allocated()).toBe(0);
    expect((await runtime.backend('cuda')).allocated()).toBe(4 * now.bytes);
    await expect(HqqLinear.create({ weight }, hqq(), { ...options, initialize: false })).rejects.toMatchObject({ code: UNSUPPORTED });
  });
});

describe('prepareForInference', () => {
  it('moves every layer, or none if one does not fit', async () => {
    await using runtime = await named('reference', 'cuda');
    using q = await HqqLinear.create({ weight }, hqq(), { runtime });
    using v = await HqqLinear.create({ weight }, hqq({ bits: 3 }), { runtime });
    const model = new Map([
      ['layers.0.self_attn.q_proj', q],
      ['layers.0.self_attn.v_proj', v],
    ]);
    const attempt = prepareForInference(model, { backend: 'gemlite' });
    await expect(attempt).rejects.toMatchObject({ code: UNSUPPORTED, message: expect.stringContaining('v_proj has 3 bits') });
    expect((await runtime.backend('cuda')).allocated()).toBe(0);

    model.delete('layers.0.self_attn.v_proj');
    const seen: unknown[] = [];
    await prepareForInference(model, { backend: 'gemlite', onProgress: ({ item }) => seen.push(item) });
    expect(seen).toEqual(['layers.0.self_attn.q_proj']);
    expect((await runtime.backend('cuda')).allocated()).toBe(q.bytes);
    await prepareForInference(model);
    expect(q.backend).toBe('default');
    expect((await runtime.backend('reference')).allocated()).toBe(q.bytes + v.bytes);

    const reason = new Error('enough');
    await expect(prepareForInference(model, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(prepareForInference(model, { backed: 'gemlite' } as never)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    const hint = expect.stringContaining('[path, HqqLinear] pairs');
    for (const wrong of [[['a', {}]], { a: q }, [q], [null], q, undefined]) {
      await expect(prepareForInference(wrong as never)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint });
    }
    const unknown = prepareForInference([], { backend: 'TRITON' as HqqBackend });
    await expect(unknown).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('TRITON') });
  });
});
