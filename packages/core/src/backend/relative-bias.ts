// T5's relative bias by distance. Its buckets are computed on the host, once: their edges depend on every rounding of a logarithm, which a GPU's is not.

import { relativeBucket } from '../reference/attention.ts';
import { LowbitError } from '../spec/errors.ts';
import type { PositionBias } from '../spec/program.ts';

/** Numbers of a table. */
const MOST = 2 ** 24;

/** [2 * maxDistance + 1, heads]: the bias at distance -maxDistance .. maxDistance; what is farther has that of the last. Throws ERR_LIMIT. */
export function relativeBiasTable(table: Float32Array, bias: Extract<PositionBias, { kind: 'relative' }>, heads: number): Float32Array {
  const { maxDistance } = bias;
  const count = (2 * maxDistance + 1) * heads;
  if (count > MOST) {
    throw new LowbitError('ERR_LIMIT', `a relative bias over distances up to ${maxDistance} takes ${count} numbers, the limit is ${MOST}`, {
      details: { maxDistance, heads },
    });
  }
  const values = new Float32Array(count);
  for (let distance = -maxDistance; distance <= maxDistance; distance++) {
    const from = relativeBucket(distance, bias) * heads;
    values.set(table.subarray(from, from + heads), (distance + maxDistance) * heads);
  }
  return values;
}
