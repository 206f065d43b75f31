// The state dict of one layer: the 19 tensors (and a bias) of Python's encoded form, as its safetensors files hold them. Quantized scales and zeros, which
// Python cannot encode, are stored in the form of lowbit's own layout for them.

import {
  type Affine,
  castBias,
  castFloat,
  firstNonFinite,
  type HostTensor,
  type LinearDType,
  LowbitError,
  memorySource,
  type QuantizedTensor,
} from '@lowbit/core';
import {
  encodeHqqLinear,
  encodeNestedHqqLinear,
  type HqqSettings,
  layerEntries,
  layoutBytes,
  readHqqLinear,
  readHqqSettings,
  readStoredLinear,
  type StateDict,
} from '@lowbit/layouts';

export type { StateDict } from '@lowbit/layouts';

/** A layer as its state dict has it. */
export interface LayerState {
  readonly weight: QuantizedTensor;
  readonly settings: HqqSettings;
  readonly computeDtype: LinearDType;
  /** [out] in `computeDtype`. */
  readonly bias?: HostTensor | undefined;
}

/** Throws ERR_UNSUPPORTED_FORMAT for what these forms cannot hold: a third party's format, a float view that bytes do not divide into. */
export function encodeState({ weight, settings, computeDtype, bias }: LayerState): StateDict {
  const { format, shape, parts } = weight;
  const state: Record<string, HostTensor> = {};
  const { scale, zero } = format as Affine;
  const encode = typeof scale === 'string' && typeof zero === 'string' ? encodeHqqLinear : encodeNestedHqqLinear;
  for (const tensor of encode({ path: '', shape, format, settings, computeDtype })) {
    state[tensor.name] = { ...tensor.spec, data: layoutBytes(tensor, parts) };
  }
  return bias === undefined ? state : { ...state, bias };
}

/**
 * Reads what `encodeState` or Python wrote. Scales, zeros and bias are rounded to the compute dtype: the one asked for, else the stored one, else f16,
 * as Python does when it places a layer.
 * @throws ERR_TENSOR_MISMATCH, ERR_UNSUPPORTED_FORMAT, ERR_NON_FINITE (all name the tensor), ERR_DTYPE_OVERFLOW
 */
export async function decodeState(state: StateDict, path: string, wanted: LinearDType | undefined): Promise<LayerState> {
  const source = memorySource(layerEntries(state, path, OWN));
  const stored = await readHqqLinear(source, path);
  const { settings, computeDtype: said } = await readHqqSettings(source, path, stored.format as Affine);
  const computeDtype = wanted ?? (said as LinearDType | undefined) ?? 'f16';
  const read = await readStoredLinear(source, stored, { path: path === '' ? 'state dict' : path });
  for (const [part, name] of Object.entries(stored.parts)) checkFinite(name, read.parts[part]!);
  const weight = placed(read, computeDtype);
  const bias = stored.bias === undefined ? undefined : castBias(await source.read(stored.bias), computeDtype, stored.bias);
  return { weight, settings, computeDtype, bias };
}

/** Names that a layer has in any of the forms; what else is beside them is not looked at. */
const OWN =
  /^(?:W_q|bias|(?:scale|zero)(?:_q)?|meta_(?:scale|zero)\..+|shape|nbits|group_size|axis|packing|unpack_view_dtype|compute_dtype|view_as_float|quant_scale|quant_zero|offload_meta|channel_wise|optimize|round_zero|encoded_state_dict|stores_quant_config|lowbit_version)$/;

function checkFinite(name: string, tensor: HostTensor): void {
  const index = firstNonFinite(tensor);
  if (index < 0) return;
  throw new LowbitError('ERR_NON_FINITE', `state dict: ${JSON.stringify(name)}: element ${index} is NaN or infinite`, {
    hint: 'The state dict is damaged, or its numbers overflowed their dtype. Quantize the layer again.',
    details: { tensor: name, index },
  });
}

/** Plain scales and zeros in the compute dtype; quantized ones are computed in it as they are read. */
function placed(weight: QuantizedTensor, dtype: LinearDType): QuantizedTensor {
  const format = weight.format as Affine;
  const parts: Record<string, HostTensor> = { ...weight.parts };
  const one = <T extends Affine['scale'] | Affine['zero']>(stored: T, name: 'scale' | 'zero'): T | LinearDType => {
    if (typeof stored !== 'string' || stored === 'none') return stored;
    const part = castFloat(parts[name]!, dtype);
    if (firstNonFinite(part) >= 0) {
      throw new LowbitError('ERR_DTYPE_OVERFLOW', `state dict: a ${name} does not fit ${dtype}`, {
        hint: 'Compute in bf16 or f32.',
        details: { tensor: name, dtype },
      });
    }
    parts[name] = part;
    return dtype;
  };
  return { format: { ...format, scale: one(format.scale, 'scale'), zero: one(format.zero, 'zero') }, shape: weight.shape, parts };
}
