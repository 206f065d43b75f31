// Importance that is found while weights are quantized: of matrices the whole model's are larger than its weights.

import type { Importance } from '@lowbit/core';

/** `layerImportance` of models makes one. */
export interface LateImportance {
  /** Changes whenever the numbers could: an interrupted run is resumed only with an equal one. */
  readonly identity: string;
  /** The linears that will be asked for, each once. Called before the first is. */
  begin(paths: Iterable<string>): void;
  /** Asked in model order, but for as many linears as are under way at a time. */
  of(path: string): Promise<Importance | undefined>;
}

export function isLate(
  importance: Importance | LateImportance | ReadonlyMap<string, Importance> | undefined,
): importance is LateImportance {
  return typeof (importance as Partial<LateImportance> | undefined)?.of === 'function';
}
