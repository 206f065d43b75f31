import { formatSamples, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { castFloat, roundTo, toFloat32 } from './dtype.ts';
import { LinearModule } from './linear-module.ts';
import { dequantize } from './quantized.ts';
import { referenceBackend } from './reference/index.ts';
import { createRuntime } from './runtime.ts';
import type { BackendProvider } from './spec/backend.ts';
import type { HostTensor } from './spec/tensor.ts';
import { float32Tensor } from './tensor.ts';

const samples = formatSamples();
const { weight } = samples.find(({ name }) => name === 'affine 4 bits')!;
const [out, inp] = weight.shape;
const bias = seededTensor(5, [out]);

/** x W^T + bias in float64 over the numbers of `w`. */
function product(x: HostTensor, w: HostTensor, b: HostTensor | undefined): number[] {
  const [xs, ws, bs] = [toFloat32(x), toFloat32(w), b && toFloat32(b)];
  const rows = xs.length / inp;
  return Array.from({ length: rows * out }, (_, i) => {
    const [row, col] = [Math.floor(i / out), i % out];
    let sum = bs ? bs[col]! : 0;
    for (let k = 0; k < inp; k++) sum += xs[row * inp + k]! * ws[col * inp + k]!;
    return sum;
  });
}

const open = () => createRuntime({ backends: [referenceBackend(), referenceBackend({ name: 'other' })] });

describe('LinearModule', () => {
  it.each(samples)('multiplies: $name', async ({ weight: sample }) => {
    await using runtime = await open();
    using layer = await LinearModule.create(sample, { runtime });
    const x = seededTensor(1, [3, sample.shape[1]]);
    const y = await layer.apply(x);
    using linear = await runtime.linear(sample);
    const { backend } = layer;
    const input = backend.alloc(x);
    const output = backend.alloc({ dtype: 'f32', shape: [3, sample.shape[0]] });
    backend.write(input, x.data);
    linear.forward(input, output);
    expect(y).toEqual(await backend.read(output));
    expect(toFloat32(y).some((value) => value !== 0)).toBe(true);
    expect(await layer.dequantize()).toEqual(dequantize(sample));
  });

  it.each(['f32', 'f16', 'bf16'] as const)('computes in %s: x, bias and result are rounded to it', async (dtype) => {
    await using runtime = await open();
    using layer = await LinearModule.create(weight, { runtime, bias, computeDtype: dtype });
    const x = seededTensor(2, [4, inp]);
    const y = await layer.apply(x);
    expect([y.dtype, y.shape]).toEqual([dtype, [4, out]]);
    const exact = product(castFloat(x, dtype), dequantize(weight), castFloat(bias, dtype));
    expect([...toFloat32(y)]).toEqual(exact.map((value) => roundTo(dtype, Math.fround(value))));
    expect((await layer.apply(x, { dtype: 'f32' })).dtype).toBe('f32');
    expect(await layer.dequantize()).toEqual(dequantize(weight, { dtype }));
    expect(layer.biasTensor).toEqual(castFloat(bias, dtype));
  });

  it('keeps the leading shape, none and empty ones too', async () => {
    await using runtime = await open();
    using layer = await LinearModule.create(weight, { runtime, bias });
    const x = seededTensor(3, [2, 3, inp]);
    const y = await layer.apply(x);
    expect(y.shape).toEqual([2, 3, out]);
    const first = await layer.apply({ dtype: 'f32', shape: [inp], data: x.data.subarray(0, 4 * inp) });
    expect(first.shape).toEqual([out]);
    expect([...toFloat32(first)]).toEqual([...toFloat32(y).subarray(0, out)]);
    expect((await layer.apply(float32Tensor([0, 5, inp], []))).shape).toEqual([0, 5, out]);
    for (const dtype of ['f16', 'bf16'] as const) expect((await layer.apply(castFloat(x, dtype))).dtype).toBe('f32');
  });

  it('forward runs on tensors of its backend', async () => {
    await using runtime = await open();
    using layer = await LinearModule.create(weight, { runtime, bias, computeDtype: 'f16' });
    const x = seededTensor(3, [2, inp]);
    const input = layer.backend.alloc(x);
    const output = layer.backend.alloc({ dtype: 'f32', shape: [2, out] });
    layer.backend.write(input, x.data);
    layer.forward(input, output);
    const exact = product(x, dequantize(weight), castFloat(bias, 'f16'));
    expect([...toFloat32(await layer.backend.read(output))]).toEqual(exact.map(Math.fround));
  });
});

describe('memory', () => {
  it('gives back all that it took', async () => {
    await using runtime = await open();
    const backend = await runtime.backend();
    const layer = await LinearModule.create(weight, { runtime, bias });
    expect(layer.bytes).toBeGreaterThan(0);
    expect(backend.allocated()).toBe(layer.bytes);
    await layer.apply(seededTensor(1, [7, inp]));
    expect(backend.allocated()).toBe(layer.bytes);
    layer[Symbol.dispose]();
    layer[Symbol.dispose]();
    expect([backend.allocated(), layer.bytes]).toEqual([0, 0]);
    await expect(layer.apply(seededTensor(1, [7, inp]))).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    await expect(layer.dequantize()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    await expect(layer.moveTo()).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(() => layer.backend).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });

  it('keeps scales and zeros off the device if asked to, here and after a move', async () => {
    await using runtime = await open();
    using plain = await LinearModule.create(weight, { runtime });
    using layer = await LinearModule.create(weight, { runtime, offloadMeta: true });
    expect(layer.bytes).toBeLessThan(plain.bytes);
    const x = seededTensor(1, [7, inp]);
    expect(await layer.apply(x)).toEqual(await plain.apply(x));
    const { bytes } = layer;
    await layer.moveTo('other');
    expect(layer.bytes).toBe(bytes);
  });

  it('gives its scratch back when the backend fails', async () => {
    const failing: BackendProvider = {
      ...referenceBackend(),
      async open(options) {
        const backend = await referenceBackend().open(options);
        backend.read = () => Promise.reject(new Error('lost'));
        return backend;
      },
    };
    await using runtime = await createRuntime({ backends: [failing] });
    using layer = await LinearModule.create(weight, { runtime });
    await expect(layer.apply(seededTensor(1, [7, inp]))).rejects.toThrow('lost');
    expect(layer.backend.allocated()).toBe(layer.bytes);
  });

  it('moves to another backend and leaves the old one', async () => {
    await using runtime = await open();
    const [first, other] = [await runtime.backend('reference'), await runtime.backend('other')];
    using layer = await LinearModule.create(weight, { runtime, bias });
    const x = seededTensor(1, [7, inp]);
    const running = layer.apply(x);
    await layer.moveTo('other');
    expect([first.allocated(), other.allocated()]).toEqual([0, layer.bytes]);
    expect(layer.backend).toBe(other);
    expect(await layer.apply(x)).toEqual(await running);
    await expect(layer.moveTo('cuda')).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE' });
    expect(layer.backend).toBe(other);
    const moving = layer.moveTo('reference');
    layer[Symbol.dispose]();
    await expect(moving).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect([first.allocated(), other.allocated()]).toEqual([0, 0]);
  });
});

describe('refusals', () => {
  it.each([
    ['another width', float32Tensor([2, inp + 1], new Float32Array(2 * inp + 2))],
    ['no dimension', float32Tensor([], [1])],
    ['integers', { dtype: 'i32', shape: [inp], data: new Uint8Array(4 * inp) }],
    ['missing bytes', { dtype: 'f32', shape: [2, inp], data: new Uint8Array(4 * inp) }],
    ['nothing', undefined],
    ['numbers in place of bytes', { dtype: 'f32', shape: [2, inp], data: new Float32Array(2 * inp) }],
  ])('x with %s', async (_, x) => {
    await using runtime = await open();
    using layer = await LinearModule.create(weight, { runtime });
    await expect(layer.apply(x as HostTensor)).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH', hint: expect.any(String) });
    expect(layer.backend.allocated()).toBe(layer.bytes);
  });

  it('x without a shape, or with numbers for bytes, saying how to make one', async () => {
    await using runtime = await open();
    using layer = await LinearModule.create(weight, { runtime });
    const hint = expect.stringContaining('float32Tensor(shape, values)');
    const shapeless = { dtype: 'f32', data: new Uint8Array(4 * inp) } as unknown as HostTensor;
    await expect(layer.apply(shapeless)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint });
    const numbers = { dtype: 'f32', shape: [inp], data: new Float32Array(inp) } as unknown as HostTensor;
    await expect(layer.apply(numbers)).rejects.toMatchObject({
      message: expect.stringMatching(/`data`.*Uint8Array, got Float32Array/),
      hint,
    });
  });

  it.each<readonly [string, unknown, string]>([
    ['false', false, 'ERR_BAD_ARGUMENT'],
    ['text', 'b', 'ERR_BAD_ARGUMENT'],
    ['no shape', { dtype: 'f32', data: new Uint8Array(4 * out) }, 'ERR_BAD_ARGUMENT'],
    ['NaN', float32Tensor([out], new Float32Array(out).fill(Number.NaN)), 'ERR_NON_FINITE'],
    ['numbers beyond f16', float32Tensor([out], new Float32Array(out).fill(7e4)), 'ERR_DTYPE_OVERFLOW'],
  ])('a bias of %s', async (_, wrong, code) => {
    await using runtime = await open();
    const create = (computeDtype: 'f16' | 'f32') => LinearModule.create(weight, { runtime, bias: wrong as HostTensor, computeDtype });
    await expect(create('f16')).rejects.toMatchObject({ code, hint: expect.any(String), details: { tensor: 'bias' } });
    expect((await runtime.backend()).allocated()).toBe(0);
    if (code === 'ERR_DTYPE_OVERFLOW') (await create('f32'))[Symbol.dispose]();
  });

  it.each([undefined, null, {}])('the runtime %o', async (runtime) => {
    const hint = expect.stringContaining('createRuntime({ backends: [referenceBackend()] })');
    await expect(LinearModule.create(weight, { runtime } as never)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint });
  });

  it('what cannot be prepared', async () => {
    await using runtime = await open();
    const create = (options: object) => LinearModule.create(weight, { runtime, ...options });
    await expect(create({ bias: seededTensor(1, [out + 1]) })).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    await expect(create({ computeDtype: 'f64' })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(create({ backend: 'cuda' })).rejects.toMatchObject({ code: 'ERR_BACKEND_UNAVAILABLE' });
    const reason = new Error('enough');
    await expect(create({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect((await runtime.backend()).allocated()).toBe(0);
  });

  it.each([
    ['none', /does not take this weight .*: never/],
    ['dequant', /expand the weight/],
  ] as const)('a named backend that answers %s', async (level, message) => {
    const picky: BackendProvider = {
      ...referenceBackend({ name: 'picky' }),
      async open(options) {
        const backend = await referenceBackend({ name: 'picky' }).open(options);
        backend.supports = () => (level === 'none' ? { level, reason: 'never' } : { level, bytes: 1 });
        return backend;
      },
    };
    await using runtime = await createRuntime({ backends: [picky] });
    const attempt = LinearModule.create(weight, { runtime, backend: 'picky' });
    await expect(attempt).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT', message: expect.stringMatching(message) });
  });
});
