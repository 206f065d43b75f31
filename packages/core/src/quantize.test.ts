import { expect, it } from 'vitest';
import { memoryReader, quantize } from './quantize.ts';
import type { Quantizer } from './spec/quantizer.ts';
import { float32Tensor, hostTensor } from './tensor.ts';

const never: Quantizer = {
  spec: 1,
  method: 'never',
  config: {},
  identity: 'never',
  format: () => {
    throw new Error('asked for a format');
  },
  quantize: () => Promise.reject(new Error('ran')),
};

it.each([
  ['not a tensor', [[1, 2]], 'ERR_TENSOR_MISMATCH'],
  ['nothing', undefined, 'ERR_TENSOR_MISMATCH'],
  ['integers', hostTensor('i32', [2, 2], new Int32Array(4)), 'ERR_TENSOR_MISMATCH'],
  ['too few bytes', { dtype: 'f32', shape: [8, 64], data: new Uint8Array(40) }, 'ERR_TENSOR_MISMATCH'],
  ['a vector', float32Tensor([4], [1, 2, 3, 4]), 'ERR_TENSOR_MISMATCH'],
  ['an unknown dtype', { dtype: 'f99', shape: [1, 1], data: new Uint8Array(4) }, 'ERR_TENSOR_MISMATCH'],
])('quantize refuses %s before it asks the quantizer', async (_, weight, code) => {
  await expect(quantize(weight as never, never)).rejects.toMatchObject({ code });
});

it.each([undefined, {}, { bits: 4 }])('quantize refuses %j for a quantizer', async (quantizer) => {
  await expect(quantize(float32Tensor([1, 2], [1, 2]), quantizer as never)).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    hint: expect.stringContaining('hqq'),
  });
});

it('tells how many weights are done', async () => {
  const inHalves: Quantizer = {
    ...never,
    format: (_, dtype) => ({ kind: 'dense', dtype }),
    quantize: async (_weight, _format, _out, { onWeights }) => {
      onWeights?.(3);
      onWeights?.(5);
      return { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
    },
  };
  const seen: unknown[] = [];
  await quantize(float32Tensor([2, 4], new Float32Array(8)), inHalves, { onProgress: (event) => seen.push(event) });
  const event = { phase: 'quantize', total: 8, unit: 'weights', item: 'weight' };
  expect(seen).toEqual([
    { ...event, done: 3 },
    { ...event, done: 8 },
  ]);
});

it('names the element that is not finite, counted in the whole tensor', async () => {
  const reader = memoryReader('w', float32Tensor([2, 4], [0, 0, 0, 0, 0, 0, Number.NaN, 0]));
  await expect(reader.read(4, 8, new Float32Array(8), 2)).rejects.toMatchObject({
    code: 'ERR_NON_FINITE',
    details: { tensor: 'w', index: 6 },
  });
});

it('keeps what is not finite when asked to', async () => {
  const reader = memoryReader('w', float32Tensor([1, 3], [0, Number.NaN, Number.NEGATIVE_INFINITY]));
  const into = new Float32Array(3);
  await reader.read(0, 3, into, 0, 'keep');
  expect([...into]).toEqual([0, Number.NaN, Number.NEGATIVE_INFINITY]);
});

it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
  'finds %d wherever it is in what was asked for, and nowhere else',
  async (bad) => {
    for (let at = 0; at < 11; at++) {
      const values = Float32Array.from({ length: 11 }, (_, i) => [0, -0, 1e-45, -3.4028234663852886e38, 3.4028234663852886e38][i % 5]!);
      values[at] = bad;
      const reader = memoryReader('w', float32Tensor([1, 11], values));
      for (const [from, to] of [
        [0, 11],
        [1, 10],
        [3, 8],
        [10, 11],
      ] as const) {
        const read = reader.read(from, to, new Float32Array(14), 3);
        if (at >= from && at < to) await expect(read).rejects.toMatchObject({ code: 'ERR_NON_FINITE', details: { index: at } });
        else await read;
      }
    }
  },
);

it('refuses options that there are not, and names the nearest', async () => {
  const { format } = { format: () => ({ kind: 'dense', dtype: 'f32' }) as const };
  const quantizer = { format, quantize: async () => ({ squaredError: 0, squaredWeight: 0, maxAbs: 0 }) } as unknown as Quantizer;
  await expect(quantize(float32Tensor([1, 1], [1]), quantizer, { meta_dtype: 'f16' } as object)).rejects.toMatchObject({
    code: 'ERR_BAD_ARGUMENT',
    message: 'quantize: there is no option meta_dtype',
    hint: expect.stringMatching(/^Did you mean metaDtype\? The options are signal, /),
  });
  await expect(quantize(float32Tensor([1, 1], [1]), quantizer, null as never)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
});
