// Linears that Python's method passes over, so that files which have them quantized would load there as random weights.

import { type LinearSite, LowbitError, quote } from '@lowbit/core';

/**
 * hqq and HIGGS in Python quantize `nn.Linear` alone, bitsandbytes also Conv1D. Throws ERR_UNSUPPORTED_FORMAT for a linear of the latter kind: what would be
 * written loads in Python without an error, with the layer left at random.
 */
export function refuseConv1d({ path, transposed }: LinearSite, method: string): void {
  if (!transposed) return;
  throw new LowbitError(
    'ERR_UNSUPPORTED_FORMAT',
    `${quote(path)} is a Conv1D module (stored as [in, out]), which ${method} of Python does not quantize`,
    {
      hint: 'Use a method of bitsandbytes (nf4, fp4, int8), which does, or quantize the loaded model with patchLinears.',
      details: { path, method },
    },
  );
}
