// What a reference within a schema points at.

import type { Json, JsonObject } from '@lowbit/core';

/** The part of `root` that `#` or `#/a/b` names (RFC 6901); undefined where there is none, or the reference leads elsewhere. */
export function referred(ref: string, root: Json): Json | undefined {
  if (ref === '#') return root;
  if (!ref.startsWith('#/')) return undefined;
  let path: string;
  try {
    path = decodeURIComponent(ref.slice(2));
  } catch {
    path = ref.slice(2);
  }
  let target: Json | undefined = root;
  for (const part of path.split('/')) {
    const key = part.replaceAll('~1', '/').replaceAll('~0', '~');
    target = typeof target === 'object' && target !== null && Object.hasOwn(target, key) ? (target as JsonObject)[key] : undefined;
  }
  return target;
}
