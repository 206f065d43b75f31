// What the sentences on who reads a checkpoint share.

import type { PlannedLinear } from '@lowbit/core';

export const LOWBIT = 'lowbit, on every backend.';

/** Linears that vLLM loads as one, under another name than those of a list of modules to keep. */
export const FUSED = /(?:^|\.)(?:[qkv]_proj|gate_proj|up_proj)$/;

/** Parts of models that look at images: transformers calls them by other names than files do, so lists of modules in config.json miss them. */
const IMAGES = /(?:^|\.)(?:vision_tower|multi_modal_projector)\./;

/** Whether there is an image tower beside a language model. */
export function hasImageTower(linears: readonly PlannedLinear[]): boolean {
  return linears.some(({ site }) => IMAGES.test(site.path));
}

/** What no program but lowbit reads: experts that were one tensor in the source, quantized each by itself. Empty if there are none. */
export function splitExperts(linears: readonly PlannedLinear[]): readonly string[] {
  const split = linears.flatMap(({ site, use }) => (use !== 'keep' && site.stacked ? [site.path] : []));
  if (split.length === 0) return [];
  return [
    `lowbit alone reads ${some(split)}: transformers leaves experts that are stored as one tensor unquantized. For other programs start from a checkpoint with experts one by one.`,
  ];
}

/** The first three paths, and how many more there are. */
export function some(paths: readonly string[]): string {
  return paths.length > 3 ? `${paths.slice(0, 3).join(', ')} and ${paths.length - 3} more` : paths.join(', ');
}
