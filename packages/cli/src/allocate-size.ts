// From a size of files to bits of weights, and back: what is not chosen for, headers and settings of linears take their part of it.

import { elementCount, type LinearSite, LowbitError, type Rule } from '@lowbit/core';
import { type FolderCheckpoint, type PlanQuantizationOptions, planQuantization } from '@lowbit/hub';
import type { ModelChoice } from './choices.ts';

/** A choice that can hold a linear. */
export interface Fitting {
  readonly choice: ModelChoice;
  /** Of the whole weight. */
  readonly bits: number;
}

/** A linear, and what it can get. */
export interface Usable {
  readonly site: LinearSite;
  readonly choices: readonly Fitting[];
}

/** Bytes of the safetensors files that rules make of a model. */
export async function plannedSize(checkpoint: FolderCheckpoint, options: PlanQuantizationOptions, rules: readonly Rule[]): Promise<number> {
  const { files } = await planQuantization(checkpoint, { ...options, rules: [...(options.rules ?? []), ...rules] });
  return files.reduce((sum, { name, bytes }) => sum + (name.endsWith('.safetensors') ? bytes : 0), 0);
}

/** Bits for the weights that are chosen for. `least`: their bits and the bytes of the files with the smallest choices. Throws ERR_LIMIT, ERR_BAD_ARGUMENT. */
export function bitsWithin(targetSize: number, least: { readonly bits: number; readonly bytes: number }): number {
  const details = { targetSize, leastBytes: least.bytes };
  if (!Number.isSafeInteger(targetSize) || targetSize < 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `targetSize is ${targetSize}, expected a number of bytes`, { details });
  }
  if (targetSize < least.bytes) {
    throw new LowbitError('ERR_LIMIT', `${targetSize} bytes are fewer than the model takes with the smallest choices, ${least.bytes}`, {
      hint: 'Raise the target, or add smaller choices. Embeddings and linears that rules keep count: quantizing more of them makes room.',
      details,
    });
  }
  return least.bits + 8 * (targetSize - least.bytes);
}

/** All linears with their smallest choices. */
export interface Least {
  readonly weights: number;
  readonly bits: number;
  readonly rules: readonly Rule[];
}

/** The smallest choice of every linear. */
export function leastOf(usable: readonly Usable[]): Least {
  const smallest = usable.map(({ site, choices }) => ({ site, ...choices.reduce((a, b) => (b.bits < a.bits ? b : a)) }));
  return {
    weights: usable.reduce((sum, { site }) => sum + elementCount(site.shape), 0),
    bits: smallest.reduce((sum, { bits }) => sum + bits, 0),
    rules: smallest.map(({ site, choice }) => ({ match: site.path, use: choice.use })),
  };
}

/** Refuses a target that no selection reaches, before anything is measured. `allocateBits` would, too, but later. */
export function checkTarget({ weights, bits }: Least, targetBits: number): void {
  if (!Number.isFinite(targetBits) || targetBits <= 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `targetBits is ${targetBits}, expected a number above 0`, { details: { targetBits } });
  }
  if (bits <= targetBits * weights * (1 + 1e-12)) return; // a decimal target counts as it is written, as in `allocateBits`
  const least = Math.ceil((bits / weights) * 1e4) / 1e4; // rounded up, so that what is said can be asked for
  throw new LowbitError('ERR_LIMIT', `${targetBits} bits per weight are fewer than the smallest choices take, ${least}`, {
    hint: 'Raise the target, or add smaller choices.',
    details: { targetBits, leastBitsPerWeight: bits / weights },
  });
}
