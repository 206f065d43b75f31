// The formats of the `bitsandbytes` layout, and the names that its tensors have.

import type { Codebook, DType, Format, HostTensor, Int8, TensorSpec } from '@lowbit/core';
import { FP4_TABLE, LowbitError, NF4_TABLE, quote } from '@lowbit/core';
import type { FourBitType } from './bnb-state.ts';
import { specText, tensorName } from './names.ts';
import { torchNames } from './torch-names.ts';

/** Blocks of quantized scales that bitsandbytes multiplies with. */
export const NESTED_BLOCK = 256;

/** Tables by type, as the part `table` has them. bitsandbytes decodes with its own tables, never with the stored ones. */
export const TABLES: Readonly<Record<FourBitType, HostTensor>> = {
  nf4: { dtype: 'f32', shape: [16, 1], data: new Uint8Array(NF4_TABLE.buffer) },
  fp4: { dtype: 'f32', shape: [16, 1], data: new Uint8Array(FP4_TABLE.buffer) },
};

/** Values of `bnb_4bit_quant_storage`: what the packed codes are seen as. */
export const STORAGE_DTYPES = torchNames(['u8', 'i8', 'f16', 'bf16', 'f32', 'f64']);

/** Double quantization: scales as 8-bit codes of the dynamic map. */
export function nestedScale(blocksize: number): Codebook {
  return { kind: 'codebook', bits: 8, dim: 1, group: blocksize, table: 'dynamic', scale: 'f32', packing: 'u8' };
}

/** Codes of one table; scales plain, or nested with an offset. */
export function fourBitFormat(type: FourBitType, blocksize: number, scale: DType | Codebook): Codebook {
  const offset = typeof scale === 'string' ? {} : { offset: true };
  return { kind: 'codebook', bits: 4, dim: 1, group: blocksize, table: type, scale, ...offset, packing: 'bnb_nibble' };
}

/** Whether it is LLM.int8. */
export function isInt8(format: Format): format is Int8 {
  return format.kind === 'int8';
}

/** True for what bitsandbytes can write: NF4 or FP4 with float32 scales, or with these quantized again. */
export function isFourBit(format: Format): format is Codebook & { readonly table: FourBitType } {
  if (format.kind !== 'codebook') return false;
  const { bits, dim, group, table, scale, offset, packing, rotate } = format as Codebook;
  if ((table !== 'nf4' && table !== 'fp4') || bits !== 4 || dim !== 1 || packing !== 'bnb_nibble' || rotate !== undefined) return false;
  if (!BLOCK_SIZES.has(group)) return false;
  return isNested(scale) ? offset === true : scale === 'f32' && !offset;
}

function isNested(scale: Codebook['scale']): boolean {
  if (typeof scale === 'string' || scale.kind !== 'codebook') return false;
  const { bits, dim, group, scale: inner, offset, packing, rotate } = scale;
  return bits === 8 && dim === 1 && group === NESTED_BLOCK && inner === 'f32' && !offset && packing === 'u8' && rotate === undefined;
}

/** What `quantize_4bit` takes. Readers take any. */
const BLOCK_SIZES: ReadonlySet<number> = new Set([32, 64, 128, 256, 512, 1024, 2048, 4096]);

/** Throws ERR_TENSOR_MISMATCH, naming the tensor. */
export function fail(tensor: string, problem: string): never {
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${quote(tensor)} ${problem}`, {
    hint: 'The checkpoint is damaged, incomplete, or not in the layout of bitsandbytes 0.41.3 or later.',
    details: { tensor },
  });
}

/** Throws ERR_UNSUPPORTED_FORMAT, naming the tensor. */
export function refuse(tensor: string, problem: string, hint: string): never {
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(tensor)} ${problem}`, { hint, details: { tensor } });
}

/** Throws ERR_TENSOR_MISMATCH unless the bias, if there is one, has a number for every output. */
export function checkBias(path: string, bias: TensorSpec | undefined, out: number): void {
  if (bias === undefined || (bias.shape.length === 1 && bias.shape[0] === out)) return;
  fail(tensorName(path, 'bias'), `is ${specText(bias)}, expected ${out} numbers`);
}

/** The module that a tensor belongs to; empty in the module's own state dict. */
export function modulePath(name: string): string {
  return name.slice(0, Math.max(0, name.lastIndexOf('.')));
}
