// What the `hqq` layout stores beside the numbers of one linear: the encoded state dict of the Python library (hqq >= 0.2.0), 19 tensors under
// `<module>.`. Strings are tensors of character codes, flags are u8 scalars, numbers i32 or f32 scalars.

import type { Affine, DType, Matrix, TensorSpec } from '@lowbit/core';
import { codecFor, DTYPE_BYTES, LowbitError } from '@lowbit/core';
import { torchNames } from './torch-names.ts';

/** The fields of `weight_quant_params`, and of the `config` record of an hqq quantizer. */
export interface HqqSettings {
  /** 8, 6, 5, 4, 3, 2, 1.58 or 1. */
  readonly nbits: number;
  /** Null: one group per row (axis 1) or column (axis 0). */
  readonly group_size: number | null;
  readonly axis: 0 | 1;
  readonly channel_wise: boolean;
  readonly optimize: boolean;
  readonly round_zero: boolean;
  readonly view_as_float: boolean;
}

/** torch's name -> dtype. The Python library evaluates these strings as code; here they are looked up. */
export const TORCH_DTYPES = torchNames(['u8', 'i32', 'f16', 'bf16', 'f32'], 'torch.');

/** Bits a code -> levels. */
const LEVELS: ReadonlyMap<number, number> = new Map([
  [8, 256],
  [6, 64],
  [5, 32],
  [4, 16],
  [3, 8],
  [2, 4],
  [1.58, 3],
  [1, 2],
]);

/** Packings of the library, with the widest `nbits` that each holds. */
export const HQQ_PACKINGS: ReadonlyMap<string, number> = new Map([
  ['8bit_u8', 8],
  ['4bit_u8', 4],
  ['3bit_32', 3],
  ['2bit_u8', 2],
  ['1bit_u8', 1],
]);

/** dtypes that scale, zero and float views have in such files. */
export const META_DTYPES: ReadonlySet<DType> = new Set<DType>(['f16', 'bf16', 'f32']);

/** Name of a tensor that layers with quantized scales or zeros have in safetensors: the version of what only lowbit writes and reads. */
export const NESTED_VERSION_KEY = 'lowbit_version';

/** Goes up when the same tensors would mean something else. */
export const NESTED_VERSION = 1;

/** torch's name of a dtype. */
export function torchName(dtype: DType): string {
  for (const [name, known] of TORCH_DTYPES) if (known === dtype) return name;
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `the hqq layout has no name for ${dtype}`, {
    hint: 'Use f16, bf16 or f32.',
    details: { dtype },
  });
}

/** `nbits` that gives so many levels: 16 -> 4, 3 -> 1.58. */
export function bitsOfLevels(levels: number): number | undefined {
  for (const [bits, known] of LEVELS) if (known === levels) return bits;
  return undefined;
}

/**
 * Levels of a stored linear. The packing is what the bits really are in; `nbits` only narrows it (6 and 5 bits in bytes, 1.58 in 2-bit fields).
 * The library decodes 1.58 with int(), so re-encoded files say 1 with 2-bit fields. Undefined if the two contradict each other.
 */
export function levelsOf(packing: string, nbits: number | undefined): number | undefined {
  const widest = HQQ_PACKINGS.get(packing);
  if (widest === undefined || nbits === undefined) return widest === undefined ? undefined : LEVELS.get(widest);
  // f32 holds 1.58 as 1.5800000429153442.
  const bits = Math.abs(nbits - 1.58) < 1e-6 || (packing === '2bit_u8' && nbits === 1) ? 1.58 : nbits;
  const fits = packing === '8bit_u8' ? [8, 6, 5] : packing === '2bit_u8' ? [2, 1.58] : [widest];
  return fits.includes(bits) ? LEVELS.get(bits) : undefined;
}

/** What `W_q` looks like in the file: the packed codes, or the same bytes seen as floats, which changes dtype and last extent. */
export function storedCodes(codes: TensorSpec, view: DType | undefined): TensorSpec | undefined {
  if (view === undefined) return codes;
  const bytes = codes.shape.at(-1)! * DTYPE_BYTES[codes.dtype];
  if (bytes % DTYPE_BYTES[view] !== 0) return undefined;
  return { dtype: view, shape: [...codes.shape.slice(0, -1), bytes / DTYPE_BYTES[view]] };
}

/** Specs of the parts of an hqq format. */
export function partsOf(format: Affine, shape: Matrix): Readonly<Record<string, TensorSpec>> {
  return codecFor(format).parts(format, shape);
}

/** True for what the Python library writes to safetensors: plain scales and zeros of one dtype, a packing of the library, groups. */
export function isHqqFormat(format: { readonly kind: string }): format is Affine {
  if (format.kind !== 'affine') return false;
  const { scale, zero } = format as Affine;
  return isMetaDtype(scale) && zero === scale && isPacked(format as Affine);
}

/** True for what the library makes in any version: scales or zeros may be 8-bit codes themselves, whose own scales and zeros are plain. */
export function isNestedHqqFormat(format: { readonly kind: string }): format is Affine {
  if (format.kind !== 'affine') return false;
  const { scale, zero } = format as Affine;
  return [scale, zero].every((stored) => isMetaDtype(stored) || isCodedMeta(stored)) && isPacked(format as Affine);
}

function isMetaDtype(stored: Affine['scale'] | Affine['zero']): boolean {
  return META_DTYPES.has(stored as DType);
}

function isCodedMeta(stored: Affine['scale'] | Affine['zero']): boolean {
  return typeof stored !== 'string' && isHqqFormat(stored) && stored.packing === '8bit_u8' && stored.levels === 256;
}

function isPacked({ packing, levels }: Affine): boolean {
  return HQQ_PACKINGS.has(packing) && levelsOf(packing, bitsOfLevels(levels)) === levels;
}
