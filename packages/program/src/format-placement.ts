// Who runs what, as text.

import type { Placed } from './load.ts';

/** Who runs what, a line per piece: backend, its modules with runs of layers written as one, bytes. */
export function formatPlacement(placement: readonly Placed[]): string {
  return placement
    .map(({ backend, linears, bytes }) => `${backend}: ${modules(linears).join(', ')} (${(bytes / 2 ** 20).toFixed(1)} MiB)`)
    .join('\n');
}

/** `model.layers.0.self_attn.q_proj` ... of whole stretches of layers as `model.layers.0-3`; what is outside of layers as it is. */
function modules(paths: readonly string[]): string[] {
  const found: { readonly prefix: string; readonly from: number; to: number; readonly tags: Set<string> }[] = [];
  const names: string[] = [];
  for (const path of paths) {
    const match = /^(.*\.)(\d+)\.(.+)$/.exec(path.replace(/\.experts\.\d+\./, '.experts.*.'));
    if (!match) {
      names.push(path);
      continue;
    }
    const [, prefix, digits, tag] = match as unknown as [string, string, string, string];
    const layer = Number(digits);
    const last = found.at(-1);
    if (last && last.prefix === prefix && (layer === last.to || layer === last.to + 1)) {
      last.to = layer;
      last.tags.add(tag);
    } else found.push({ prefix, from: layer, to: layer, tags: new Set([tag]) });
  }
  const stretches = found.map(
    ({ prefix, from, to, tags }) =>
      `${prefix}${from === to ? from : `${from}-${to}`} (${tags.size} ${tags.size === 1 ? 'linear' : 'linears'} each)`,
  );
  return [...names, ...stretches];
}
