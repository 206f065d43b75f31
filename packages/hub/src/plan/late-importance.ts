// Importance that is found while weights are quantized: of matrices the whole model's are larger than its weights.

import { type CallOptions, type Importance, LowbitError } from '@lowbit/core';

/** `layerImportance` of models makes one. */
export interface LateImportance {
  /** Changes whenever the numbers could: an interrupted run is resumed only with an equal one. */
  readonly identity: string;
  /** The linears that will be asked for, each once. Called before the first is. */
  begin(paths: Iterable<string>): void;
  /** Asked in model order, but for as many linears as are under way at a time. `signal`: who asks has no use for it any more. */
  of(path: string, options?: Pick<CallOptions, 'signal'>): Promise<Importance | undefined>;
}

export function isLate(
  importance: Importance | LateImportance | ReadonlyMap<string, Importance> | undefined,
): importance is LateImportance {
  return typeof (importance as Partial<LateImportance> | undefined)?.of === 'function';
}

/** Throws ERR_BAD_ARGUMENT for what is neither a map nor a whole `LateImportance`. */
export function checkImportance(importance: unknown): void {
  if (importance === undefined) return;
  const { get, of, begin, identity } = (importance ?? {}) as { readonly [key in 'get' | keyof LateImportance]?: unknown };
  const isWhole = typeof of === 'function' && typeof begin === 'function' && typeof identity === 'string' && identity !== '';
  if (of === undefined ? typeof get === 'function' : isWhole) return;
  const lacks = of === undefined ? undefined : typeof of !== 'function' ? 'of' : typeof begin !== 'function' ? 'begin' : 'identity';
  throw new LowbitError('ERR_BAD_ARGUMENT', lacks ? `importance has no ${lacks}` : 'importance is no map of moments by path', {
    hint: 'Pass what checkpointImportance or layerImportance of models gives.',
    details: { option: 'importance' },
  });
}
