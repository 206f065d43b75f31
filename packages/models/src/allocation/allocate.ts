// Which choice for which layer: the smallest predicted loss within a number of bits.

import { LowbitError } from '@lowbit/core';
import { type AllocationBudget, type AllocationChoice, type AllocationLayer, budgetBits, choiceLoss, decisions } from './problem.ts';
import { solve } from './solve.ts';

/** Of `allocateBits`. */
export interface AllocateOptions {
  readonly signal?: AbortSignal | undefined;
  /**
   * Bound of the search, in states of one stage: far above what models take. An instance beyond it is not given up, but `gap` may be above 0.
   * Default 131,072, some seconds at worst.
   */
  readonly maxStates?: number | undefined;
}

/** What one layer gets. */
export interface Allocated<C extends AllocationChoice = AllocationChoice> {
  readonly name: string;
  readonly weights: number;
  readonly choice: C;
  /** Index of `choice` in the layer's list. */
  readonly index: number;
  /** Predicted loss, max(0, sensitivity) * error. */
  readonly loss: number;
}

/** A choice for each layer. */
export interface Allocation<C extends AllocationChoice = AllocationChoice> {
  /** In the order given. */
  readonly layers: readonly Allocated<C>[];
  readonly weights: number;
  readonly bits: number;
  readonly bitsPerWeight: number;
  /** Predicted loss of the model, in the unit of the sensitivities. */
  readonly loss: number;
  /** How much smaller another allocation's loss could be at most: 0 when this one is proven optimal, which it is but for `maxStates`. */
  readonly gap: number;
}

const DEFAULT_STATES = 2 ** 17;

/** Sums up a list of choices, one index per layer. Throws ERR_BAD_ARGUMENT for an index that is none. */
export function allocationOf<C extends AllocationChoice>(
  layers: readonly (AllocationLayer & { readonly choices: readonly C[] })[],
  indices: readonly number[],
): Omit<Allocation<C>, 'gap'> {
  const chosen = layers.map((layer, i): Allocated<C> => {
    const index = indices[i]!;
    const choice = layer.choices[index];
    if (choice === undefined) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `layer ${layer.name} has no choice ${index}`, { details: { layer: layer.name, index } });
    }
    return { name: layer.name, weights: layer.weights, choice, index, loss: choiceLoss(layer, choice) };
  });
  const weights = chosen.reduce((sum, layer) => sum + layer.weights, 0);
  const bits = chosen.reduce((sum, { choice }) => sum + choice.bits, 0);
  return { layers: chosen, weights, bits, bitsPerWeight: bits / weights, loss: chosen.reduce((sum, { loss }) => sum + loss, 0) };
}

/**
 * One choice per layer, so that the sum of `max(0, sensitivity) * error` is smallest and the bits stay within the budget. By the linearity theorem (arXiv
 * 2411.17525) that sum is the expected increase of what sensitivities were measured in. Exact; equal problems give equal answers.
 *
 * Throws ERR_BAD_ARGUMENT for unusable numbers, a layer without choices or a group of unequal ones, ERR_LIMIT for a budget below the smallest choices,
 * whose size it says; abort throws the signal's reason.
 *
 * @example
 * const { layers, bitsPerWeight, loss } = await allocateBits(
 *   [{ name: 'q_proj', weights: 65536, sensitivity: 0.2, choices: [{ name: 'b2', bits: 163840, error: 0.17 }, { name: 'b4', bits: 294912, error: 0.007 }] }],
 *   { bitsPerWeight: 3.25 },
 * );
 */
export async function allocateBits<C extends AllocationChoice>(
  layers: readonly (AllocationLayer & { readonly choices: readonly C[] })[],
  budget: AllocationBudget,
  options: AllocateOptions = {},
): Promise<Allocation<C>> {
  const { signal, maxStates = DEFAULT_STATES } = options;
  if (!Number.isSafeInteger(maxStates) || maxStates < 1 || maxStates > 2 ** 24) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `maxStates is ${maxStates}, expected a whole number from 1 to ${2 ** 24}`, {
      details: { maxStates },
    });
  }
  const all = decisions(layers);
  const capacity = budgetBits(layers, budget);
  const least = all.reduce((sum, decision) => sum + decision.options[0]!.bits, 0);
  if (least > capacity) {
    const weights = layers.reduce((sum, layer) => sum + layer.weights, 0);
    // Rounded up, so that what is said can be asked for.
    const perWeight = Math.ceil((least / weights) * 1e4) / 1e4;
    throw new LowbitError('ERR_LIMIT', `the budget of ${capacity} bits is below the smallest choices, which take ${least}`, {
      hint: `Allow at least ${perWeight} bits per weight, or give smaller choices.`,
      details: { bits: capacity, least, leastBitsPerWeight: least / weights },
    });
  }
  const { options: picked, bound } = await solve(all, capacity, { maxStates, signal });
  const indices = new Array<number>(layers.length);
  for (const [i, decision] of all.entries()) {
    const { picks } = decision.options[picked[i]!]!;
    for (const [at, layer] of decision.layers.entries()) indices[layer] = picks[at]!;
  }
  const allocation = allocationOf(layers, indices);
  const cost = all.reduce((sum, decision, i) => sum + decision.options[picked[i]!]!.cost, 0);
  return { ...allocation, gap: Math.max(0, cost - bound) };
}
