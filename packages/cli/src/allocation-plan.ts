// What a budget is shared out over, and whether it can be met at all: the linears of a model folder, what each of them can get and takes then. Headers are read, never weights.

import {
  adapterFor,
  type CheckpointLayout,
  codecFor,
  DTYPE_BYTES,
  elementCount,
  FLOAT_DTYPES,
  isLowbitError,
  isQuantizer,
  type LinearSite,
  LowbitError,
  type Quantizer,
  type Rule,
  resolveRules,
  siteTensor,
} from '@lowbit/core';
import { type FolderCheckpoint, keptByDefault, linearBytes, planQuantization } from '@lowbit/hub';
import { defaultAdapters } from '@lowbit/models';
import type { AllocateModelOptions } from './allocate-model.ts';
import { bitsWithin, checkTarget, type Least, leastOf, plannedSize, type Usable } from './allocate-size.ts';
import { testedQuantizer } from './choice-error.ts';
import { defaultChoices, type ModelChoice, makeChoices } from './choices.ts';
import { openModelFolder } from './open.ts';
import { sizeOf } from './plan-options.ts';

/** The widths of hqq. */
export const DEFAULT_CHOICES: readonly ModelChoice[] = makeChoices(defaultChoices('hqq'));

/** What is known before anything is measured. */
export interface AllocationPlan {
  /** The linears that are chosen for, and what holds each. */
  readonly usable: readonly Usable[];
  readonly least: Least;
  /** Of a size: what it leaves for each weight, before longer headers than those of the smallest choices. */
  readonly targetBits: number;
  readonly targetSize: number | undefined;
  /** Bytes of the safetensors files that rules make of the model. */
  bytesOf(rules: readonly Rule[]): Promise<number>;
}

/**
 * Throws what `allocateModel` does before it measures anything: ERR_BAD_ARGUMENT, ERR_LIMIT for a target that the smallest choices miss, ERR_UNSUPPORTED_FORMAT.
 * For callers who would measure something themselves first, such as importance.
 */
export async function checkAllocation(path: string, options: AllocateModelOptions): Promise<void> {
  await using checkpoint = await openModelFolder(path, { signal: options.signal, onProgress: options.onProgress });
  await planAllocation(checkpoint, options);
}

/** Finds out what can be chosen, in which layout, and checks the target. Throws as `checkAllocation` says. */
export async function planAllocation(checkpoint: FolderCheckpoint, options: AllocateModelOptions): Promise<AllocationPlan> {
  const { choices = DEFAULT_CHOICES, rules = [], adapters = [], dtype, layout, layouts, codecs } = options;
  const targetSize = sizeOf(options.targetSize);
  if ((options.targetBits === undefined) === (targetSize === undefined)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'give either targetBits or targetSize', {
      hint: "Pass { targetBits: 3.5 } or { targetSize: '4GB' }.",
    });
  }
  const quantizer = checkChoices(choices);
  const free = freeSites(checkpoint, quantizer, options);
  const holding = free.map((site) => ({ site, choices: holdingChoices(site, choices, options) }));
  const stored = await layoutOfMixture(checkpoint, holding, quantizer, options);
  const usable = holding.map(({ site, choices: own }) => ({
    site,
    choices: own.map((choice) => ({ choice, bits: bitsOf(site, choice, stored, checkpoint, options) })),
  }));
  const planned = { quantizer, rules, adapters: [...adapters, ...defaultAdapters], dtype, layout, codecs, ...(layouts ? { layouts } : {}) };
  const bytesOf = (chosen: readonly Rule[]) => plannedSize(checkpoint, planned, chosen);
  const least = leastOf(usable);
  const targetBits =
    targetSize === undefined
      ? options.targetBits!
      : bitsWithin(targetSize, { bits: least.bits, bytes: await bytesOf(least.rules) }) / least.weights;
  checkTarget(least, targetBits);
  return { usable, least, targetBits, targetSize, bytesOf };
}

/** Throws ERR_BAD_ARGUMENT unless there are choices of different names, a quantizer among them; gives the first such. */
function checkChoices(choices: readonly ModelChoice[]): Quantizer {
  const bad = (problem: string): LowbitError =>
    new LowbitError('ERR_BAD_ARGUMENT', `the choices ${problem}`, {
      hint: "A choice is { name: '4 bits', use: hqq({ bits: 4 }) }.",
      details: { choices: choices.map((choice) => choice?.name) },
    });
  if (!Array.isArray(choices)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'choices are no list', { hint: "A choice is { name: '4 bits', use: hqq({ bits: 4 }) }." });
  }
  const isWrong = (choice: ModelChoice): boolean => typeof choice?.name !== 'string' || !(choice.use === 'keep' || isQuantizer(choice.use));
  if (choices.some(isWrong)) throw bad(`hold one without a name or a use, ${String(JSON.stringify(choices.find(isWrong))).slice(0, 80)}`);
  const untested = choices.find(({ use }) => use !== 'keep' && testedQuantizer(use) === undefined);
  if (untested) throw bad(`hold ${untested.name}, which needs matrices of moments: errors are tested before there are any`);
  if (new Set(choices.map(({ name }) => name)).size !== choices.length) throw bad('have a name twice');
  const quantizer = choices.find(({ use }) => use !== 'keep')?.use;
  if (quantizer === undefined || quantizer === 'keep') throw bad('hold no quantizer');
  return quantizer;
}

/** The linears that no rule matches, but for those that are kept by default: the head, routers. */
function freeSites(
  checkpoint: FolderCheckpoint,
  quantizer: Quantizer,
  { rules = [], adapters = [] }: AllocateModelOptions,
): readonly LinearSite[] {
  const sites = adapterFor(checkpoint.config, [...adapters, ...defaultAdapters]).linears(checkpoint.config, checkpoint.source.entries);
  const mark: Quantizer = { ...quantizer }; // an object that no rule can name
  const treatments = resolveRules(sites, rules, mark);
  const free = sites.filter((site) => treatments.get(site) === mark && !keptByDefault(site));
  if (free.length > 0) return free;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'rules match every linear layer: there is nothing to allocate bits to', {
    hint: 'Leave some to the allocation, or leave the target out.',
  });
}

/** The choices that can hold a linear. */
function holdingChoices(
  { shape }: LinearSite,
  choices: readonly ModelChoice[],
  { dtype = 'f16', codecs }: AllocateModelOptions,
): readonly ModelChoice[] {
  let reason: unknown;
  const found = choices.filter(({ use }) => {
    if (use === 'keep') return true;
    try {
      const format = use.format(shape, dtype);
      codecFor(format, codecs).parts(format, shape); // a packing may refuse what the quantizer does not
      return true;
    } catch (error) {
      if (!isLowbitError(error, 'ERR_UNSUPPORTED_FORMAT')) throw error;
      reason = error;
      return false;
    }
  });
  if (found.length === 0) throw reason;
  return found;
}

/** Bits of the whole weight in the files of the layout; of one that is kept those of its dtype. */
function bitsOf(
  site: LinearSite,
  { use }: ModelChoice,
  layout: CheckpointLayout | undefined,
  checkpoint: FolderCheckpoint,
  { dtype, codecs }: AllocateModelOptions,
): number {
  const source = checkpoint.source.entries.get(siteTensor(site).name)?.dtype ?? 'f32';
  if (use === 'keep') return 8 * elementCount(site.shape) * DTYPE_BYTES[dtype ?? source];
  const computeDtype = dtype ?? 'f16';
  const weightDtype = dtype ?? (FLOAT_DTYPES.has(source) ? source : computeDtype);
  const linear = { site, use, format: use.format(site.shape, computeDtype) };
  return 8 * linearBytes(linear, layout!, { computeDtype, weightDtype, ...(codecs ? { codecs } : {}) });
}

/**
 * Plans a model with all choices in it, so that what cannot be stored together is refused before anything is measured, and gives the layout that stores it:
 * there is one unless no linear can be quantized.
 */
async function layoutOfMixture(
  checkpoint: FolderCheckpoint,
  holding: readonly { readonly site: LinearSite; readonly choices: readonly ModelChoice[] }[],
  quantizer: Quantizer,
  { rules = [], adapters = [], dtype, layout, layouts, codecs }: AllocateModelOptions,
): Promise<CheckpointLayout | undefined> {
  const mixed = holding.map(({ site, choices }, i): Rule => {
    const quantizers = choices.filter(({ use }) => use !== 'keep');
    return { match: site.path, use: quantizers.length > 0 ? quantizers[i % quantizers.length]!.use : 'keep' };
  });
  const { plan } = await planQuantization(checkpoint, {
    quantizer,
    rules: [...rules, ...mixed],
    adapters: [...adapters, ...defaultAdapters],
    dtype,
    layout,
    ...(layouts ? { layouts } : {}),
    codecs,
  });
  return plan.layout;
}
