// HiggsLinear over its life: against Python's layers, options, memory, state dicts, refusals.

import {
  castFloat,
  createRuntime,
  dequantize,
  float32Tensor,
  type HostTensor,
  quantize,
  type Runtime,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { goldenJson, goldenTensors } from '../../../fixtures/golden.ts';
import type { HiggsBits, HiggsDim } from './grid.ts';
import { higgs } from './higgs.ts';
import { HiggsLinear, type HiggsLinearOptions } from './linear.ts';

const open = () => createRuntime({ backends: [referenceBackend(), referenceBackend({ name: 'other' })] });
const allocated = async (runtime: Runtime) => (await runtime.backend()).allocated() + (await runtime.backend('other')).allocated();
const weight = castFloat(seededTensor(1, [128, 300], 0.1), 'bf16');
const bias = seededTensor(2, [128]);
const x = seededTensor(3, [2, 3, 300]);

interface Case {
  readonly name: string;
  readonly bits: HiggsBits;
  readonly p: HiggsDim;
  readonly group_size: number;
  readonly hadamard_size: number;
  readonly dtype: 'float16' | 'bfloat16';
  readonly in: number;
  readonly tile_p: 32 | 64;
  readonly file: string;
  readonly half_tolerance: number;
}

function relative(a: HostTensor, b: HostTensor): number {
  const [u, v] = [toFloat32(a), toFloat32(b)];
  const square = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(u.map((value, i) => value - v[i]!)) / square(v));
}

describe('layers of Python', () => {
  const { layers } = goldenJson<{ layers: Case[] }>('higgs/cases.json');

  it.each(layers.map((c) => [c.name, c] as const))('%s', async (_, c) => {
    const golden = goldenTensors(`higgs/${c.file}`);
    const state = Object.fromEntries(
      ['scales', 'tables', 'tables2', 'bias'].flatMap((name) => (golden.has(name) ? [[name, golden.get(name)!]] : [])),
    );
    const stored: Record<string, HostTensor> = { ...state, weight: golden.get('packed')! };
    await using runtime = await open();
    const facts = { hadamardSize: c.hadamard_size, tile: c.tile_p, inFeatures: c.in };
    using layer = await HiggsLinear.fromStateDict(stored, { runtime, ...facts });
    expect(layer.format).toMatchObject({ bits: c.bits, dim: c.p, group: c.group_size });
    expect(layer.stateDict()).toEqual(stored);
    const y = await layer.apply(golden.get('x')!);
    expect(y.dtype).toBe(c.dtype === 'float16' ? 'f16' : 'bf16');
    expect(relative(y, golden.get('y_half')!)).toBeLessThanOrEqual(c.half_tolerance);
    // Made here of the float weight: the same, but for a code at a near tie.
    const options: HiggsLinearOptions = {
      runtime,
      bits: c.bits,
      p: c.p,
      groupSize: c.group_size,
      hadamardSize: c.hadamard_size,
      tile: c.tile_p,
    };
    using made = await HiggsLinear.create({ weight: golden.get('weight')!, bias: golden.get('bias') }, options);
    expect(made.computeDtype).toBe(y.dtype);
    const ours = made.stateDict();
    expect(ours.tables2).toEqual(stored.tables2);
    const differing = ours.weight!.data.filter((byte, i) => byte !== stored.weight!.data[i]);
    expect(differing.length).toBeLessThanOrEqual(2);
    expect(relative(await made.apply(golden.get('x')!), y)).toBeLessThan(c.half_tolerance);
  });
});

it('adds the bias, once, in the dtype it computes in', async () => {
  await using runtime = await open();
  using layer = await HiggsLinear.create({ weight, bias }, { runtime });
  using plain = await HiggsLinear.create({ weight }, { runtime });
  expect([layer.bias, plain.bias, layer.computeDtype]).toEqual([true, false, 'bf16']);
  const zero = float32Tensor([1, 300], new Float32Array(300));
  expect(await layer.apply(zero)).toEqual({ ...castFloat(bias, 'bf16'), shape: [1, 128] });
  expect([...toFloat32(await plain.apply(zero))].every((value) => value === 0)).toBe(true);
  expect(layer.stateDict().bias).toEqual(castFloat(bias, 'bf16'));
});

it('has the dtype of the weight, or the one asked for', async () => {
  await using runtime = await open();
  for (const [given, asked, expected] of [
    ['f32', undefined, 'f16'],
    ['f16', undefined, 'f16'],
    ['bf16', 'f32', 'f32'],
  ] as const) {
    using layer = await HiggsLinear.create({ weight: castFloat(weight, given) }, { runtime, computeDtype: asked });
    expect([layer.computeDtype, layer.format.scale, (await layer.apply(x)).dtype]).toEqual([expected, expected, expected]);
  }
});

it('dequantizes to the original basis, and multiplies with that', async () => {
  await using runtime = await open();
  using layer = await HiggsLinear.create({ weight, bias }, { runtime, bits: 3, computeDtype: 'f32' });
  const w = await layer.dequantize();
  expect(w).toEqual(dequantize(await quantize(weight, higgs({ bits: 3 }))));
  const [values, rows] = [toFloat32(w), toFloat32(x)];
  const y = toFloat32(await layer.apply(x));
  for (const [i, value] of y.entries()) {
    let sum = toFloat32(bias)[i % 128]!;
    for (let k = 0; k < 300; k++) sum += rows[Math.floor(i / 128) * 300 + k]! * values[(i % 128) * 300 + k]!;
    expect(Math.abs(value - sum)).toBeLessThan(1e-5);
  }
  expect(relative(w, weight)).toBeLessThan(0.2);
});

it('gives its memory back, moves, and is gone after dispose', async () => {
  await using runtime = await open();
  const layer = await HiggsLinear.create({ weight, bias }, { runtime });
  expect([layer.backend, await allocated(runtime)]).toEqual(['reference', layer.bytes]);
  const y = await layer.apply(x);
  await layer.moveTo('other');
  expect([layer.backend, await allocated(runtime), (await runtime.backend()).allocated()]).toEqual(['other', layer.bytes, 0]);
  expect(await layer.apply(x)).toEqual(y);
  layer[Symbol.dispose]();
  layer[Symbol.dispose]();
  expect([layer.bytes, await allocated(runtime)]).toEqual([0, 0]);
  await expect(layer.apply(x)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  expect(() => layer.stateDict()).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
});

it('runs on device tensors, too', async () => {
  await using runtime = await open();
  using layer = await HiggsLinear.create({ weight, bias }, { runtime, computeDtype: 'f32' });
  const backend = await runtime.backend(layer.backend);
  const rows = float32Tensor([6, 300], toFloat32(x));
  const input = backend.alloc(rows);
  const output = backend.alloc({ dtype: 'f32', shape: [6, 128] });
  backend.write(input, rows.data);
  layer.forward(input, output);
  expect((await backend.read(output)).data).toEqual((await layer.apply(x)).data);
});

describe('state dicts', () => {
  it.each([
    ['of FLUTE', {}, ['bias', 'scales', 'tables', 'tables2', 'weight']],
    ['of the portable form', { packing: 'portable' }, ['bias', 'codes', 'grid', 'scales']],
    ['of other sizes', { bits: 2, p: 1, hadamardSize: 64, groupSize: 32 }, ['bias', 'codes', 'grid', 'scales']],
  ] as const)('%s come back, bare and within a model', async (_, options, names) => {
    await using runtime = await open();
    using layer = await HiggsLinear.create({ weight, bias }, { runtime, ...options });
    const state = layer.stateDict();
    expect(Object.keys(state).sort()).toEqual(names);
    const hadamardSize = layer.format.rotate!.block;
    using again = await HiggsLinear.fromStateDict(state, { runtime, hadamardSize, inFeatures: 300 });
    expect(again.stateDict()).toEqual(state);
    expect(await again.apply(x)).toEqual(await layer.apply(x));
    const model = new Map<string, HostTensor>(Object.entries(state).map(([name, tensor]) => [`model.q_proj.${name}`, tensor] as const));
    model.set('model.norm.weight', bias).set('model.q_proj2.weight', weight);
    using found = await HiggsLinear.fromStateDict(model, { runtime, hadamardSize, inFeatures: 300, path: 'model.q_proj' });
    expect(found.stateDict()).toEqual(state);
  });

  it('without in_features have all columns that are stored', async () => {
    await using runtime = await open();
    using layer = await HiggsLinear.create({ weight }, { runtime });
    using wide = await HiggsLinear.fromStateDict(layer.stateDict(), { runtime });
    expect(wide.shape).toEqual([128, 512]);
  });

  it('in f32 there are none', async () => {
    await using runtime = await open();
    using layer = await HiggsLinear.create({ weight }, { runtime, computeDtype: 'f32' });
    expect(() => layer.stateDict()).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }));
  });

  it('that are damaged are refused, naming the tensor', async () => {
    await using runtime = await open();
    using layer = await HiggsLinear.create({ weight, bias }, { runtime });
    const state = layer.stateDict();
    const load = (damage: object, facts = {}) => HiggsLinear.fromStateDict({ ...state, ...damage }, { runtime, inFeatures: 300, ...facts });
    const scales = { ...state.scales!, data: state.scales!.data.slice() };
    new Uint16Array(scales.data.buffer)[5] = 0x7f80;
    await expect(load({ scales })).rejects.toMatchObject({ code: 'ERR_NON_FINITE', details: { tensor: 'scales', index: 5 } });
    await expect(load({ scales: { ...state.scales!, data: new Uint8Array(3) } })).rejects.toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      details: { tensor: 'scales' },
    });
    await expect(load({ bias: seededTensor(2, [64]) })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(load({}, { inFeatures: 600 })).rejects.toMatchObject({ code: 'ERR_BAD_CHECKPOINT' });
    await expect(load({}, { hadamardSize: 1024 })).rejects.toMatchObject({ code: 'ERR_BAD_CHECKPOINT' });
    const { tables2: _, ...without } = state;
    await expect(HiggsLinear.fromStateDict(without, { runtime })).rejects.toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      details: { tensor: 'tables2' },
    });
    await expect(HiggsLinear.fromStateDict({}, { runtime })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(HiggsLinear.fromStateDict([] as never, { runtime })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    expect(await allocated(runtime)).toBe(layer.bytes);
  });
});

describe('refuses', () => {
  it.each([
    [{ bits: 5 }, /bits cannot be 5/],
    [{ hadamard_size: 64 }, /there is no option hadamard_size/],
    [{ computeDtype: 'f64' }, /computeDtype cannot be f64/],
    [{ runtime: undefined }, /needs the option runtime/],
    [{ runtime: {} }, /no runtime/],
  ])('%j', async (options, message) => {
    await using runtime = await open();
    await expect(HiggsLinear.create({ weight }, { runtime, ...options } as HiggsLinearOptions)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });

  it.each([
    [{ hadamardSize: 100 }, /hadamardSize cannot be 100/],
    [{ tile: 16 }, /tile cannot be 16/],
    [{ p: 3 }, /p cannot be 3/],
    [{ inFeatures: 0 }, /inFeatures cannot be 0/],
    [{ bits: 4 }, /there is no option bits/],
  ])('state dicts with %j', async (options, message) => {
    await using runtime = await open();
    await expect(HiggsLinear.fromStateDict({}, { runtime, ...options } as never)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });

  it('what it cannot quantize, before and after', async () => {
    await using runtime = await open();
    const create = (linear: object, options = {}) => HiggsLinear.create(linear as never, { runtime, ...options });
    await expect(create({})).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(create({ weight, bias: seededTensor(2, [64]) })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(
      create({ weight, bias: float32Tensor([128], new Float32Array(128).fill(1e6)) }, { computeDtype: 'f16' }),
    ).rejects.toMatchObject({
      code: 'ERR_DTYPE_OVERFLOW',
    });
    await expect(create({ weight }, { bits: 3, packing: 'flute' })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
    await expect(create({ weight: float32Tensor([1, 8], [1, 2, Number.NaN, 4, 5, 6, 7, 8]) })).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
    });
    expect(await allocated(runtime)).toBe(0);
  });
});
