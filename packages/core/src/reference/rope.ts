// Rotary position embedding (arXiv:2104.09864): pairs of dimensions are turned.

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
