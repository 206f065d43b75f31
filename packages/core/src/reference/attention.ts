// Attention of one query row over the keys and values of its sequence.

import type { Attend } from '../spec/program.ts';

/** Keys and values of one sequence: row i is at position `from + i`. Rows are [kvHeads, keyDim] and [kvHeads, valueDim]. */
export interface KeyValues {
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly rows: number;
  readonly from: number;
}

const f = Math.fround;

/** How T5 sorts distances into buckets. */
export interface RelativeBuckets {
  readonly buckets: number;
  readonly maxDistance: number;
  /** Keys on both sides of a query have buckets of their own. */
  readonly bidirectional: boolean;
}

/**
 * T5's bucket of a distance (key position - query position). Half of the buckets (of each side) are exact distances, the rest grow
 * logarithmically up to `maxDistance`. The logarithm is rounded to float32 step by step as in the published code, whose bucket edges depend on it.
 */
export function relativeBucket(distance: number, { buckets, maxDistance, bidirectional }: RelativeBuckets): number {
  const side = bidirectional ? Math.floor(buckets / 2) : buckets;
  const base = bidirectional && distance > 0 ? side : 0;
  const n = bidirectional ? Math.abs(distance) : Math.max(0, -distance);
  const exact = Math.floor(side / 2);
  if (n < exact) return base + n;
  const grown = f(f(f(Math.log(f(n / exact))) / f(Math.log(maxDistance / exact))) * (side - exact));
  return base + Math.min(side - 1, exact + Math.floor(grown));
}

/** Float64 scratch for one row's scores and sums; made once per operation. */
export interface AttendScratch {
  readonly scores: Float64Array;
  readonly sum: Float64Array;
}

/**
 * Row `q` at `position` attends over `source`; the result goes to `out` [heads * valueDim]. Sums in float64, over keys in order of position.
 * A row that sees no key gives zeros. `table` is the relative bias [buckets, heads].
 */
export function attendRow(
  op: Attend,
  q: Float32Array,
  position: number,
  source: KeyValues,
  table: Float32Array | undefined,
  out: Float32Array,
  scratch: AttendScratch,
): void {
  const { heads, kvHeads, keyDim, valueDim, window, softcap, bias } = op;
  const { k, v, from } = source;
  const { scores, sum } = scratch;
  const first = window === undefined ? 0 : Math.max(0, position - window + 1 - from);
  const end = op.causal ? Math.min(source.rows, position + 1 - from) : source.rows;
  if (end <= first) return void out.fill(0);
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor((head * kvHeads) / heads);
    keyProducts(q, head * keyDim, k, kvHead * keyDim, kvHeads * keyDim, keyDim, first, end, scores);
    let max = Number.NEGATIVE_INFINITY;
    for (let j = first; j < end; j++) {
      let score = scores[j]! * op.scale;
      if (softcap !== undefined) score = softcap * Math.tanh(score / softcap);
      if (bias) score += biasOf(bias, table, from + j - position, head, heads);
      scores[j] = score;
      if (score > max) max = score;
    }
    let total = 0;
    sum.fill(0);
    for (let j = first; j < end; j++) {
      const weight = Math.exp(scores[j]! - max);
      total += weight;
      const at = (j * kvHeads + kvHead) * valueDim;
      for (let i = 0; i < valueDim; i++) sum[i]! += weight * v[at + i]!;
    }
    for (let i = 0; i < valueDim; i++) out[head * valueDim + i] = sum[i]! / total;
  }
}

/** scores[j] = q.k_j for keys [first, end). Four keys at a time hide the latency of the sums; each sum runs in the same order either way. */
function keyProducts(
  q: Float32Array,
  qAt: number,
  k: Float32Array,
  kAt: number,
  stride: number,
  dim: number,
  first: number,
  end: number,
  scores: Float64Array,
): void {
  let j = first;
  for (; j + 4 <= end; j += 4) {
    const k0 = kAt + j * stride;
    const k1 = k0 + stride;
    const k2 = k1 + stride;
    const k3 = k2 + stride;
    let s0 = 0;
    let s1 = 0;
    let s2 = 0;
    let s3 = 0;
    for (let i = 0; i < dim; i++) {
      const x = q[qAt + i]!;
      s0 += x * k[k0 + i]!;
      s1 += x * k[k1 + i]!;
      s2 += x * k[k2 + i]!;
      s3 += x * k[k3 + i]!;
    }
    scores[j] = s0;
    scores[j + 1] = s1;
    scores[j + 2] = s2;
    scores[j + 3] = s3;
  }
  for (; j < end; j++) {
    let s = 0;
    for (let i = 0; i < dim; i++) s += q[qAt + i]! * k[kAt + j * stride + i]!;
    scores[j] = s;
  }
}

function biasOf(bias: NonNullable<Attend['bias']>, table: Float32Array | undefined, distance: number, head: number, heads: number): number {
  if (bias.kind === 'alibi') return bias.slopes[head]! * distance;
  return table![relativeBucket(distance, bias) * heads + head]!;
}
