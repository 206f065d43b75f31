import { cpus, totalmem } from 'node:os';
import type { LowbitError } from '@lowbit/core';

/** Bytes of memory of this machine, and the name of its processor. */
export function hostFacts(): { readonly memory: number; readonly processor: string } {
  return { memory: totalmem(), processor: cpus()[0]?.model.trim() ?? process.arch };
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
