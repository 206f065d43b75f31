// Names of stored tensors, and what messages call them.

import type { DType, Shape } from '@lowbit/core';

/** Name of a tensor of a module; the empty path is the module itself, as in its own state dict. */
export function tensorName(path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`;
}

/** Names a linear in messages. */
export function ownerOf(path: string): string {
  return path === '' ? 'this linear' : path;
}

/** `u8 [4, 8]`, for messages. */
export function specText(spec: { readonly dtype: DType; readonly shape: Shape }): string {
  return `${spec.dtype} [${spec.shape.join(', ')}]`;
}
