// Rotary position embedding (arXiv:2104.09864) with the published ways to stretch it.

import type { Rope } from '../spec/program.ts';

/** Frequencies in force and the factor on cos and sin, for a sequence that is `length` positions long at this step. */
export function ropeAt(rope: Rope, length: number): { readonly frequencies: readonly number[]; readonly scale: number } {
  switch (rope.kind) {
    case 'fixed':
      return rope;
    case 'long':
      return { frequencies: length <= rope.original ? rope.short : rope.long, scale: rope.scale };
    case 'dynamic': {
      // NTK-aware scaling of the base by the length reached, as transformers' `dynamic` rope type.
      const { dim, factor, original } = rope;
      const growth = length <= original ? 1 : (factor * length) / original - (factor - 1);
      const base = rope.base * growth ** (dim / (dim - 2));
      return { frequencies: Array.from({ length: dim / 2 }, (_, i) => base ** ((-2 * i) / dim)), scale: 1 };
    }
  }
}

/** Rotates one row in place: the first `dim` elements of each of `heads` parts, by position * frequency. */
export function rotateRow(
  row: Float32Array,
  heads: number,
  dim: number,
  style: 'half' | 'interleaved',
  position: number,
  rope: { readonly frequencies: readonly number[]; readonly scale: number },
): void {
  const width = row.length / heads;
  const half = dim / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * rope.frequencies[i]!;
    const cos = Math.cos(angle) * rope.scale;
    const sin = Math.sin(angle) * rope.scale;
    for (let head = 0; head < heads; head++) {
      const first = head * width + (style === 'half' ? i : 2 * i);
      const second = first + (style === 'half' ? half : 1);
      const a = row[first]!;
      const b = row[second]!;
      row[first] = a * cos - b * sin;
      row[second] = b * cos + a * sin;
    }
  }
}
