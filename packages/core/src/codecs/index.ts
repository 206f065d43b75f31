// The meaning of every format that core knows, and the way in for those it does not.

import type { Format, FormatCodec } from '../spec/format.ts';
import { affineCodec } from './affine.ts';
import { codebookCodec } from './codebook.ts';
import { denseCodec } from './dense.ts';
import { int8Codec } from './int8.ts';
import { unsupported } from './parts.ts';

export { affineCodec, type Grouping, grouping } from './affine.ts';
export { codebookCodec, fitInputs, productDtype, rotatedBasis, storedColumns } from './codebook.ts';
export { denseCodec } from './dense.ts';
export { hadamardBlocks, isHadamardSize } from './hadamard.ts';
export { INT8_STEP, int8Codec } from './int8.ts';

/** By kind of format. */
export const BUILTIN_CODECS: readonly FormatCodec[] = [denseCodec, affineCodec, codebookCodec, int8Codec];

/** The codec of a format's kind: a built-in one, or one of `extra`. Throws ERR_UNSUPPORTED_FORMAT if there is none. */
export function codecFor(format: Format, extra: readonly FormatCodec[] = []): FormatCodec {
  const codecs = [...BUILTIN_CODECS, ...extra];
  const found = codecs.find((codec) => codec.kind === format.kind);
  if (found) return found;
  throw unsupported(
    `no codec reads formats of kind '${format.kind}'`,
    `Pass its codec, as in createRuntime({ codecs: [...] }). Known kinds: ${codecs.map((codec) => codec.kind).join(', ')}.`,
    { kind: format.kind },
  );
}
