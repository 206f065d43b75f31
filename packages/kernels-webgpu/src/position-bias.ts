// T5's relative bias by distance. Its buckets are computed here, once: their edges depend on every rounding of a logarithm, which a GPU's is not.

import { LowbitError, type PositionBias } from '@lowbit/core';

/** Numbers of a table. */
const MOST = 2 ** 24;

type Relative = Extract<PositionBias, { kind: 'relative' }>;

const f = Math.fround;

/** Bucket of a distance (key position - query position), rounded step by step as packages/core/src/reference/attention.ts. */
function bucketOf(distance: number, { buckets, maxDistance, bidirectional }: Relative): number {
  const side = bidirectional ? Math.floor(buckets / 2) : buckets;
  const base = bidirectional && distance > 0 ? side : 0;
  const n = bidirectional ? Math.abs(distance) : Math.max(0, -distance);
  const exact = Math.floor(side / 2);
  if (n < exact) return base + n;
  const grown = f(f(f(Math.log(f(n / exact))) / f(Math.log(maxDistance / exact))) * (side - exact));
  return base + Math.min(side - 1, exact + Math.floor(grown));
}

/** [2 * maxDistance + 1, heads]: the bias at distance -maxDistance .. maxDistance; what is farther has that of the last. Throws ERR_LIMIT. */
export function biasTable(table: Float32Array, bias: Relative, heads: number): Float32Array {
  const { maxDistance } = bias;
  const count = (2 * maxDistance + 1) * heads;
  if (count > MOST) {
    throw new LowbitError('ERR_LIMIT', `a relative bias over distances up to ${maxDistance} takes ${count} numbers, the limit is ${MOST}`, {
      details: { maxDistance, heads },
    });
  }
  const values = new Float32Array(count);
  for (let distance = -maxDistance; distance <= maxDistance; distance++) {
    const from = bucketOf(distance, bias) * heads;
    values.set(table.subarray(from, from + heads), (distance + maxDistance) * heads);
  }
  return values;
}
