// The dynamic 8-bit maps of bitsandbytes: 256 numbers in [-1, 1] (or [0, 1]) whose spacing grows with magnitude over seven decades.

import { checkOptionNames } from '@lowbit/core';
import { refusal, shown } from './refuse.ts';

const DECADES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1];

/**
 * The dynamic map (Dettmers et al., 2021): f32 [256], ascending. In decade i of seven, [0.1, 1] * 10^(i - 6) is cut into 2^i equal cells (2^(i + 1) if
 * unsigned) whose midpoints are taken, of both signs if signed; then 0 and 1. There is no -1.
 *
 * Computed in float64 and rounded once. The library's own map depends on the machine it is made on, in the last two bits of some entries: decode with
 * the map that is stored with the codes.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options
 */
export function dynamicMap(options: { readonly signed?: boolean } = {}): Float32Array {
  checkOptionNames('dynamicMap', options, ['signed']);
  const { signed = true } = options;
  if (typeof signed !== 'boolean')
    throw refusal('dynamicMap', `signed cannot be ${shown(signed)}`, 'Use true or false.', { option: 'signed' });
  const values = [0, 1];
  for (const [i, decade] of DECADES.entries()) {
    const cells = 2 ** (signed ? i : i + 1);
    for (let k = 0; k < cells; k++) {
      const middle = (0.1 + (k + 0.5) * (0.9 / cells)) * decade;
      values.push(middle);
      if (signed) values.push(-middle);
    }
  }
  return Float32Array.from(values).sort();
}
