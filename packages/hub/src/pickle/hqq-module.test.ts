import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Affine, dequantize, elements, type HostTensor, type Matrix, type QuantizedTensor } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { openCheckpoint } from '../checkpoint.node.ts';
import { failure, folderOf, temporaryFolder } from '../testing.node.ts';
import { call, named, type Picklable, type Raw, storages, tensor, torchFile } from './testing.ts';

interface GoldenCase {
  readonly name: string;
  readonly shape: Matrix;
  readonly config: { readonly compute_dtype: 'f32' | 'f16' | 'bf16' };
  readonly layout?: { readonly bias: string | null };
  readonly raw_state_dict?: Readonly<Record<string, string | number | boolean>>;
}

/** A layer of a folder with this qmodel.pt, checked against the golden's numbers bit for bit. */
function expectDequantized(layer: QuantizedTensor, expected: HostTensor): void {
  const actual = dequantize(layer, { dtype: expected.dtype as 'f32' | 'f16' | 'bf16' });
  expect(actual.shape).toEqual(expected.shape);
  expect(elements(actual)).toEqual(elements(expected));
}

describe('layers of hqq 0.1.8: quantized and offloaded meta-data', () => {
  const cases = goldenJson<{ readonly cases: readonly GoldenCase[] }>('hqq/old-0.1.8/cases.json').cases.filter(({ layout }) => layout);
  const all = goldenTensors('hqq/old-0.1.8/layers.safetensors');

  test.each(cases)('$name', async ({ name, shape, layout }) => {
    await using temp = await temporaryFolder();
    const pt = await readFile(goldenPath('hqq/old-0.1.8/layers.pt'));
    await using checkpoint = await openCheckpoint(await folderOf(temp.path, { 'config.json': '{}', 'qmodel.pt': pt }));
    expect(checkpoint.layout).toBe('hqq');
    expect(checkpoint.quantized.size).toBe(cases.length);
    const stored = checkpoint.quantized.get(name)!;
    expect(stored.shape).toEqual(shape);
    expectDequantized(await checkpoint.linear(name), all.get(`${name}/expected.dequantized`)!);
    expect(stored.bias).toBe(layout!.bias === null ? undefined : `${name}.bias`);
    if (stored.bias !== undefined) expect(await checkpoint.tensor(stored.bias)).toEqual(all.get(`${name}/state/bias`));
  });

  test('are eleven', () => expect(cases.length).toBe(11));
});

describe('layers of hqq 0.2.8 as plain Python values', () => {
  const cases = goldenJson<{ readonly cases: readonly GoldenCase[] }>('hqq/cases.json').cases.filter(({ raw_state_dict: raw }) => raw);
  const all = goldenTensors('hqq/linear.safetensors');

  test('are many', () => expect(cases.length).toBeGreaterThan(20));

  test.each(cases)('$name', async ({ name, shape, raw_state_dict: raw }) => {
    await using temp = await temporaryFolder();
    const { add, data } = storages();
    const module = new Map<Picklable, Picklable>();
    for (const [key, value] of Object.entries(raw!)) module.set(key, plain(key, value));
    function plain(key: string, value: string | number | boolean): Picklable {
      if (typeof value !== 'string') return value;
      if (value.startsWith('tensor ')) {
        const made = add(all.get(`${name}/state_dict/${key}`)!);
        return key === 'W_q' ? call('torch._utils._rebuild_parameter', [made, false, call('collections.OrderedDict', [])]) : made;
      }
      const size = /^torch\.Size\(\[(.*)\]\)$/.exec(value);
      if (size) return call('torch.Size', [size[1]!.split(',').map(Number)]);
      return value.startsWith('torch.') ? named(value) : value;
    }
    const file = torchFile(new Map<Picklable, Picklable>([['m', module]]), data);
    await using checkpoint = await openCheckpoint(await folderOf(temp.path, { 'config.json': '{}', 'qmodel.pt': file }));
    expect(checkpoint.quantized.get('m')!.shape).toEqual(shape);
    expectDequantized(await checkpoint.linear('m'), all.get(`${name}/expected.dequantized`)!);
    expect(checkpoint.quantized.get('m')!.bias).toBe('bias' in raw! ? 'm.bias' : undefined);
  });
});

describe('variants', () => {
  const u8 = (count: number): HostTensor => ({
    dtype: 'u8',
    shape: [count / 16, 16],
    data: Uint8Array.from({ length: count }, (_, i) => i),
  });
  const f32 = (shape: readonly number[], ...values: readonly number[]): HostTensor => ({
    dtype: 'f32',
    shape,
    data: new Uint8Array(Float32Array.from(values).buffer),
  });

  /** An old module of 4 x 16 weights in 8 bits, with changes; null leaves a key out. */
  async function open(change: (add: (tensor: HostTensor) => Raw) => { readonly meta?: object; readonly module?: object }) {
    const temp = await temporaryFolder();
    const { add, data } = storages();
    const changes = change(add);
    const drop = (record: object) => new Map<Picklable, Picklable>(Object.entries(record).filter(([, value]) => value !== undefined));
    const meta = {
      nbits: 8,
      group_size: 16,
      shape: call('torch.Size', [[4, 16]]),
      scale: add(f32([4, 1], 1, 2, 3, 4)),
      zero: add(f32([4, 1], 0, 1, 0, 1)),
      axis: 1,
      packing: '8bit_u8',
      ...changes.meta,
    };
    const module = { W_q: add(u8(64)), meta: drop(meta), bias: null, ...changes.module };
    const content = new Map<Picklable, Picklable>([['a.b', drop(module)]]);
    await writeFile(join(temp.path, 'qmodel.pt'), torchFile(content, data));
    await writeFile(join(temp.path, 'config.json'), '{}');
    const opened = await openCheckpoint(temp.path).catch(async (error) => {
      await temp[Symbol.asyncDispose]();
      throw error;
    });
    return {
      opened,
      async [Symbol.asyncDispose]() {
        await opened[Symbol.asyncDispose]();
        await temp[Symbol.asyncDispose]();
      },
    };
  }

  test('keys that old files lack', async () => {
    await using folder = await open(() => ({}));
    const { format, parts } = await folder.opened.linear('a.b');
    expect(format).toEqual({ kind: 'affine', levels: 256, group: 16, axis: 1, scale: 'f32', zero: 'f32', packing: '8bit_u8' });
    expect(elements(dequantize({ format, shape: [4, 16], parts }))[17]).toBe((17 - 1) * 2);
  });

  test('without an axis it is 0, if the scales agree', async () => {
    const meta = { axis: undefined, group_size: 4 };
    await using folder = await open((add) => ({
      meta: { ...meta, scale: add(f32([1, 16], ...Array(16).fill(2))), zero: add(f32([1, 16], ...Array(16).fill(1))) },
    }));
    const layer = await folder.opened.linear('a.b');
    expect(layer.format).toMatchObject({ axis: 0, group: 4 } satisfies Partial<Affine>);
    expect(elements(dequantize(layer))[17]).toBe((17 - 1) * 2);
    const error = await failure(async () => {
      await using other = await open(() => ({ meta: { axis: undefined } })); // scales [4, 1] are of axis 1
      await other.opened.linear('a.b');
    });
    expect([error.code, error.details.tensor]).toEqual(['ERR_TENSOR_MISMATCH', 'a.b.W_q']);
  });

  test('one scale and one zero for the whole weight, whatever the axis', async () => {
    await using folder = await open((add) => ({
      meta: { group_size: null, scale: add(f32([], 0.5)), zero: add(f32([], 2)) },
    }));
    const layer = await folder.opened.linear('a.b');
    expect(layer.format).toMatchObject({ axis: 0, group: 64 } satisfies Partial<Affine>);
    expect(elements(dequantize(layer))[10]).toBe(4);
  });

  const wrong: [string, Parameters<typeof open>[0], string, RegExp][] = [
    ['no meta', () => ({ module: { meta: undefined } }), 'ERR_TENSOR_MISMATCH', /"a\.b\.\w+" is missing/],
    ['no packing', () => ({ meta: { packing: undefined } }), 'ERR_TENSOR_MISMATCH', /"a\.b\.packing" is missing/],
    ['a packing that is code', () => ({ meta: { packing: 'eval' } }), 'ERR_UNSUPPORTED_FORMAT', /eval/],
    ['no scale', () => ({ meta: { scale: undefined } }), 'ERR_TENSOR_MISMATCH', /"a\.b\.scale" is missing/],
    ['a scale that is a number', () => ({ meta: { scale: 1 } }), 'ERR_TENSOR_MISMATCH', /"a\.b\.scale" is i32/],
    ['too few zeros', (add) => ({ meta: { zero: add(f32([3, 1], 1, 2, 3)) } }), 'ERR_TENSOR_MISMATCH', /"a\.b\.zero"/],
    ['quantized zeros without them', () => ({ meta: { quant_zero: true } }), 'ERR_UNSUPPORTED_FORMAT', /no zero_q/],
    [
      'quantized zeros without what they mean',
      (add) => ({ meta: { quant_zero: true, zero_q: add({ ...u8(16), shape: [4, 1], data: new Uint8Array(4) }) } }),
      'ERR_TENSOR_MISMATCH',
      /meta_zero/,
    ],
    ['a stack of three', (add) => ({ meta: { zero_scale: add(f32([3, 1], 1, 2, 3)) } }), 'ERR_TENSOR_MISMATCH', /zero_scale/],
    ['a stack of nothing', (add) => ({ meta: { zero_scale: add(f32([])) } }), 'ERR_TENSOR_MISMATCH', /zero_scale/],
    ['codes of another size', (add) => ({ module: { W_q: add(u8(48)) } }), 'ERR_TENSOR_MISMATCH', /"a\.b\.W_q"/],
    ['a group that does not divide', () => ({ meta: { group_size: 7 } }), 'ERR_TENSOR_MISMATCH', /group_size/],
    ['a shape of one extent', () => ({ meta: { shape: [64] } }), 'ERR_TENSOR_MISMATCH', /shape/],
    ['a bias of another size', (add) => ({ module: { bias: add(f32([1], 1)) } }), 'ERR_TENSOR_MISMATCH', /bias/],
  ];
  test.each(wrong)('%s', async (_, change, code, message) => {
    const error = await failure(async () => {
      await using folder = await open(change);
      await folder.opened.linear('a.b');
    });
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  test('a storage that is one number short', async () => {
    await using temp = await temporaryFolder();
    const W_q = tensor({ dtype: 'u8', key: '0', count: 64, shape: [4, 16] });
    const file = torchFile(new Map<Picklable, Picklable>([['m', new Map<Picklable, Picklable>([['W_q', W_q]])]]), {
      0: new Uint8Array(63),
    });
    const error = await failure(async () => openCheckpoint(await folderOf(temp.path, { 'config.json': '{}', 'qmodel.pt': file })));
    expect(error.code).toBe('ERR_BAD_PICKLE');
    expect(error.message).toMatch(/"m\.W_q": its storage should have 64 bytes, the archive's entry has 63/);
  });
});
