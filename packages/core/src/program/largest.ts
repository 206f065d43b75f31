/** `values` f32 [rows, count] in falling order and their places; -Infinity and -1 where a row has no more. */
export interface Largest {
  readonly values: Float32Array<ArrayBuffer>;
  readonly ids: Int32Array<ArrayBuffer>;
}

/** Of rows [rows, width]; 1 <= count <= width. Of equal numbers the lower place comes first. Of NaNs the first is in front, the others are nowhere. */
export function largestOfRows(rows: Float32Array, width: number, count: number): Largest {
  const total = rows.length / width;
  const values = new Float32Array(total * count).fill(Number.NEGATIVE_INFINITY);
  const ids = new Int32Array(total * count).fill(-1);
  for (let row = 0; row < total; row++) {
    const first = row * count;
    const nan = rows.subarray(row * width, (row + 1) * width).findIndex(Number.isNaN);
    let [held, from] = [0, first];
    if (nan >= 0) {
      [values[first], ids[first]] = [Number.NaN, nan];
      [held, from] = [1, first + 1];
    }
    for (let i = 0; i < width; i++) {
      const value = rows[row * width + i]!;
      if (Number.isNaN(value) || (held === count && !(value > values[first + count - 1]!))) continue;
      let at = first + (held < count ? held++ : count - 1);
      for (; at > from && values[at - 1]! < value; at--) {
        values[at] = values[at - 1]!;
        ids[at] = ids[at - 1]!;
      }
      values[at] = value;
      ids[at] = i;
    }
  }
  return { values, ids };
}
