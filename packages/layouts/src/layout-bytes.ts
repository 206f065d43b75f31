// The bytes of a layout's tensor, for weights that are in memory.

import type { HostTensor, LayoutTensor } from '@lowbit/core';

/** Bytes of one tensor of a linear with these parts: of a part itself, a constant, or made of parts. */
export function layoutBytes({ content }: LayoutTensor, parts: Readonly<Record<string, HostTensor>>): Uint8Array {
  if ('part' in content) return parts[content.part]!.data;
  return 'data' in content ? content.data : content.make(parts);
}
