// Token ids without any text: what importance can be collected from.

import { LowbitError } from '@lowbit/core';
import { createRandom } from '../sampling/random.ts';

/**
 * Uniformly random token ids, the same for the same seed. A thousand of them show which input channels matter nearly as well as text does, so
 * importance needs no calibration data.
 * @param vocab ids are in [0, vocab)
 * Throws ERR_BAD_ARGUMENT for a vocabulary or count that is no whole number from 1.
 */
export function randomTokens(vocab: number, count: number, seed = 1): Uint32Array {
  for (const [name, value] of Object.entries({ vocab, count })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `${name} is ${value}, expected a whole number from 1`, { details: { [name]: value } });
    }
  }
  const random = createRandom(seed);
  return Uint32Array.from({ length: count }, () => Math.floor(random() * vocab));
}
