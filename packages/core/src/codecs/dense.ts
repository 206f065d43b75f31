// Plain numbers: nothing to unpack, at most a cast.

import { castFloat, DTYPE_BYTES } from '../dtype.ts';
import type { Dense, FormatCodec } from '../spec/format.ts';
import { checkParts, rowRange, unsupported, weightCount } from './parts.ts';

/** Unquantized weights. Part: `weight` [out, in]. `dequantize` to the dtype that is stored gives a view, not a copy. */
export const denseCodec: FormatCodec<Dense> = {
  kind: 'dense',
  parts(format, shape) {
    weightCount(shape);
    return { weight: { dtype: format.dtype, shape } };
  },
  unpackRows() {
    throw unsupported('a dense weight has no codes', 'Read it with `dequantize`.');
  },
  numbers: () => undefined,
  dequantize(tensor, options = {}) {
    const [from, to] = rowRange(tensor.shape, options.from, options.to);
    checkParts(denseCodec.parts(tensor.format, tensor.shape), tensor.parts);
    const { dtype } = tensor.format;
    const inp = tensor.shape[1];
    const rowBytes = inp * DTYPE_BYTES[dtype];
    const data = tensor.parts.weight!.data.subarray(from * rowBytes, to * rowBytes);
    return castFloat({ dtype, shape: [to - from, inp], data }, options.dtype ?? 'f32');
  },
};
