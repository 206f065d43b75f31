// State dicts of single layers: tensors by name, as Python's `state_dict()` gives them, of a bare layer or of a whole model.

import type { HostTensor } from '@lowbit/core';
import { byteLength, DTYPE_BYTES, LowbitError } from '@lowbit/core';

/** Tensors by name. */
export type StateDict = Readonly<Record<string, HostTensor>>;

/**
 * The tensors of the layer at `path` ('' for a bare one): those whose names below it match `own`; what else is beside them is not looked at.
 * Throws ERR_TENSOR_MISMATCH for one that is no whole tensor.
 */
export function layerEntries(state: StateDict, path: string, own: RegExp): StateDict {
  const prefix = path === '' ? '' : `${path}.`;
  const entries = Object.entries(state).filter(([name]) => name.startsWith(prefix) && own.test(name.slice(prefix.length)));
  for (const [name, tensor] of entries) checkBytes(name, tensor);
  return Object.fromEntries(entries);
}

function checkBytes(name: string, tensor: HostTensor): void {
  const isTensor = tensor?.data instanceof Uint8Array && Array.isArray(tensor.shape) && Object.hasOwn(DTYPE_BYTES, tensor.dtype);
  if (isTensor && tensor.data.byteLength === byteLength(tensor)) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `state dict: ${JSON.stringify(name)} is no whole tensor`, {
    hint: 'Every entry is { dtype, shape, data } with all its bytes.',
    details: { tensor: name },
  });
}
