// A format in a few words, for tables.

import type { Format } from '@lowbit/core';

/** `4-bit g64`, `8-bit g64 axis 0`, `nf4 g64`, `bf16`. */
export function formatText(format: Format): string {
  if (format.kind === 'dense') return (format as Extract<Format, { kind: 'dense' }>).dtype;
  if (format.kind === 'affine') {
    const { levels, group, axis, scale } = format as Extract<Format, { kind: 'affine' }>;
    const bits = levels === 3 ? '1.58' : String(Math.log2(levels));
    const along = axis === 1 ? '' : ' axis 0';
    return `${bits}-bit ${group === null ? (axis === 1 ? 'per row' : 'per column') : `g${group}`}${along}${typeof scale === 'string' ? '' : ' nested'}`;
  }
  if (format.kind === 'codebook') {
    const { table, group, scale } = format as Extract<Format, { kind: 'codebook' }>;
    return `${table} g${group}${typeof scale === 'string' ? '' : ' nested'}`;
  }
  return format.kind;
}
