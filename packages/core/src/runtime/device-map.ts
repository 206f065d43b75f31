// Backends by module, tag or pattern.

import { glob, isLiteral } from '../glob.ts';
import { linearTag } from '../rules.ts';
import { LowbitError } from '../spec/errors.ts';

/**
 * Backends by name for the linears that a key names: a module path with all below it (`model.layers.3`, `lm_head`, '' for everything), a tag
 * (`mlp.down_proj`) or a glob of either. The last key that matches wins. Operations without a weight run where the next weight of their layer is.
 */
export type DeviceMap = Readonly<Record<string, string>>;

/** The backend that a map gives to the linear at a path. The function that it makes throws ERR_BAD_ARGUMENT for a path without an entry. */
export function devicePlaces(map: DeviceMap): (path: string) => string {
  const keys = Object.keys(map);
  const backends = Object.values(map);
  const orders = new Map(keys.map((key, order) => [key, order]));
  const patterns = keys.flatMap((key, order) => (isLiteral(key) ? [] : [{ matches: glob(key), order }]));
  return (path) => {
    const tag = linearTag(path);
    let last = Math.max(orders.get('') ?? -1, orders.get(tag) ?? -1);
    for (let end = path.length; end > 0; end = path.lastIndexOf('.', end - 1)) last = Math.max(last, orders.get(path.slice(0, end)) ?? -1);
    const pattern = patterns.findLast(({ matches }) => matches(path) || matches(tag));
    last = Math.max(last, pattern?.order ?? -1);
    if (last >= 0) return backends[last]!;
    throw new LowbitError('ERR_BAD_ARGUMENT', `the device map has no entry for ${path}`, {
      hint: "Name it, a module above it or its tag; the key '' stands for everything.",
      details: { path, keys },
    });
  };
}
