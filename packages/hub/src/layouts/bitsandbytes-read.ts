// Reading the `bitsandbytes` layout. The tensors are normative: a parameter is 4-bit if and only if it has a quant_state, double quantized if and only if
// it has a nested_absmax, and 8-bit if it is i8 with an SCB beside it. Of config.json only the threshold of LLM.int8 is taken.
//
// The side tensors of a 4-bit parameter hang off the parameter (`q_proj.weight.absmax`), of whatever name and rank; those of an 8-bit one off the module
// (`q_proj.SCB`). Weights of Conv1D modules (GPT-2) are stored transposed, as [out, in] like all others, so nothing is turned round here.

import { type JsonObject, LowbitError, type StoredLinear, type TensorSource, type TensorSpec } from '@lowbit/core';
import { specText } from '@lowbit/core/layouts';
import { quote } from '../json/parse.ts';
import { fail, modulePath, refuse } from './bitsandbytes-format.ts';
import { type FourBitNames, readFourBit } from './bitsandbytes-four-bit.ts';
import { checkRows, readInt8 } from './bitsandbytes-int8.ts';

/** Parameters whose small tensors are read at the same time. */
const CONCURRENT = 16;
/** transformers' default. */
const DEFAULT_THRESHOLD = 6;

const STATE = /^(.+)\.quant_state\.([^.]+)$/s;
/** A stray tensor this deep below a parameter is none of its own. Names are of any length, so they are not taken apart to their ends. */
const SIDE_DEPTH = 4;
const SIDE_NAMES: ReadonlySet<string> = new Set(['absmax', 'quant_map', 'nested_absmax', 'nested_quant_map']);

/**
 * Every quantized parameter: `<path>.weight` by its module path, others (`experts.gate_up_proj`) by their own name with all but the last axis folded
 * into one. Reads no weights.
 * @throws ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT, ERR_UNSUPPORTED_FORMAT or ERR_NON_FINITE, naming the tensor
 */
export async function readBitsAndBytes(
  config: JsonObject,
  source: TensorSource,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<ReadonlyMap<string, StoredLinear>> {
  const found = findFourBit(source);
  const linears = new Map<string, StoredLinear>();
  for (let i = 0; i < found.length; i += CONCURRENT) {
    signal?.throwIfAborted();
    const some = found.slice(i, i + CONCURRENT);
    const stored = await Promise.all(some.map((names) => readFourBit(source, names)));
    for (const [j, { path }] of some.entries()) linears.set(path, stored[j]!);
  }
  const threshold = thresholdOf(config);
  const packed = new Set(found.map(({ param }) => param));
  for (const [name, spec] of source.entries) {
    signal?.throwIfAborted();
    if (name.endsWith('.SCB')) checkRows(source, name);
    if (!name.endsWith('.weight') || packed.has(name)) continue;
    const path = modulePath(name);
    if (spec.dtype === 'i8') linears.set(path, await readInt8(source, path, threshold));
    if (spec.dtype === 'u8')
      fail(name, `is ${specText(spec)}, packed 4-bit codes, but there is no ${name}.quant_state.bitsandbytes__nf4 or fp4`);
  }
  return linears;
}

/** True if the tensors are those of quantized layers. */
export function hasBitsAndBytes(entries: ReadonlyMap<string, TensorSpec>): boolean {
  for (const name of entries.keys()) {
    if (name.endsWith('.SCB') || STATE.exec(name)?.[2]?.startsWith('bitsandbytes__')) return true;
  }
  return false;
}

/** Every parameter with a quant_state. Throws ERR_TENSOR_MISMATCH for two of them, and for tensors beside it that bitsandbytes would not read. */
function findFourBit({ entries }: TensorSource): readonly FourBitNames[] {
  const found = new Map<string, FourBitNames>();
  for (const name of entries.keys()) {
    const [, param, kind] = STATE.exec(name) ?? [];
    if (param === undefined) continue;
    if (kind !== 'bitsandbytes__nf4' && kind !== 'bitsandbytes__fp4') {
      refuse(name, `is the state of a method ${quote(kind!)}`, 'This layout has bitsandbytes__nf4 and bitsandbytes__fp4.');
    }
    if (found.has(param)) fail(name, 'is a second quant_state of one weight');
    const path = param.endsWith('.weight') ? modulePath(param) : param;
    found.set(param, { param, path, state: name, type: kind === 'bitsandbytes__nf4' ? 'nf4' : 'fp4' });
  }
  for (const name of entries.keys()) {
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

function thresholdOf({ quantization_config: block }: JsonObject): number {
  const stated = typeof block === 'object' && block !== null && 'llm_int8_threshold' in block ? block.llm_int8_threshold : undefined;
  if (stated === undefined || stated === null) return DEFAULT_THRESHOLD;
  if (typeof stated === 'number' && stated >= 0 && stated < Number.POSITIVE_INFINITY) return stated;
  throw new LowbitError('ERR_BAD_CHECKPOINT', `config.json says llm_int8_threshold ${JSON.stringify(stated)}, not a number of at least 0`, {
    hint: 'The usual one is 6.0.',
    details: { field: 'llm_int8_threshold', value: stated },
  });
}
