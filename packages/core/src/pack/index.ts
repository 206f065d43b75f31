// All published packings by name. A format names one; nothing else in core knows bit positions.

import { LowbitError } from '../spec/errors.ts';
import { BNB_NIBBLE, FLAT_U8 } from './flat.ts';
import { FLUTE } from './flute.ts';
import { BITS_1_U8, BITS_2_U8, BITS_3_I32, BITS_4_U8, BITS_8_U8 } from './lanes.ts';
import type { Packing } from './packing.ts';
import { ROW_BITS } from './row-bits.ts';

export { type FluteTile, fluteName, fluteRows } from './flute.ts';
export { packLanes } from './lanes.ts';
export { isLanePacking, isTilePacking, type LanePacking, type PackedRun, type Packing, type TilePacking, type TileRun } from './packing.ts';
export { rowBitsName } from './row-bits.ts';

/** Packings by the name that `Format.packing` uses. */
export const PACKINGS: Readonly<Record<string, Packing>> = Object.fromEntries(
  [BITS_8_U8, BITS_4_U8, BITS_3_I32, BITS_2_U8, BITS_1_U8, BNB_NIBBLE, FLAT_U8, ...ROW_BITS, ...FLUTE].map((packing) => [
    packing.name,
    packing,
  ]),
);

/** The packing of that name. Throws ERR_UNSUPPORTED_FORMAT if there is none. */
export function packing(name: string): Packing {
  const found = Object.hasOwn(PACKINGS, name) ? PACKINGS[name] : undefined;
  if (found) return found;
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `no packing is called '${name}'`, {
    hint: `Known packings: ${Object.keys(PACKINGS).join(', ')}.`,
    details: { packing: name },
  });
}
