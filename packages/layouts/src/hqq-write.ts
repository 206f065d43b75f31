// Writing one linear in the `hqq` layout: the 19 tensors that HQQLinear's encoded state dict has, with the dtypes that the library gives them
// (hqq 0.2.x). Bits, group and axis are repeated in every layer, which is what readers go by.

import type { Affine, DType, FixedTensor, Format, JsonObject, LinearSettings, Matrix, QuantizedSite, TensorSpec } from '@lowbit/core';
import { grouping, LowbitError, packing } from '@lowbit/core';
import { moduleEncoder } from './hqq-encode.ts';
import { bitsOfLevels, type HqqSettings, isHqqFormat, META_DTYPES, partsOf, storedCodes, torchName } from './hqq-format.ts';
import { ownerOf, tensorName } from './names.ts';

/** True for what the hqq method makes with plain scales and zeros of one dtype. */
export function acceptsHqq(quantizer: LinearSettings, format: Format): boolean {
  return quantizer.method === 'hqq' && isHqqFormat(format);
}

/** The settings in a quantizer's config record. Throws ERR_BAD_ARGUMENT if one is missing or of the wrong type. */
export function hqqSettings(quantizer: LinearSettings): HqqSettings {
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

/** The tensors of one linear of a checkpoint. Throws as `encodeHqqLinear`, and ERR_BAD_ARGUMENT for a quantizer without hqq's settings. */
export function hqqTensors(linear: QuantizedSite, { computeDtype }: { readonly computeDtype: DType }): readonly FixedTensor[] {
  return encodeHqqLinear(hqqRecord(linear, computeDtype));
}

/** What is known of a linear of a plan. Throws ERR_BAD_ARGUMENT for a quantizer without hqq's settings. */
export function hqqRecord({ site: { path, shape }, use, format }: QuantizedSite, computeDtype: DType): HqqLinearRecord {
  return { path, shape, format, computeDtype, settings: hqqSettings(use) };
}

/** One linear as the library would save it. */
export interface HqqLinearRecord {
  /** Module path in the checkpoint; empty in the linear's own state dict. */
  readonly path: string;
  readonly shape: Matrix;
  readonly format: Format;
  readonly settings: HqqSettings;
  readonly computeDtype: DType;
}

/** The tensors of one linear, bias apart. Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold. */
export function encodeHqqLinear(record: HqqLinearRecord): readonly FixedTensor[] {
  const { path, format } = record;
  if (isHqqFormat(format)) return encodeLayer(record, format);
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: the hqq layout cannot hold this format`, {
    hint: 'It holds affine codes with plain scales and zeros of one dtype (f16, bf16, f32).',
    details: { path, format },
  });
}

/** The tensors of a linear whose scales and zeros are plain, or nested as hqq makes them. Throws ERR_UNSUPPORTED_FORMAT for the dtype or the view. */
export function encodeLayer({ path, shape, settings, computeDtype }: HqqLinearRecord, format: Affine): readonly FixedTensor[] {
  if (!META_DTYPES.has(computeDtype)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: hqq layers do not compute in ${computeDtype}`, {
      hint: 'Use f16, bf16 or f32.',
    });
  }
  const parts = storedShapes(partsOf(format, shape), format, shape, settings);
  const codes = storedCodes(parts.codes!, settings.view_as_float ? computeDtype : undefined);
  if (codes === undefined) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `${ownerOf(path)}: rows of ${parts.codes!.shape.at(-1)} bytes cannot be seen as ${computeDtype}`,
      {
        hint: 'Turn the float view off, or choose another group size.',
        details: { path, shape },
      },
    );
  }
  const { part, flag, number, text, extents } = moduleEncoder(path);
  const numbers = (what: 'scale' | 'zero'): FixedTensor[] => {
    const stored = format[what];
    return typeof stored === 'string'
      ? [part(what, what, parts[what]!)]
      : metaTensors(path, what, stored as Affine, parts, metaShape(format, shape));
  };
  return [
    part('W_q', 'codes', codes),
    ...numbers('scale'),
    ...numbers('zero'),
    extents('shape', shape),
    number('nbits', bitsOfLevels(format.levels)!),
    number('group_size', groupSize(format, shape, settings)),
    number('axis', settings.channel_wise ? format.axis : settings.axis),
    text('packing', format.packing),
    text('unpack_view_dtype', torchName(parts.codes!.dtype)),
    text('compute_dtype', torchName(computeDtype)),
    flag('view_as_float', settings.view_as_float),
    flag('quant_scale', typeof format.scale !== 'string'),
    flag('quant_zero', typeof format.zero !== 'string'),
    flag('offload_meta', false),
    flag('channel_wise', settings.channel_wise),
    flag('optimize', settings.optimize),
    flag('round_zero', settings.round_zero),
    flag('encoded_state_dict', true),
    flag('stores_quant_config', true),
  ];
}

/** Scales or zeros that are quantized themselves: codes, and what describes them under `meta_scale` or `meta_zero`, as hqq up to 0.1.8 names them. */
function metaTensors(
  path: string,
  what: 'scale' | 'zero',
  format: Affine,
  parts: Readonly<Record<string, TensorSpec>>,
  shape: Matrix,
): FixedTensor[] {
  const { part, number, text, extents } = moduleEncoder(tensorName(path, `meta_${what}`));
  const codes = parts[`${what}.codes`]!;
  return [
    moduleEncoder(path).part(`${what}_q`, `${what}.codes`, codes),
    part('scale', `${what}.scale`, parts[`${what}.scale`]!),
    part('zero', `${what}.zero`, parts[`${what}.zero`]!),
    extents('shape', shape),
    number('nbits', bitsOfLevels(format.levels)!),
    number('group_size', grouping(format, [shape[0] * shape[1], 1]).group),
    number('axis', format.axis),
    text('packing', format.packing),
    text('unpack_view_dtype', torchName(codes.dtype)),
  ];
}

/** Shape that scales and zeros have while they are plain. */
function metaShape(format: Affine, shape: Matrix): Matrix {
  const { groups } = grouping(format, shape);
  return format.axis === 1 ? [groups, 1] : [1, groups];
}

/** One grid for the whole weight: Python has numbers without a dimension then, and packs the rows of the weight itself. */
function storedShapes(
  parts: Readonly<Record<string, TensorSpec>>,
  { packing: name }: Affine,
  [out, inp]: Matrix,
  { channel_wise }: HqqSettings,
): Readonly<Record<string, TensorSpec>> {
  if (channel_wise) return parts;
  const one = (part: 'scale' | 'zero') => (parts[part] ? { [part]: { dtype: parts[part].dtype, shape: [] } } : {});
  return { ...parts, codes: { dtype: parts.codes!.dtype, shape: packing(name).shape(out, inp) }, ...one('scale'), ...one('zero') };
}

/** The library replaces None by the extent that it stands for; without groups the number means nothing. */
function groupSize(format: Affine, [out, inp]: Matrix, { channel_wise, group_size, axis }: HqqSettings): number {
  return channel_wise ? grouping(format, [out, inp]).group : (group_size ?? (axis === 1 ? inp : out));
}
