// State dicts of single layers, as the library saves them: the 4 or 6 tensors of a Linear4bit, the 3 of a Linear8bitLt, and a bias.

import {
  checkBias,
  type DType,
  FLOAT_DTYPES,
  type HostTensor,
  LowbitError,
  memorySource,
  type QuantizedTensor,
  toFloat32,
} from '@lowbit/core';
import {
  encodeBitsAndBytesLinear,
  layerEntries,
  layoutBytes,
  readBitsAndBytesLinear,
  readStoredLinear,
  type StateDict,
} from '@lowbit/layouts';

export type { StateDict } from '@lowbit/layouts';

/** A layer as its state dict has it. */
export interface LayerState {
  readonly weight: QuantizedTensor;
  /** Of the weight when it was quantized; undefined where that is not stored (8 bits). */
  readonly weightDtype: DType | undefined;
  /** What packed codes are seen as. */
  readonly storage: DType;
  readonly bias: HostTensor | undefined;
}

/** Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold. */
export function encodeState({ weight, weightDtype = 'f16', storage, bias }: LayerState): StateDict {
  const { format, shape, parts } = weight;
  const state: Record<string, HostTensor> = {};
  for (const tensor of encodeBitsAndBytesLinear({ path: '', shape, format, weightDtype, storage })) {
    const data = layoutBytes(tensor, parts);
    state[tensor.name] = { ...tensor.spec, shape: 'late' in tensor.content ? [data.byteLength] : tensor.spec.shape, data };
  }
  return bias === undefined ? state : { ...state, bias };
}

/**
 * Reads what `encodeState` or Python wrote.
 * @throws ERR_BAD_ARGUMENT (no state dict), and what reading the layout throws, naming the tensor: ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT,
 * ERR_UNSUPPORTED_FORMAT, ERR_NON_FINITE
 */
export async function decodeState(
  state: StateDict | ReadonlyMap<string, HostTensor>,
  path: string,
  { threshold = 0, allowNonFinite = false }: { readonly threshold?: number; readonly allowNonFinite?: boolean } = {},
): Promise<LayerState> {
  if (typeof state !== 'object' || state === null || Array.isArray(state)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a state dict is an object or a map of tensors', { hint: 'Pass what stateDict() gave.' });
  }
  const tensors: StateDict = state instanceof Map ? Object.fromEntries(state) : (state as StateDict);
  const source = memorySource(layerEntries(tensors, path, OWN));
  const { linear, weightDtype, storage } = await readBitsAndBytesLinear(source, path, { threshold, allowNonFinite });
  const weight = await readStoredLinear(source, linear, { path: path === '' ? 'state dict' : path });
  for (const [part, name] of Object.entries(linear.parts)) checkScales(name, weight.parts[part]!, allowNonFinite);
  const bias = linear.bias === undefined ? undefined : await source.read(linear.bias);
  if (bias) checkBias(bias, weight.shape[0]);
  return { weight, weightDtype, storage, bias };
}

/**
 * Throws ERR_NON_FINITE for floats that scale to no number, unless they are allowed, and ERR_TENSOR_MISMATCH for a largest magnitude of LLM.int8
 * below 0.
 */
function checkScales(name: string, tensor: HostTensor, allowNonFinite: boolean): void {
  if (!FLOAT_DTYPES.has(tensor.dtype)) return;
  const isRow = name === 'SCB' || name.endsWith('.SCB');
  const values = toFloat32(tensor);
  const index = values.findIndex((value) => !(allowNonFinite || Number.isFinite(value)) || (isRow && value < 0));
  if (index < 0) return;
  const code = allowNonFinite || Number.isFinite(values[index]) ? 'ERR_TENSOR_MISMATCH' : 'ERR_NON_FINITE';
  const hint = 'The state dict is damaged. Quantize the layer again';
  throw new LowbitError(code, `state dict: ${JSON.stringify(name)}: element ${index} is ${values[index]}`, {
    hint: code === 'ERR_NON_FINITE' ? `${hint}; allowNonFinite: true takes NaN and infinity as they are.` : `${hint}.`,
    details: { tensor: name, index },
  });
}

/** Names that a layer has, and all that hangs off its weight; what else is beside them is not looked at. */
const OWN = /^(?:weight(?:\..+)?|bias|SCB|weight_format)$/s;
