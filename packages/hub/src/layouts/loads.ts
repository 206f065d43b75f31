// What the sentences on who reads a checkpoint share.

export const LOWBIT = 'lowbit, on every backend.';

/** Linears that vLLM loads as one, under another name than those of a list of modules to keep. */
export const FUSED = /(?:^|\.)(?:[qkv]_proj|gate_proj|up_proj)$/;

/** The first three paths, and how many more there are. */
export function some(paths: readonly string[]): string {
  return paths.length > 3 ? `${paths.slice(0, 3).join(', ')} and ${paths.length - 3} more` : paths.join(', ');
}
