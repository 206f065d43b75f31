// Reading the `bitsandbytes` layout. The tensors are normative: a parameter is 4-bit if and only if it has a quant_state, double quantized if and only if
// it has a nested_absmax, and 8-bit if it is i8 with an SCB beside it. The threshold of LLM.int8 alone is stored elsewhere (config.json).
//
// The side tensors of a 4-bit parameter hang off the parameter (`q_proj.weight.absmax`), of whatever name and rank; those of an 8-bit one off the module
// (`q_proj.SCB`). Weights of Conv1D modules (GPT-2) are stored transposed, as [out, in] like all others, so nothing is turned round here.

import type { DType, StoredLinear, TensorSource, TensorSpec } from '@lowbit/core';
import { quote } from '@lowbit/core';
import { fail, modulePath, refuse } from './bnb-format.ts';
import { type FourBitNames, readFourBit } from './bnb-four-bit.ts';
import { checkRows, readInt8 } from './bnb-int8.ts';
import { specText, tensorName } from './names.ts';

/** Parameters whose small tensors are read at the same time. */
const CONCURRENT = 16;

const STATE = /^(.+)\.quant_state\.([^.]+)$/s;
/** A stray tensor this deep below a parameter is none of its own. Names are of any length, so they are not taken apart to their ends. */
const SIDE_DEPTH = 4;
const SIDE_NAMES: ReadonlySet<string> = new Set(['absmax', 'quant_map', 'nested_absmax', 'nested_quant_map']);

/** Of reading one linear. */
export interface ReadBitsAndBytesOptions {
  /** Of the activations of 8-bit layers. */
  readonly threshold: number;
  /** Take an offset of double quantization that is NaN or infinite, of a weight that decodes to NaN. Default false: ERR_NON_FINITE. */
  readonly allowNonFinite?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Every quantized parameter: `<path>.weight` by its module path, others (`experts.gate_up_proj`) by their own name with all but the last axis folded
 * into one. Reads no weights.
 * @throws ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT, ERR_UNSUPPORTED_FORMAT or ERR_NON_FINITE, naming the tensor
 */
export async function readBitsAndBytesLinears(
  source: TensorSource,
  { threshold, allowNonFinite, signal }: ReadBitsAndBytesOptions,
): Promise<ReadonlyMap<string, StoredLinear>> {
  const found = findFourBit(source.entries.keys());
  const linears = new Map<string, StoredLinear>();
  for (let i = 0; i < found.length; i += CONCURRENT) {
    signal?.throwIfAborted();
    const some = found.slice(i, i + CONCURRENT);
    const stored = await Promise.all(some.map((names) => readFourBit(source, names, { allowNonFinite })));
    for (const [j, { path }] of some.entries()) linears.set(path, stored[j]!.linear);
  }
  const packed = new Set(found.map(({ param }) => param));
  for (const [name, spec] of source.entries) {
    signal?.throwIfAborted();
    if (name.endsWith('.SCB')) checkRows(source, name);
    if (!name.endsWith('.weight') || packed.has(name)) continue;
    const path = modulePath(name);
    if (spec.dtype === 'i8') linears.set(path, await readInt8(source, path, threshold));
    if (spec.dtype === 'u8') failStateless(name, spec);
  }
  return linears;
}

/** One linear, and what the formats do not say of it. */
export interface StoredBitsAndBytes {
  readonly linear: StoredLinear;
  /** What packed codes are seen as; i8 of 8-bit layers. */
  readonly storage: DType;
  /** Of the weight when it was quantized; 8-bit layers do not say it. */
  readonly weightDtype?: DType;
}

/**
 * One linear of a checkpoint by its module path, of a state dict by the empty path. Throws as `readBitsAndBytesLinears`, and ERR_TENSOR_MISMATCH if it is
 * not there or not quantized.
 */
export async function readBitsAndBytesLinear(
  source: TensorSource,
  path: string,
  { threshold, allowNonFinite }: Omit<ReadBitsAndBytesOptions, 'signal'>,
): Promise<StoredBitsAndBytes> {
  const weight = tensorName(path, 'weight');
  const spec = source.entries.get(weight) ?? fail(weight, 'is missing');
  const rows = tensorName(path, 'SCB');
  if (source.entries.has(rows)) checkRows(source, rows);
  const [names] = findFourBit([...source.entries.keys()].filter((name) => name.startsWith(`${weight}.`)));
  if (names !== undefined) return { ...(await readFourBit(source, names, { allowNonFinite })), storage: spec.dtype };
  if (spec.dtype === 'i8') return { linear: await readInt8(source, path, threshold), storage: 'i8' };
  return failStateless(weight, spec);
}

/** True if the tensors are those of quantized layers. */
export function hasBitsAndBytes(entries: ReadonlyMap<string, TensorSpec>): boolean {
  for (const name of entries.keys()) {
    if (name.endsWith('.SCB') || STATE.exec(name)?.[2]?.startsWith('bitsandbytes__')) return true;
  }
  return false;
}

function failStateless(name: string, spec: TensorSpec): never {
  const what = spec.dtype === 'u8' ? 'packed 4-bit codes' : 'not quantized or 4-bit codes seen as floats';
  fail(name, `is ${specText(spec)}, ${what}, but there is no ${name}.quant_state.bitsandbytes__nf4 or fp4`);
}

/** Every parameter with a quant_state. Throws ERR_TENSOR_MISMATCH for two of them, and for tensors beside it that bitsandbytes would not read. */
function findFourBit(keys: Iterable<string>): readonly FourBitNames[] {
  const all = [...keys];
  const found = new Map<string, FourBitNames>();
  for (const name of all) {
    const [, param, kind] = STATE.exec(name) ?? [];
    if (param === undefined) continue;
    if (kind !== 'bitsandbytes__nf4' && kind !== 'bitsandbytes__fp4') {
      refuse(name, `is the state of a method ${quote(kind!)}`, 'This layout has bitsandbytes__nf4 and bitsandbytes__fp4.');
    }
    if (found.has(param)) fail(name, 'is a second quant_state of one weight');
    const path = param === 'weight' || param.endsWith('.weight') ? modulePath(param) : param;
    found.set(param, { param, path, state: name, type: kind === 'bitsandbytes__nf4' ? 'nf4' : 'fp4' });
  }
  for (const name of all) {
    for (let dot = name.lastIndexOf('.'), depth = 0; dot > 0 && depth < SIDE_DEPTH; dot = name.lastIndexOf('.', dot - 1), depth++) {
      const owner = found.get(name.slice(0, dot));
      if (owner === undefined) continue;
      if (name !== owner.state && !SIDE_NAMES.has(name.slice(dot + 1)))
        fail(name, 'is not a tensor that bitsandbytes keeps beside a weight');
      break;
    }
  }
  return [...found.values()];
}
