// Writing one linear in the `bitsandbytes` layout: the tensors that `save_pretrained` writes for a Linear4bit or Linear8bitLt, bias apart.

import type { Codebook, DType, Format, HostTensor, LayoutTensor, Matrix, TensorSpec } from '@lowbit/core';
import { byteLength, codecFor, DTYPE_BYTES, LowbitError, toFloat32 } from '@lowbit/core';
import { isFourBit, isInt8, NESTED_BLOCK } from './bnb-format.ts';
import { type FourBitType, longestQuantState, type QuantState, quantStateText, WEIGHT_DTYPES } from './bnb-state.ts';
import { ownerOf, tensorName } from './names.ts';

/** One linear as the library would save it. */
export interface BitsAndBytesRecord {
  /** Module path in the checkpoint; empty in the linear's own state dict. */
  readonly path: string;
  readonly shape: Matrix;
  readonly format: Format;
  /** Of the weight when it was quantized; 8-bit layers do not store it. */
  readonly weightDtype: DType;
  /** What packed codes are seen as. */
  readonly storage: DType;
}

/** The tensors of one linear, bias apart. Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold. */
export function encodeBitsAndBytesLinear(record: BitsAndBytesRecord): readonly LayoutTensor[] {
  const { path, format, shape } = record;
  if (isInt8(format)) return int8Tensors(path, shape);
  if (isFourBit(format)) return fourBitTensors(record, format);
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: the bitsandbytes layout cannot hold this format`, {
    hint: 'It holds NF4 and FP4 with scales in f32 or doubly quantized, and LLM.int8.',
    details: { path, format },
  });
}

function int8Tensors(path: string, shape: Matrix): readonly LayoutTensor[] {
  return [
    { name: tensorName(path, 'weight'), spec: { dtype: 'i8', shape }, content: { part: 'codes' } },
    { name: tensorName(path, 'SCB'), spec: { dtype: 'f32', shape: [shape[0]] }, content: { part: 'scale' } },
    { name: tensorName(path, 'weight_format'), spec: { dtype: 'u8', shape: [] }, content: { data: Uint8Array.of(0) } }, // rows
  ];
}

function fourBitTensors(
  { path, shape, weightDtype, storage }: BitsAndBytesRecord,
  format: Codebook & { readonly table: FourBitType },
): readonly LayoutTensor[] {
  if (![...WEIGHT_DTYPES.values()].includes(weightDtype)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: bitsandbytes knows no weights of ${weightDtype}`, {
      hint: 'Give the dtype f16, bf16 or f32 for what is written.',
      details: { path, dtype: weightDtype },
    });
  }
  const specs = codecFor(format).parts(format, shape);
  const key = (name: string) => tensorName(path, `weight.${name}`);
  const part = (name: string, from: string, flat = specs[from]!.shape): LayoutTensor => ({
    name,
    spec: { dtype: specs[from]!.dtype, shape: flat },
    content: { part: from },
  });
  const nested = typeof format.scale === 'string' ? undefined : { blocksize: NESTED_BLOCK, dtype: 'float32', offset: 0 };
  const state: QuantState = { type: format.table, blocksize: format.group, dtype: weightDtype, shape, nested };
  return [
    packedTensor(path, specs.codes!, storage),
    part(key('absmax'), nested ? 'scale.codes' : 'scale'),
    part(key('quant_map'), 'table', [16]),
    ...(nested ? [part(key('nested_absmax'), 'scale.scale'), part(key('nested_quant_map'), 'scale.table', [256])] : []),
    stateTensor(key(`quant_state.bitsandbytes__${format.table}`), state),
  ];
}

/** The codes, seen as another dtype if `storage` says so. Throws ERR_UNSUPPORTED_FORMAT if the bytes are no whole number of its elements. */
function packedTensor(path: string, codes: TensorSpec, storage: DType): LayoutTensor {
  const bytes = byteLength(codes);
  if (bytes % DTYPE_BYTES[storage] !== 0) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: ${bytes} bytes of codes cannot be seen as ${storage}`, {
      hint: 'Set bnb_4bit_quant_storage to uint8.',
      details: { path, bytes, storage },
    });
  }
  return {
    name: tensorName(path, 'weight'),
    spec: { dtype: storage, shape: [bytes / DTYPE_BYTES[storage], 1] },
    content: { part: 'codes' },
  };
}

/** With double quantization the offset, and so the text's length, is known only after quantizing. */
function stateTensor(name: string, state: QuantState): LayoutTensor {
  const bytes = (known: QuantState) => new TextEncoder().encode(quantStateText(known));
  const { nested } = state;
  if (nested === undefined) {
    const data = bytes(state);
    return { name, spec: { dtype: 'u8', shape: [data.byteLength] }, content: { data } };
  }
  const make = (parts: Readonly<Record<string, HostTensor>>) =>
    bytes({ ...state, nested: { ...nested, offset: toFloat32(parts['scale.offset']!)[0]! } });
  return { name, spec: { dtype: 'u8', shape: [longestQuantState(state)] }, content: { late: ['scale.offset'], make } };
}
