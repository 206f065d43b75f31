import { cpus, totalmem } from 'node:os';

/** Bytes of memory of this machine, and the name of its processor. */
export function hostFacts(): { readonly memory: number; readonly processor: string } {
  return { memory: totalmem(), processor: cpus()[0]?.model.trim() ?? process.arch };
}
