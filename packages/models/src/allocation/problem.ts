// The allocation problem: what is chosen for each layer, what that costs in bits and in loss, and how many bits there are. All of it is data; nothing
// here knows a method.

import { isPlainRecord, LowbitError } from '@lowbit/core';

/** One way to store a layer. */
export interface AllocationChoice {
  /** What the caller calls it: `hqq:b4:g64`. */
  readonly name: string;
  /** Bits of the whole layer when stored so, a whole number: codes, scales, zeros, tables and padding. */
  readonly bits: number;
  /**
   * Squared error of the weights over their squared norm, t^2 = sum (w - w')^2 / sum w^2, or any other measure in the unit that the layer's sensitivity
   * is per unit of. 0 or more.
   */
  readonly error: number;
}

/** A layer to choose for. */
export interface AllocationLayer {
  /** For messages and results. */
  readonly name: string;
  /** Number of weights: what bits per weight are counted over. */
  readonly weights: number;
  /** Expected loss of the model per unit of error, alpha_l of the linearity theorem. Below 0, which is noise of a measurement, it counts as 0. */
  readonly sensitivity: number;
  /** At least one; they may differ from layer to layer. */
  readonly choices: readonly AllocationChoice[];
  /** Layers of one group get choices of one name. All of them list the same names. */
  readonly group?: string | undefined;
}

/** Bits for all layers together: a total, or an average over their weights. */
export type AllocationBudget = { readonly bitsPerWeight: number } | { readonly bits: number };

/** One way to decide, of a layer or of a group of them. */
export interface Option {
  readonly bits: number;
  /** Predicted loss. */
  readonly cost: number;
  /** Index into the choices of each layer of the decision. */
  readonly picks: readonly number[];
}

/** A layer, or a group of layers, that is decided at once. */
export interface Decision {
  /** Indices of its layers. */
  readonly layers: readonly number[];
  /** None is worse than another in both bits and cost: ascending bits, descending cost. */
  readonly options: readonly Option[];
}

function bad(message: string, details: Readonly<Record<string, unknown>>, hint?: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', message, { details, hint });
}

/** Far more than anyone has; the solver counts them in 16 bits. */
const MOST_CHOICES = 1024;

function checkLayer(layer: AllocationLayer): void {
  const { name, weights, sensitivity, choices } = layer;
  if (!Number.isSafeInteger(weights) || weights < 1) {
    throw bad(`layer ${name} has ${weights} weights, expected a whole number from 1`, { layer: name, weights });
  }
  if (!Number.isFinite(sensitivity)) throw bad(`the sensitivity of layer ${name} is ${sensitivity}`, { layer: name, sensitivity });
  if (choices.length === 0) {
    throw bad(`layer ${name} has no choices`, { layer: name }, 'Give it at least one; a layer that stays as it is has one, of error 0.');
  }
  if (choices.length > MOST_CHOICES) {
    throw new LowbitError('ERR_LIMIT', `layer ${name} has ${choices.length} choices, more than ${MOST_CHOICES}`, {
      details: { layer: name },
    });
  }
  for (const choice of choices) {
    if (!Number.isSafeInteger(choice.bits) || choice.bits < 0) {
      throw bad(
        `choice ${choice.name} of layer ${name} takes ${choice.bits} bits, expected a whole number`,
        { layer: name, choice: choice.name, bits: choice.bits },
        'Bits are those of the whole layer: 8 times the bytes of its codes, scales and tables in a file.',
      );
    }
    if (!Number.isFinite(choice.error) || choice.error < 0) {
      throw bad(`choice ${choice.name} of layer ${name} has the error ${choice.error}, expected a number from 0`, {
        layer: name,
        choice: choice.name,
        error: choice.error,
      });
    }
  }
}

/** Predicted loss of one choice. */
export function choiceLoss({ sensitivity }: Pick<AllocationLayer, 'sensitivity'>, { error }: Pick<AllocationChoice, 'error'>): number {
  return Math.max(0, sensitivity) * error;
}

/** Options that no other beats: sorted by bits, each of smaller cost than all before. Of equals the first listed stays. */
function undominated(options: readonly Option[]): readonly Option[] {
  const kept: Option[] = [];
  for (const option of options.toSorted((a, b) => a.bits - b.bits || a.cost - b.cost)) {
    if (kept.length === 0 || option.cost < kept.at(-1)!.cost) kept.push(option);
  }
  return kept;
}

function decisionOf(layers: readonly AllocationLayer[], members: readonly number[]): Decision {
  const first = layers[members[0]!]!;
  const options = first.choices.map((choice, index): Option => {
    const picks = members.map((member, at) => {
      if (at === 0) return index;
      const pick = layers[member]!.choices.findIndex(({ name }) => name === choice.name);
      if (pick < 0) throw unequal(first, layers[member]!, choice.name);
      return pick;
    });
    let bits = 0;
    let cost = 0;
    for (const [at, member] of members.entries()) {
      const chosen = layers[member]!.choices[picks[at]!]!;
      bits += chosen.bits;
      cost += choiceLoss(layers[member]!, chosen);
    }
    return { bits, cost, picks };
  });
  return { layers: members, options: undominated(options) };
}

function unequal(first: AllocationLayer, other: AllocationLayer, choice: string | undefined): LowbitError {
  const what = choice === undefined ? 'other choices' : `no choice ${choice}`;
  return bad(
    `layers ${first.name} and ${other.name} are both in group ${first.group}, but ${other.name} has ${what}`,
    { group: first.group, layers: [first.name, other.name] },
    'Layers of one group need the same names of choices, each once.',
  );
}

/** Checks everything and brings layers and groups into one form. Throws ERR_BAD_ARGUMENT. */
export function decisions(layers: readonly AllocationLayer[]): readonly Decision[] {
  if (layers.length === 0) throw bad('there are no layers to allocate bits to', { layers: 0 });
  const members = new Map<string, number[]>();
  const order: number[][] = [];
  for (const [index, layer] of layers.entries()) {
    checkLayer(layer);
    const { group } = layer;
    const known = group === undefined ? undefined : members.get(group);
    if (known) known.push(index);
    else {
      const own = [index];
      order.push(own);
      if (group !== undefined) members.set(group, own);
    }
  }
  for (const group of members.values()) {
    const first = layers[group[0]!]!;
    for (const index of group) {
      const names = layers[index]!.choices.map(({ name }) => name);
      if (new Set(names).size !== names.length || names.length !== first.choices.length) throw unequal(first, layers[index]!, undefined);
    }
  }
  return order.map((own) => decisionOf(layers, own));
}

/** Bits that may be used. An average is read as the decimal that it is written as: 0.1 of 30 weights is 3 bits. Throws ERR_BAD_ARGUMENT. */
export function budgetBits(layers: readonly AllocationLayer[], budget: AllocationBudget): number {
  const given: { readonly bits?: unknown; readonly bitsPerWeight?: unknown } = isPlainRecord(budget) ? budget : {};
  const { bits, bitsPerWeight } = given;
  const value = bits ?? bitsPerWeight;
  if ((bits === undefined) === (bitsPerWeight === undefined) || typeof value !== 'number' || !(value >= 0) || !Number.isFinite(value)) {
    throw bad('the budget must be one number: { bitsPerWeight: 3.25 } or { bits: 27262976 }', { budget });
  }
  const weights = layers.reduce((sum, layer) => sum + layer.weights, 0);
  const exact = bits === undefined ? value * weights : value;
  const near = Math.round(exact);
  return Math.abs(exact - near) <= 1e-12 * exact ? near : Math.floor(exact);
}
