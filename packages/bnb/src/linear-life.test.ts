// What the layers do over their lives: options, memory, other backends, state dicts within models, and refusals.

import {
  type BackendProvider,
  castFloat,
  createRuntime,
  dequantize,
  float32Tensor,
  quantize,
  type Runtime,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { nf4 } from './four-bit.ts';
import { Linear4bit } from './linear-4bit.ts';
import { Linear8bitLt } from './linear-8bit.ts';

const weight = castFloat(seededTensor(1, [32, 128], 0.1), 'bf16');
const bias = seededTensor(2, [32]);
const x = seededTensor(3, [2, 3, 128]);
const open = () => createRuntime({ backends: [referenceBackend(), referenceBackend({ name: 'other' })] });
const allocated = async (runtime: Runtime) => (await runtime.backend()).allocated() + (await runtime.backend('other')).allocated();
/** The reference backend, but for formats: it takes none. */
const unable: BackendProvider = {
  ...referenceBackend({ name: 'unable' }),
  async open() {
    const backend = await referenceBackend({ name: 'unable' }).open();
    backend.supports = () => ({ level: 'none', reason: 'it takes no format' });
    return backend;
  },
};
const kinds = [
  ['Linear4bit', Linear4bit],
  ['Linear8bitLt', Linear8bitLt],
] as const;

it('has the defaults of Python', async () => {
  await using runtime = await open();
  using four = await Linear4bit.create({ weight }, { runtime });
  expect(four.format).toMatchObject({ table: 'fp4', group: 64, offset: true });
  expect([four.computeDtype, four.quantType, four.weightDtype, four.bias]).toEqual([undefined, 'fp4', 'bf16', false]);
  using eight = await Linear8bitLt.create({ weight }, { runtime });
  expect([eight.threshold, eight.format]).toEqual([0, { kind: 'int8', threshold: 0 }]);
});

it('computes in the dtype asked for, and answers in that of x', async () => {
  await using runtime = await open();
  const options = { runtime, quantType: 'nf4', compressStatistics: false } as const;
  using layer = await Linear4bit.create({ weight, bias }, { ...options, computeDtype: 'bf16' });
  using free = await Linear4bit.create({ weight, bias }, options);
  const y = await layer.apply(x);
  expect([y.dtype, y.shape]).toEqual(['f32', [2, 3, 32]]);
  using rounded = await Linear4bit.create({ weight, bias: castFloat(bias, 'bf16') }, options);
  expect(y).toEqual(await rounded.apply(castFloat(castFloat(x, 'bf16'), 'f32'))); // x and bias rounded to bf16, the result not
  expect(y).not.toEqual(await free.apply(x));
  expect((await free.apply(castFloat(x, 'f16'))).dtype).toBe('f16');
  expect([layer.stateDict().bias!.dtype, free.stateDict().bias!.dtype]).toEqual(['bf16', 'f32']);
  expect(await layer.dequantize()).toEqual(dequantize(await quantize(weight, nf4()), { dtype: 'bf16' }));
});

it('adds the bias as it was given where no dtype is asked for', async () => {
  await using runtime = await open();
  const half = castFloat(x, 'bf16');
  using free = await Linear4bit.create({ weight, bias }, { runtime });
  using rounded = await Linear4bit.create({ weight, bias: castFloat(bias, 'bf16') }, { runtime });
  const y = await free.apply(half);
  expect(y).toEqual(castFloat(await free.apply(castFloat(half, 'f32')), 'bf16')); // one rounding, that of the result
  expect(y).not.toEqual(await rounded.apply(half)); // Python's, which rounds the bias first
});

it('shows codes as another dtype', async () => {
  await using runtime = await open();
  using layer = await Linear4bit.create({ weight }, { runtime, quantStorage: 'bfloat16' });
  using plain = await Linear4bit.create({ weight }, { runtime });
  const [state, other] = [layer.stateDict(), plain.stateDict()];
  expect([state.weight!.dtype, state.weight!.shape, other.weight!.shape]).toEqual(['bf16', [1024, 1], [2048, 1]]);
  expect(Buffer.from(state.weight!.data)).toEqual(Buffer.from(other.weight!.data));
  using again = await Linear4bit.fromStateDict(state, { runtime });
  expect(again.stateDict()).toEqual(state);
});

describe.each(kinds)('%s', (_, Layer) => {
  it('gives its memory back, moves, and is gone after dispose', async () => {
    await using runtime = await open();
    const layer = await Layer.create({ weight, bias }, { runtime });
    expect(layer.bytes).toBeGreaterThan(0);
    expect([layer.backend, await allocated(runtime)]).toEqual(['reference', layer.bytes]);
    const y = await layer.apply(x);
    await layer.moveTo('other');
    expect([layer.backend, await allocated(runtime), (await runtime.backend()).allocated()]).toEqual(['other', layer.bytes, 0]);
    expect(await layer.apply(x)).toEqual(y);
    layer[Symbol.dispose]();
    layer[Symbol.dispose]();
    expect([layer.bytes, await allocated(runtime)]).toEqual([0, 0]);
    await expect(layer.apply(x)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    await expect(layer.dequantize()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(() => layer.stateDict()).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });

  it('runs on device tensors, too', async () => {
    await using runtime = await open();
    using layer = await Layer.create({ weight, bias }, { runtime });
    const backend = await runtime.backend(layer.backend);
    const rows = float32Tensor([6, 128], toFloat32(x));
    const input = backend.alloc(rows);
    const output = backend.alloc({ dtype: 'f32', shape: [6, 32] });
    backend.write(input, rows.data);
    layer.forward(input, output);
    expect((await backend.read(output)).data).toEqual((await layer.apply(x)).data);
  });

  it('is found by its path in the state dict of a model', async () => {
    await using runtime = await open();
    using layer = await Layer.create({ weight, bias }, { runtime });
    const own = Object.entries(layer.stateDict()).map(([name, tensor]) => [`model.q_proj.${name}`, tensor] as const);
    const model = { ...Object.fromEntries(own), 'model.norm.weight': bias, 'model.q_proj2.weight': weight };
    using again = await Layer.fromStateDict(model, { runtime, path: 'model.q_proj' });
    expect(again.stateDict()).toEqual(layer.stateDict());
    const others = {
      _metadata: { version: 1 },
      'model.mask': { dtype: 'complex64', shape: [1], data: new Uint8Array(8) },
      'model.k': null,
    };
    using beside = await Layer.fromStateDict({ ...model, ...others } as never, { runtime, path: 'model.q_proj' });
    expect(beside.stateDict()).toEqual(layer.stateDict());
    using bare = await Layer.fromStateDict({ ...layer.stateDict(), ...others } as never, { runtime });
    expect(bare.stateDict()).toEqual(layer.stateDict());
    const cut = { ...model, 'model.q_proj.bias': { ...bias, dtype: 'complex64' } };
    await expect(Layer.fromStateDict(cut as never, { runtime, path: 'model.q_proj' })).rejects.toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      details: { tensor: 'model.q_proj.bias' },
    });
    await expect(Layer.fromStateDict(model, { runtime, path: 'model.k_proj' })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(Layer.fromStateDict(model, { runtime, path: 'model.q_proj2' })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
  });

  it('stops when told, and reports progress', async () => {
    await using runtime = await open();
    const reason = new Error('enough');
    await expect(Layer.create({ weight }, { runtime, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const seen: number[] = [];
    using layer = await Layer.create({ weight }, { runtime, onProgress: ({ done }) => seen.push(done) });
    expect([seen.at(-1), layer.shape]).toEqual([32 * 128, [32, 128]]);
  });

  it('finds a runtime or backend that is none before it quantizes', async () => {
    await using runtime = await open();
    const seen: unknown[] = [];
    const attempt = (options: object) =>
      Layer.create({ weight }, { ...options, onProgress: (event: unknown) => seen.push(event) } as never);
    await expect(attempt({})).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', details: { option: 'runtime' } });
    await expect(attempt({ runtime: {} })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', details: { option: 'runtime' } });
    await expect(attempt({ runtime, backend: 'cuda' })).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE' });
    await using none = await createRuntime({ backends: [unable] });
    for (const backend of [undefined, 'unable']) {
      await expect(attempt({ runtime: none, backend })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
    }
    expect(seen).toEqual([]);
    await expect(Layer.fromStateDict({}, {} as never)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', details: { option: 'runtime' } });
  });

  const nan = float32Tensor([2, 64], new Float32Array(128).fill(Number.NaN));
  const cases: [what: string, linear: unknown, options: object, code: string][] = [
    ['a misspelt option', { weight }, { treshold: 6 }, 'ERR_BAD_ARGUMENT'],
    ['a vector', { weight: bias }, {}, 'ERR_TENSOR_MISMATCH'],
    ['no weight', {}, {}, 'ERR_TENSOR_MISMATCH'],
    ['a bias of another length', { weight, bias: seededTensor(4, [31]) }, {}, 'ERR_TENSOR_MISMATCH'],
    ['NaN', { weight: nan }, {}, 'ERR_NON_FINITE'],
    ['an unknown backend', { weight }, { backend: 'cuda' }, 'ERR_BACKEND_UNAVAILABLE'],
  ];
  it.each(cases)('refuses %s', async (_, linear, options, code) => {
    await using runtime = await open();
    await expect(Layer.create(linear as never, { runtime, ...options } as never)).rejects.toMatchObject({ code });
    expect(await allocated(runtime)).toBe(0);
  });

  it.each([
    ['null', null, 'ERR_BAD_ARGUMENT'],
    ['a tensor cut short', { weight: { ...weight, data: weight.data.subarray(2) } }, 'ERR_TENSOR_MISMATCH'],
    ['a bias that is no float', undefined, 'ERR_TENSOR_MISMATCH'],
  ] as const)('refuses a state dict: %s', async (_, state, code) => {
    await using runtime = await open();
    using layer = await Layer.create({ weight }, { runtime });
    const broken = { ...layer.stateDict(), bias: { dtype: 'i32', shape: [32], data: new Uint8Array(128) } } as const;
    await expect(Layer.fromStateDict(state === undefined ? broken : (state as never), { runtime })).rejects.toMatchObject({ code });
  });
});

it.each([
  ['quantType', 'int4'],
  ['compressStatistics', 1],
  ['quantStorage', 'float128'],
  ['blockSize', 48],
  ['computeDtype', 'f64'],
])('Linear4bit refuses %s = %s', async (name, value) => {
  await using runtime = await open();
  const attempt = Linear4bit.create({ weight }, { runtime, [name]: value } as never);
  await expect(attempt).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringMatching(/./) });
});

it('refuses what it could not save, and state dicts of the other kind', async () => {
  await using runtime = await open();
  const wide = { dtype: 'f64', shape: [2, 64], data: new Uint8Array(1024) } as const;
  await expect(Linear4bit.create({ weight: wide }, { runtime })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
  const odd = seededTensor(1, [2, 5]);
  await expect(Linear4bit.create({ weight: odd }, { runtime, quantStorage: 'float32' })).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED_FORMAT',
    message: expect.stringContaining('5 bytes'),
  });
  await expect(Linear8bitLt.create({ weight }, { runtime, threshold: -1 })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
  using four = await Linear4bit.create({ weight }, { runtime });
  using eight = await Linear8bitLt.create({ weight }, { runtime });
  await expect(Linear8bitLt.fromStateDict(four.stateDict(), { runtime })).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    hint: expect.stringContaining('Linear4bit'),
  });
  await expect(Linear4bit.fromStateDict(eight.stateDict(), { runtime })).rejects.toMatchObject({
    hint: expect.stringContaining('Linear8bitLt'),
  });
  await expect(Linear8bitLt.fromStateDict(eight.stateDict(), { runtime, threshold: Number.NaN })).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
  });
});
