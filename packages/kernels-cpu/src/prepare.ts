// Brings a weight into native memory: canonical codes, piece by piece, and the codec's numbers.

import {
  breather,
  codecFor,
  elements,
  type FormatCodec,
  type HostTensor,
  LowbitError,
  type QuantizedTensor,
  toFloat32,
} from '@lowbit/core';
import type { CpuBinding, Machine, WeightHandle } from './binding.ts';
import type { LayoutPlan } from './layout.ts';
import { storedWeight } from './stored.ts';

/** Weights unpacked at a time. */
const PIECE = 1 << 20;

/** A LowbitError for what the addon throws: it names its failures by `code`. */
export function nativeError(error: unknown): unknown {
  // What JavaScript throws may be anything: a signal is aborted with null, say.
  const { code, message } = (error ?? {}) as { readonly code?: string; readonly message?: string };
  if (code === 'ERR_OUT_OF_MEMORY') {
    return new LowbitError('ERR_LIMIT', `kernels-cpu: there is no memory for this weight`, {
      hint: 'Use fewer bits, a smaller model, or a machine with more memory.',
      cause: error,
    });
  }
  return code === 'ERR_BAD_ARGUMENT' || code === 'ERR_NATIVE' ? new LowbitError(code, message ?? code, { cause: error }) : error;
}

/**
 * The handle of the weight as `plan` holds it: packed by the addon from parts that it can read, else from what the codec makes of them, in the same bytes.
 * Rejects with the signal's reason, or with what is wrong with the weight; then nothing is held.
 */
export async function holdWeight(
  { binding, machine }: { readonly binding: CpuBinding; readonly machine: Machine },
  weight: QuantizedTensor,
  plan: LayoutPlan,
  options: { readonly bias: HostTensor | undefined; readonly codecs: readonly FormatCodec[]; readonly signal: AbortSignal | undefined },
): Promise<WeightHandle> {
  const { bias, codecs, signal } = options;
  const codec = codecFor(weight.format, codecs);
  const [out, inp] = weight.shape;
  const { spec } = plan;
  const stored = storedWeight(weight, plan);
  const found = spec.kind === 'dense' || stored?.scale ? undefined : codec.numbers(weight);
  let handle: WeightHandle;
  try {
    handle = binding.createWeight(spec, { ...(found ? plan.numbers(found) : {}), bias: bias && toFloat32(bias) });
  } catch (error) {
    throw nativeError(error);
  }
  const breathe = breather();
  const rows = Math.max(1, Math.floor(PIECE / inp));
  try {
    if (stored) {
      const fits = await binding.packWeight(machine, handle, stored);
      signal?.throwIfAborted();
      if (fits) return handle;
      // A code has no place: the codec's way finds it and says which.
    }
    for (let from = 0; from < out; from += rows) {
      await breathe();
      signal?.throwIfAborted();
      const to = Math.min(out, from + rows);
      if (spec.kind === 'dense') {
        const { dtype } = spec;
        binding.putDense(handle, from * inp * (dtype === 'f32' ? 4 : 2), codec.dequantize(weight, { dtype, from, to }).data);
      } else {
        const { data } = codec.unpackRows(weight, from, to);
        checkCodes(plan, data);
        binding.putCodes(handle, from, to - from, elements({ dtype: 'u8', data }));
      }
    }
  } catch (error) {
    binding.freeWeight(handle);
    throw nativeError(error);
  }
  return handle;
}

/** Throws ERR_TENSOR_MISMATCH for a code that has no table entry. */
function checkCodes({ codes: entries = 256, spec }: LayoutPlan, codes: Uint8Array): void {
  if (spec.kind === 'int8' || entries >= 256) return;
  const bad = codes.findIndex((code) => code >= entries);
  if (bad < 0) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${codes[bad]} is not in a table of ${entries} entries`, {
    hint: 'The tensor is damaged, or of another format than its header says.',
    details: { part: 'codes', code: codes[bad], entries },
  });
}
