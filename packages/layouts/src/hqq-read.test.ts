// Layers that are whole are read as they were written; anything else is refused by name, after reading nothing but small tensors.

import type { Affine, DType, HostTensor, Matrix, Quantizer, TensorSource, TensorSpec } from '@lowbit/core';
import { byteLength, codecFor, elementCount, isLowbitError, type LowbitError } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HQQ_PACKINGS, isHqqFormat } from './hqq-format.ts';
import { nestedHqqTensors } from './hqq-nested.ts';
import { readHqqLinear } from './hqq-read.ts';
import { hqqTensors } from './hqq-write.ts';

/** A tensor of a file: what the header claims, and values if it is small. */
type Claim = TensorSpec & { readonly data?: Uint8Array };
type Layer = Map<string, Claim>;

/** Most elements of a tensor that may be read: that of a string. */
const SMALL = 64;

/** A source of claims. Reading a large tensor is a failure of the test. */
function sourceOf(layer: Layer): TensorSource {
  return {
    label: 'claims',
    entries: layer,
    async read(name): Promise<HostTensor> {
      const claim = layer.get(name)!;
      if (elementCount(claim.shape) > SMALL) throw new Error(`${name} was read: ${claim.dtype} [${claim.shape}]`);
      return { dtype: claim.dtype, shape: claim.shape, data: claim.data ?? new Uint8Array(byteLength(claim)) };
    },
    [Symbol.asyncDispose]: async () => {},
  };
}

interface Written {
  readonly format: Affine;
  readonly shape: Matrix;
  readonly layer: Layer;
}

/** The tensors of a linear `m`, large ones without their bytes. */
function written(format: Affine, shape: Matrix, viewed: boolean, computeDtype: DType): Written {
  const unused = () => {
    throw new Error('not used here');
  };
  const config = {
    nbits: 4,
    group_size: null,
    axis: format.axis,
    channel_wise: true,
    optimize: true,
    round_zero: true,
    view_as_float: viewed,
  };
  const use: Quantizer = { spec: 1, method: 'hqq', identity: 'test', config, format: unused, quantize: unused };
  const linear = { site: { path: 'm', tag: 'm', layer: 0, shape, bias: false }, use, format };
  const tensors = (isHqqFormat(format) ? hqqTensors : nestedHqqTensors)(linear, { computeDtype });
  const layer: Layer = new Map(
    tensors.map(({ name, spec, content }) => [name, { ...spec, ...('data' in content ? { data: content.data } : {}) }]),
  );
  return { format, shape, layer };
}

const META = fc.constantFrom<DType>('f16', 'bf16', 'f32');

/** Every format that hqq makes, on shapes that it fits. */
const layers = fc
  .record({
    levels: fc.constantFrom(256, 64, 32, 16, 8, 4, 3, 2),
    shape: fc.constantFrom<Matrix>([64, 64], [32, 128], [48, 40], [8, 16], [128, 96]),
    group: fc.constantFrom(8, 16, 32, 64),
    axis: fc.constantFrom<0 | 1>(0, 1),
    scale: fc.constantFrom<'plain' | 'groups'>('plain', 'groups'),
    zero: fc.constantFrom<'plain' | 'one' | 'groups'>('plain', 'one', 'groups'),
    dtype: META,
    viewed: fc.boolean(),
  })
  .map(({ levels, shape, group, axis, scale, zero, dtype, viewed }) => {
    const count = shape[0] * shape[1];
    const packing = levels > 16 ? '8bit_u8' : levels === 16 ? '4bit_u8' : levels === 8 ? '3bit_32' : levels > 2 ? '2bit_u8' : '1bit_u8';
    const nested = (kind: 'plain' | 'one' | 'groups'): DType | Affine =>
      kind === 'plain'
        ? dtype
        : {
            kind: 'affine',
            levels: 256,
            group: kind === 'one' ? count / group : 128,
            axis: 0,
            scale: dtype,
            zero: dtype,
            packing: '8bit_u8',
          };
    return {
      format: { kind: 'affine', levels, group, axis, scale: nested(scale), zero: nested(zero), packing } as Affine,
      shape,
      viewed,
      dtype,
    };
  })
  .filter(({ format, shape }) => {
    try {
      codecFor(format).parts(format, shape);
      return true;
    } catch {
      return false; // groups that do not divide, rows that do not pack
    }
  })
  .chain(({ format, shape, viewed, dtype }) => {
    try {
      return fc.constant(written(format, shape, viewed, dtype));
    } catch {
      return fc.constant(written(format, shape, false, dtype)); // rows too short for a float view
    }
  });

/** Fails unless reading gives what can be fetched, part by part, or a refusal that names a tensor of the layer. */
async function readOrRefuse(layer: Layer): Promise<LowbitError | undefined> {
  let stored: Awaited<ReturnType<typeof readHqqLinear>>;
  try {
    stored = await readHqqLinear(sourceOf(layer), 'm');
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    expect(['ERR_TENSOR_MISMATCH', 'ERR_UNSUPPORTED_FORMAT']).toContain(error.code);
    expect(error.details.tensor).toMatch(/^m\./);
    expect(error.message).toContain(error.details.tensor);
    return error;
  }
  for (const [part, spec] of Object.entries(codecFor(stored.format).parts(stored.format, stored.shape))) {
    expect(byteLength(layer.get(stored.parts[part]!)!), part).toBe(byteLength(spec));
  }
  return undefined;
}

const small = (dtype: DType, shape: readonly number[], values: ArrayBufferView): Claim => ({
  dtype,
  shape,
  data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
});
const text = (value: string): Claim => small('u8', [new TextEncoder().encode(value).length], new TextEncoder().encode(value));
const i32 = (...values: number[]): Claim => small('i32', values.length === 1 ? [] : [values.length], Int32Array.from(values));
const i64 = (...values: bigint[]): Claim => small('i64', [values.length], BigInt64Array.from(values));
const f32 = (value: number): Claim => small('f32', [], Float32Array.of(value));

describe('whole layers', () => {
  it('are read as they were written', async () => {
    await fc.assert(
      fc.asyncProperty(layers, async ({ format, shape, layer }) => {
        const stored = await readHqqLinear(sourceOf(layer), 'm');
        expect(stored).toMatchObject({ format, shape });
        expect(Object.keys(stored.parts).sort()).toEqual(Object.keys(codecFor(format).parts(format, shape)).sort());
      }),
      { numRuns: 300 },
    );
  });

  it('need packing, axis, shape, numbers and codes; nothing of them is guessed', async () => {
    const optional =
      /\.(?:nbits|group_size|unpack_view_dtype|compute_dtype|view_as_float|offload_meta|channel_wise|optimize|round_zero|stores_quant_config|encoded_state_dict)$/;
    await fc.assert(
      fc.asyncProperty(layers, fc.nat(), async (whole, pick) => {
        const layer: Layer = new Map(whole.layer);
        const name = [...layer.keys()][pick % layer.size]!;
        const claim = layer.get(name)!;
        layer.delete(name);
        const error = await readOrRefuse(layer);
        if (optional.test(name)) expect(error).toBeUndefined();
        else if (/\.quant_(?:scale|zero)$/.test(name)) expect(error === undefined).toBe(claim.data![0] === 0);
        else expect(error).toBeDefined();
      }),
      { numRuns: 600 },
    );
  });
});

/** Edits of a layer: a tensor dropped, claimed to be of another shape or dtype, or of another value. */
const edits = fc.array(
  fc.record({
    pick: fc.nat(),
    kind: fc.constantFrom('drop', 'shape', 'dtype', 'value', 'swap'),
    other: fc.nat(),
    // Products beyond 2^53 do not get past the header's checks.
    shape: fc.array(fc.oneof(fc.nat(130), fc.constantFrom(2 ** 17)), { maxLength: 3 }),
    dtype: fc.constantFrom<DType>('u8', 'i8', 'i16', 'i32', 'i64', 'f16', 'bf16', 'f32', 'f64', 'bool', 'u32'),
    value: fc.oneof(
      fc.string({ maxLength: 20, unit: 'grapheme' }).map(text),
      fc.constantFrom(...HQQ_PACKINGS.keys(), 'torch.uint8', 'torch.int32').map(text),
      fc.integer().map((value) => i32(value)),
      fc.double().map(f32),
      fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { minLength: 1, maxLength: 3 }).map((values) => i64(...values)),
      fc.constantFrom(i64(2n ** 40n, 2n ** 40n), i64(2n ** 26n, 2n ** 26n), i32(0), i32(1), i32(-1), f32(Number.NaN)),
    ),
  }),
  { minLength: 1, maxLength: 4 },
);

describe('damaged layers', () => {
  it('are refused by the name of a tensor, or what is left fits together; large tensors are not touched', async () => {
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(layers, edits, async (whole, changes) => {
        const layer: Layer = new Map(whole.layer);
        for (const { pick, kind, other, shape, dtype, value } of changes) {
          const names = [...layer.keys()];
          const name = names[pick % names.length]!;
          const claim = layer.get(name)!;
          if (kind === 'drop' && layer.size > 1) layer.delete(name);
          else if (kind === 'shape') layer.set(name, resized({ ...claim, shape }));
          else if (kind === 'dtype') layer.set(name, resized({ ...claim, dtype }));
          else if (kind === 'swap') layer.set(name, layer.get(names[other % names.length]!)!);
          else layer.set(name, value);
        }
        if (await readOrRefuse(layer)) refused++;
      }),
      { numRuns: 1500 },
    );
    expect(refused).toBeGreaterThan(500);
  });

  /** A claim whose values, where it has some, are as many as it says; none where a file would have to be large. */
  function resized({ data, ...spec }: Claim): Claim {
    if (data === undefined || elementCount(spec.shape) > SMALL) return spec;
    const bytes = new Uint8Array(byteLength(spec));
    bytes.set(data.subarray(0, bytes.length));
    return { ...spec, data: bytes };
  }

  const b4: Affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
  const coded: Affine = { kind: 'affine', levels: 256, group: 128, axis: 0, scale: 'f16', zero: 'f16', packing: '8bit_u8' };
  const plain = (): Layer => written(b4, [128, 64], false, 'f16').layer;
  const nested = (): Layer => written({ ...b4, scale: coded }, [128, 64], false, 'f16').layer;

  const one: Record<string, Claim> = { scale: { dtype: 'f16', shape: [] }, zero: { dtype: 'f16', shape: [] } };

  const TENSOR = 'ERR_TENSOR_MISMATCH';
  const FORMAT = 'ERR_UNSUPPORTED_FORMAT';
  it.each<[string, () => Layer, Record<string, Claim | undefined>, string, string]>([
    ['no axis', plain, { axis: undefined }, TENSOR, 'm.axis'],
    ['an axis of another kind', plain, { axis: i32(2) }, TENSOR, 'm.axis'],
    ['the other axis', plain, { axis: i32(0) }, TENSOR, 'm.W_q'],
    ['an axis that is text', plain, { axis: text('1') }, TENSOR, 'm.axis'],
    ['a shape beyond all numbers', plain, { shape: i64(2n ** 62n, 2n ** 62n) }, TENSOR, 'm.shape'],
    ['a shape of a petabyte', plain, { shape: i64(2n ** 25n, 2n ** 25n) }, TENSOR, 'm.W_q'],
    ['a shape of a petabyte with codes to match', plain, petabyte(), TENSOR, 'm.scale'],
    ['an empty shape', plain, { shape: i64(0n, 64n) }, TENSOR, 'm.shape'],
    ['a shape of another extent', plain, { shape: i64(64n, 64n) }, TENSOR, 'm.W_q'],
    ['bits that the packing does not hold', plain, { nbits: i32(8) }, TENSOR, 'm.nbits'],
    ['a packing of other bits', plain, { packing: text('8bit_u8'), nbits: i32(8) }, TENSOR, 'm.W_q'],
    ['a packing in another script', plain, { packing: text('4bit_\u00fc8') }, FORMAT, 'm.packing'],
    ['a packing that is code', plain, { packing: text('__import__("os")') }, FORMAT, 'm.packing'],
    ['a packing of a thousand letters', plain, { packing: text('4'.repeat(1000)) }, TENSOR, 'm.packing'],
    [
      '3-bit codes on one grid',
      plain,
      { packing: text('3bit_32'), nbits: i32(3), scale: { dtype: 'f16', shape: [] } },
      FORMAT,
      'm.packing',
    ],
    ['no groups, beside their scales', plain, { channel_wise: i32(0) }, TENSOR, 'm.channel_wise'],
    ['no groups, beside their quantized scales', nested, { channel_wise: i32(0) }, TENSOR, 'm.channel_wise'],
    ['groups with one scale', plain, one, TENSOR, 'm.channel_wise'],
    ['a flag of two', plain, { quant_scale: i32(2) }, TENSOR, 'm.quant_scale'],
    ['a flag that is no number', plain, { quant_zero: small('f16', [], Uint16Array.of(0x7e00)) }, TENSOR, 'm.quant_zero'],
    ['a bias of integers', plain, { bias: { dtype: 'i64', shape: [128] } }, TENSOR, 'm.bias'],
    ['a bias of another length', plain, { bias: { dtype: 'f16', shape: [64] } }, TENSOR, 'm.bias'],
    ['quantized scales without a version', plain, { quant_scale: i32(1) }, FORMAT, 'm.quant_scale'],
    ['quantized scales that lost their version', nested, { lowbit_version: undefined }, FORMAT, 'm.quant_scale'],
    ['a later version', nested, { lowbit_version: i32(2) }, FORMAT, 'm.lowbit_version'],
    ['quantized scales without codes', nested, { scale_q: undefined }, FORMAT, 'm.quant_scale'],
    ['quantized scales without an axis', nested, { 'meta_scale.axis': undefined }, TENSOR, 'm.meta_scale.axis'],
    ['more quantized scales than groups', nested, { 'meta_scale.shape': i64(256n, 1n) }, TENSOR, 'm.meta_scale.shape'],
    ['quantized scales without end', nested, { 'meta_scale.shape': i64(2n ** 60n, 2n ** 60n) }, TENSOR, 'm.meta_scale.shape'],
    ['quantized scales as floats', nested, { 'meta_scale.view_as_float': i32(1) }, TENSOR, 'm.meta_scale.view_as_float'],
  ])('%s', async (_, make, changes, code, tensor) => {
    const layer = make();
    expect(await readOrRefuse(layer)).toBeUndefined();
    for (const [name, claim] of Object.entries(changes)) {
      if (claim === undefined) layer.delete(`m.${name}`);
      else layer.set(`m.${name}`, claim);
    }
    const error = await readOrRefuse(layer);
    expect([error?.code, error?.details.tensor]).toEqual([code, tensor]);
  });

  /** What a header may claim of a file with holes in it. */
  function petabyte(): Record<string, Claim> {
    return { shape: i64(2n ** 25n, 2n ** 25n), W_q: { dtype: 'u8', shape: [2 ** 43, 64] } };
  }
});
