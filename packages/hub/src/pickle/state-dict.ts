// From saved data to named tensors: nested dictionaries become dotted names, as in a state dict, and what is no tensor is left out.

import { type HostTensor, LowbitError, quote } from '@lowbit/core';
import { hqqModule } from './hqq-module.ts';
import { badPickle, CONVERT_HINT, isDict, isTensor, type PickleDict, type PickleValue, type TorchTensor } from './values.ts';

/** A view of a storage of the file, or a small tensor that was made from a number or a string. */
export type NamedTensor = TorchTensor | (HostTensor & { readonly kind: 'made' });

/** Most dictionary items looked at: one dictionary may be in many places, and a chain of them would grow without end. */
const MAX_ITEMS = 2_000_000;
/** Most bytes of tensors that are made of numbers and strings, some tens for each setting of a module: one long string may be named by many. */
const MAX_MADE = 64 * 2 ** 20;

/**
 * Tensors by name. A module of hqq (`W_q` beside numbers and strings, flat or under `meta`) appears in the encoded form that hqq itself writes to
 * safetensors. Throws ERR_BAD_CHECKPOINT if there are no tensors, or two of one name.
 */
export function namedTensors(content: PickleValue, file: string): ReadonlyMap<string, NamedTensor> {
  const tensors = new Map<string, NamedTensor>();
  let items = 0;
  let made = 0;

  function add(name: string, tensor: NamedTensor): void {
    if (tensors.has(name)) {
      throw new LowbitError('ERR_BAD_CHECKPOINT', `${file}: two tensors are called ${quote(name)}`, {
        hint: 'Save a plain state dict, without nesting.',
        details: { file, tensor: name },
      });
    }
    tensors.set(name, tensor);
  }
  function walk(dict: PickleDict, prefix: string): void {
    for (const [key, value] of dict) {
      if (++items > MAX_ITEMS) throw badPickle(file, `more than ${MAX_ITEMS} items, some of them the same`, { hint: CONVERT_HINT });
      const name = `${prefix}${String(key)}`;
      if (isTensor(value)) add(name, value);
      else if (isDict(value) && isTensor(value.get('W_q')))
        for (const [part, tensor] of hqqModule(value, name)) {
          if (tensor.kind === 'made') made += tensor.data.byteLength;
          if (made > MAX_MADE || ++items > MAX_ITEMS)
            throw badPickle(file, `modules of hqq whose settings take more than ${MAX_MADE} bytes or ${MAX_ITEMS} items`, {
              hint: CONVERT_HINT,
            });
          add(`${name}.${part}`, tensor);
        }
      else if (isDict(value)) walk(value, `${name}.`);
    }
  }

  if (isDict(content)) walk(content, '');
  if (tensors.size === 0) {
    throw new LowbitError('ERR_BAD_CHECKPOINT', `${file} holds no tensors by name`, {
      hint: 'Save model.state_dict() in Python, best as safetensors.',
      details: { file },
    });
  }
  return tensors;
}
