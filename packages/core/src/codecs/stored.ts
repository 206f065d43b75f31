// Scales and zeros: numbers that are either stored plainly, or quantized themselves in a nested format. A nested format sees its n numbers as a
// weight of shape [n, 1], whatever shape a plain tensor would have: its group of null along axis 0 is then the whole tensor, one scale and one zero.

import { DTYPE_BYTES, readFloat32, toFloat32 } from '../dtype.ts';
import type { Affine, Codebook, FormatCodec, QuantizedTensor } from '../spec/format.ts';
import type { DType, Shape, TensorSpec } from '../spec/tensor.ts';
// biome-ignore-start lint/suspicious/noImportCycles: affine and codebook formats nest in one another; none of these modules uses another while it is being loaded
import { affineCodec } from './affine.ts';
import { codebookCodec } from './codebook.ts';
// biome-ignore-end lint/suspicious/noImportCycles: as above
import { type ComputeDType, checkFloat, type PartSpecs, type Parts } from './parts.ts';
import { rounding } from './rounding.ts';

/** How a scale or zero is kept. */
export type Stored = DType | Affine | Codebook;

function nestedCodec(format: Affine | Codebook): FormatCodec {
  return format.kind === 'affine' ? affineCodec : codebookCodec;
}

/** Specs of the parts of `name`: the plain tensor of `shape`, or the nested format's parts under `name.`. Throws ERR_UNSUPPORTED_FORMAT. */
export function storedParts(name: string, stored: Stored, shape: Shape): PartSpecs {
  if (typeof stored === 'string') {
    checkFloat(name, stored);
    return { [name]: { dtype: stored, shape } };
  }
  const count = shape.reduce((product, extent) => product * extent, 1);
  const nested: Record<string, TensorSpec> = {};
  for (const [part, spec] of Object.entries(nestedCodec(stored).parts(stored, [count, 1]))) nested[`${name}.${part}`] = spec;
  return nested;
}

/** Numbers [from, to) of the `count` that `name` holds, rounded to `dtype` (a nested format computes in it throughout). */
export function storedNumbers(
  parts: Parts,
  name: string,
  stored: Stored,
  count: number,
  options: { readonly from: number; readonly to: number; readonly dtype: ComputeDType },
): Float32Array {
  const { from, to, dtype } = options;
  if (typeof stored !== 'string') {
    const prefix = `${name}.`;
    const own = Object.entries(parts).filter(([part]) => part.startsWith(prefix));
    const tensor: QuantizedTensor = {
      format: stored,
      shape: [count, 1],
      parts: Object.fromEntries(own.map(([part, value]) => [part.slice(prefix.length), value])),
    };
    return toFloat32(nestedCodec(stored).dequantize(tensor, { dtype, from, to }));
  }
  const width = DTYPE_BYTES[stored];
  const numbers = new Float32Array(to - from);
  readFloat32(stored, parts[name]!.data.subarray(from * width, to * width), numbers);
  return dtype === 'f32' || dtype === stored ? numbers : numbers.map(rounding(dtype));
}
