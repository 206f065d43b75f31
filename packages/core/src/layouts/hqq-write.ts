// Writing one linear in the `hqq` layout: the 19 tensors that HQQLinear's encoded state dict has, with the dtypes that the library gives them
// (hqq 0.2.x). Bits, group and axis are repeated in every layer, which is what readers go by.

import { grouping } from '../codecs/index.ts';
import { byteLength } from '../dtype.ts';
import type { LayoutTensor, QuantizedSite } from '../spec/checkpoint.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Format } from '../spec/format.ts';
import type { Quantizer } from '../spec/quantizer.ts';
import type { DType, JsonObject } from '../spec/tensor.ts';
import { bitsOfLevels, type HqqSettings, isHqqFormat, META_DTYPES, partsOf, storedCodes, tensorName, torchName } from './hqq-format.ts';

/** True for what the hqq method makes with plain scales and zeros of one dtype. */
export function acceptsHqq(quantizer: Quantizer, format: Format): boolean {
  return quantizer.method === 'hqq' && isHqqFormat(format);
}

/** The settings in a quantizer's config record. Throws ERR_BAD_ARGUMENT if one is missing or of the wrong type. */
export function hqqSettings(quantizer: Quantizer): HqqSettings {
  const config: JsonObject = quantizer.config;
  const wrong = (name: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `the hqq layout cannot use ${name} = ${JSON.stringify(config[name])} of the quantizer's config`, {
      hint: 'Use a quantizer made by hqq() of @lowbit/hqq, or one with the same config record.',
      details: { method: quantizer.method, config },
    });
  const number = (name: keyof HqqSettings): number => {
    const value = config[name];
    if (typeof value !== 'number') throw wrong(name);
    return value;
  };
  const flag = (name: keyof HqqSettings): boolean => {
    const value = config[name];
    if (typeof value !== 'boolean') throw wrong(name);
    return value;
  };
  const axis = number('axis');
  if (axis !== 0 && axis !== 1) throw wrong('axis');
  return {
    nbits: number('nbits'),
    group_size: config.group_size === null ? null : number('group_size'),
    axis,
    channel_wise: flag('channel_wise'),
    optimize: flag('optimize'),
    round_zero: flag('round_zero'),
    view_as_float: flag('view_as_float'),
  };
}

/** The tensors of one linear, bias apart. Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold. */
export function hqqTensors(
  { site: { path, shape }, use: quantizer, format }: QuantizedSite,
  { computeDtype }: { readonly computeDtype: DType },
): readonly LayoutTensor[] {
  const nbits = format.kind === 'affine' ? bitsOfLevels(format.levels) : undefined;
  if (!isHqqFormat(format) || nbits === undefined) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${path}: the hqq layout cannot hold this format`, {
      hint: 'It holds affine codes with plain scales and zeros of one dtype (f16, bf16, f32).',
      details: { path, format },
    });
  }
  if (!META_DTYPES.has(computeDtype)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${path}: hqq layers do not compute in ${computeDtype}`, {
      hint: 'Use f16, bf16 or f32.',
    });
  }
  const settings = hqqSettings(quantizer);
  const parts = partsOf(format, shape);
  const codes = storedCodes(parts.codes!, settings.view_as_float ? computeDtype : undefined);
  if (codes === undefined) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `${path}: rows of ${parts.codes!.shape.at(-1)} bytes cannot be seen as ${computeDtype}`,
      {
        hint: 'Turn the float view off, or choose another group size.',
        details: { path, shape },
      },
    );
  }
  const constant = (name: string, dtype: DType, dims: readonly number[], data: Uint8Array): LayoutTensor => ({
    name: tensorName(path, name),
    spec: { dtype, shape: dims },
    content: { data },
  });
  const part = (name: string, from: string, spec: LayoutTensor['spec']): LayoutTensor => ({
    name: tensorName(path, name),
    spec,
    content: { part: from },
  });
  const flag = (name: string, value: boolean): LayoutTensor => constant(name, 'u8', [], Uint8Array.of(value ? 1 : 0));
  const integer = (name: string, value: number): LayoutTensor =>
    constant(
      name,
      'i32',
      [],
      bytes(4, (view) => view.setInt32(0, value, true)),
    );
  const text = (name: string, value: string): LayoutTensor => constant(name, 'u8', [value.length], new TextEncoder().encode(value));

  const tensors = [
    part('W_q', 'codes', codes),
    part('scale', 'scale', parts.scale!),
    part('zero', 'zero', parts.zero!),
    constant('shape', 'i64', [2], new Uint8Array(BigInt64Array.from(shape, BigInt).buffer)),
    // The library tells integers from floats by their Python type, so 1.58 alone is stored as a float.
    Number.isInteger(nbits)
      ? integer('nbits', nbits)
      : constant(
          'nbits',
          'f32',
          [],
          bytes(4, (view) => view.setFloat32(0, nbits, true)),
        ),
    integer('group_size', grouping(format, shape).group),
    integer('axis', format.axis),
    text('packing', format.packing),
    text('unpack_view_dtype', torchName(parts.codes!.dtype)),
    text('compute_dtype', torchName(computeDtype)),
    flag('view_as_float', settings.view_as_float),
    flag('quant_scale', false),
    flag('quant_zero', false),
    flag('offload_meta', false),
    flag('channel_wise', settings.channel_wise),
    flag('optimize', settings.optimize),
    flag('round_zero', settings.round_zero),
    flag('encoded_state_dict', true),
    flag('stores_quant_config', true),
  ];
  for (const { name, spec, content } of tensors) {
    if ('data' in content && content.data.byteLength !== byteLength(spec)) throw new Error(`internal: ${name} has the wrong length`);
  }
  return tensors;
}

function bytes(length: number, fill: (view: DataView) => void): Uint8Array {
  const data = new Uint8Array(length);
  fill(new DataView(data.buffer));
  return data;
}
