// Fetching the numbers of a linear that a layout has found.

import type { FormatCodec, HostTensor, QuantizedTensor, StoredLinear, TensorSource } from '@lowbit/core';
import { byteLength, codecFor, DTYPE_BYTES, LowbitError, quote } from '@lowbit/core';

/** Of a stored linear. */
export interface StoredLinearOptions {
  /** For messages. */
  readonly path: string;
  /** Codecs of custom formats. */
  readonly codecs?: readonly FormatCodec[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Reads the parts of one linear. Throws ERR_TENSOR_MISMATCH for a part that is missing or whose tensor is too short. */
export async function readStoredLinear(source: TensorSource, stored: StoredLinear, options: StoredLinearOptions): Promise<QuantizedTensor> {
  const { path, codecs, signal } = options;
  const { format, shape } = stored;
  const parts: Record<string, HostTensor> = {};
  for (const [part, spec] of Object.entries(codecFor(format, codecs).parts(format, shape))) {
    const bytes = byteLength(spec);
    const mismatch = (details: object) =>
      new LowbitError('ERR_TENSOR_MISMATCH', `${quote(path)}: the part '${part}' needs ${spec.dtype} [${spec.shape.join(', ')}]`, {
        details: { path, part, expected: spec, ...details },
      });
    const constant = stored.constants?.[part];
    if (constant !== undefined) {
      if (constant.dtype !== spec.dtype || constant.data.byteLength !== bytes) throw mismatch({ actual: constant });
      parts[part] = { dtype: spec.dtype, shape: spec.shape, data: constant.data };
      continue;
    }
    const name = stored.parts[part];
    const entry = name === undefined ? undefined : source.entries.get(name);
    // Sizes are compared before reading: a lying layout must not make us allocate.
    if (name === undefined || entry === undefined || byteLength(entry) < bytes) throw mismatch({ tensor: name, actual: entry });
    const { data } = await source.read(name, { range: [0, Math.ceil(bytes / DTYPE_BYTES[entry.dtype])], signal });
    parts[part] = { dtype: spec.dtype, shape: spec.shape, data: data.subarray(0, bytes) };
  }
  return { format, shape, parts };
}
