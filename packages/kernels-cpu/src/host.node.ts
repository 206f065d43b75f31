import { cpus, totalmem } from 'node:os';
import type { LowbitError } from '@lowbit/core';

/** Bytes of memory of this machine, and the name of its processor. */
export function hostFacts(): { readonly memory: number; readonly processor: string } {
  const model = cpus()[0]?.model.trim() ?? '';
  // Linux on arm64 tells no model.
  return { memory: totalmem(), processor: model === '' || model === 'unknown' ? process.arch : model };
}

/** A listener that makes a warning of the process of the first failure with each code. */
export function warnOnce(): (problem: LowbitError) => void {
  const told = new Set<string>();
  return ({ code, message, hint }) => {
    if (told.has(code)) return;
    told.add(code);
    process.emitWarning(hint ? `${message}. ${hint}` : message, { type: 'LowbitWarning', code });
  };
}
