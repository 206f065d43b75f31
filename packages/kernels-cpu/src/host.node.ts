import { cpus, totalmem } from 'node:os';

/** Bytes of memory of this machine, and the name of its processor. */
export function hostFacts(): { readonly memory: number; readonly processor: string } {
  const model = cpus()[0]?.model.trim() ?? '';
  // Linux on arm64 tells no model.
  return { memory: totalmem(), processor: model === '' || model === 'unknown' ? process.arch : model };
}
