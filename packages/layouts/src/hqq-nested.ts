// Layers with quantized scales or zeros in safetensors. The Python library has such layers in pickles only, and cannot encode them; here they are stored
// under the names that they have there (`scale_q`, `meta_scale.*`), with a version in every layer, so that no reader takes them for something else.

import type { DType, FixedTensor, Format, LinearSettings, QuantizedSite } from '@lowbit/core';
import { LowbitError } from '@lowbit/core';
import { moduleEncoder } from './hqq-encode.ts';
import { isNestedHqqFormat, NESTED_VERSION, NESTED_VERSION_KEY } from './hqq-format.ts';
import { encodeLayer, type HqqLinearRecord, hqqRecord } from './hqq-write.ts';
import { ownerOf } from './names.ts';

/** True for all that the hqq method makes. */
export function acceptsNestedHqq(quantizer: LinearSettings, format: Format): boolean {
  return quantizer.method === 'hqq' && isNestedHqqFormat(format);
}

/** The tensors of one linear of a checkpoint, bias apart. Throws as `encodeNestedHqqLinear`. */
export function nestedHqqTensors(linear: QuantizedSite, { computeDtype }: { readonly computeDtype: DType }): readonly FixedTensor[] {
  return encodeNestedHqqLinear(hqqRecord(linear, computeDtype));
}

/** The tensors of one linear, bias apart. Throws ERR_UNSUPPORTED_FORMAT for what hqq does not make. */
export function encodeNestedHqqLinear(record: HqqLinearRecord): readonly FixedTensor[] {
  const { path, format } = record;
  if (!isNestedHqqFormat(format)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: the hqq-nested layout cannot hold this format`, {
      hint: 'It holds affine codes with scales and zeros that are plain (f16, bf16, f32) or 8-bit codes themselves.',
      details: { path, format },
    });
  }
  return [...encodeLayer(record, format), moduleEncoder(path).number(NESTED_VERSION_KEY, NESTED_VERSION)];
}
