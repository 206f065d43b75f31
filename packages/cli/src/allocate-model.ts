// Bits where they matter: which choice for which linear of a model folder, within an average number of bits, as rules for `quantizeModel`.

import { checkOptionNames, createWorkers, elementCount, type Importance, type LinearSite, LowbitError, type Rule } from '@lowbit/core';
import type { FolderCheckpoint } from '@lowbit/hub';
import { readSite, type SensitivityMetric } from '@lowbit/models';
import { type Allocation, type AllocationChoice, type AllocationLayer, allocateBits, allocationOf } from '@lowbit/models/allocation';
import { checkTarget, type Fitting, type Usable } from './allocate-size.ts';
import { DEFAULT_CHOICES, planAllocation } from './allocation-plan.ts';
import { choiceError, testedQuantizer } from './choice-error.ts';
import type { ModelChoice } from './choices.ts';
import { openModelFolder } from './open.ts';
import type { QuantizeModelOptions } from './quantize-model.ts';
import { type SensitivityOptions, sensitivitiesOf, type TestedSensitivities } from './sensitivity.ts';

/** What gets one choice. */
export type AllocatePer = 'linear' | 'fused' | 'tag';

export interface AllocateModelOptions
  extends SensitivityOptions,
    Pick<QuantizeModelOptions, 'rules' | 'dtype' | 'layout' | 'layouts' | 'codecs' | 'threads'> {
  /** From `findImportance`: errors count by it, as they do when quantizing with it. */
  readonly importance?: ReadonlyMap<string, Importance> | undefined;
  /** Average of stored bits per weight, over the linears that are chosen for: those that no rule matches, `lm_head` and embeddings never. */
  readonly targetBits?: number | undefined;
  /**
   * Instead of it: most bytes of all safetensors files together, as a number or as text such as `4GB`. With double quantization of bitsandbytes files come out a
   * little smaller.
   */
  readonly targetSize?: number | string | undefined;
  /**
   * What can be chosen; default the widths of hqq. A choice that cannot hold a linear's shape is left out for it. One of `withFeedback` is tested without feedback, by the
   * quantizer that it is over: predicted losses are those without.
   */
  readonly choices?: readonly ModelChoice[] | undefined;
  /**
   * `tag`: linears of one tag get one choice, as programs want that keep one setting per layer name; `fused`: q, k and v of a layer, and gate and up, as programs
   * want that load them as one. Default `linear`.
   */
  readonly per?: AllocatePer | undefined;
  /** Measured before; then nothing is run. */
  readonly sensitivities?: TestedSensitivities | undefined;
}

const OPTIONS = Object.keys({
  targetBits: true,
  targetSize: true,
  choices: true,
  per: true,
  sensitivities: true,
  rules: true,
  dtype: true,
  layout: true,
  layouts: true,
  codecs: true,
  importance: true,
  threads: true,
  metric: true,
  levels: true,
  seed: true,
  adapters: true,
  ids: true,
  tokens: true,
  runtime: true,
  backends: true,
  onNote: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof AllocateModelOptions, true>);

/** What one linear gets. */
export interface AllocatedLinear {
  readonly path: string;
  readonly tag: string;
  readonly weights: number;
  /** Name of its choice. */
  readonly choice: string;
  /** Stored bits per weight. */
  readonly bits: number;
  /** Relative squared error of the choice. */
  readonly error: number;
  readonly sensitivity: number;
  /** Predicted loss. */
  readonly loss: number;
}

/** What `allocateModel` gives. */
export interface ModelAllocation {
  /** For `quantizeModel` and `planModel`: the rules given, and one for each choice taken. */
  readonly rules: readonly Rule[];
  /** For a target size: what it leaves for each weight. */
  readonly targetBits: number;
  /** Bytes; null where bits were asked for. */
  readonly targetSize: number | null;
  readonly weights: number;
  /** Reached. */
  readonly bitsPerWeight: number;
  /** What losses are in: KL divergence in nats per token, or perplexity. */
  readonly metric: SensitivityMetric;
  /** Predicted loss of the model, and by how much the best one may be smaller (0: it is the best). */
  readonly loss: number;
  readonly gap: number;
  readonly linears: readonly AllocatedLinear[];
  /** The same prediction for one choice everywhere, of the choices that hold every linear. */
  readonly uniform: readonly { readonly choice: string; readonly bitsPerWeight: number; readonly loss: number }[];
  readonly sensitivities: TestedSensitivities;
}

type Choice = AllocationChoice & { readonly use: ModelChoice };
type Layer = AllocationLayer & { readonly choices: readonly Choice[]; readonly site: LinearSite };

/**
 * Chooses for every linear of a model folder: measures how much the model suffers from errors in each (`sensitivities`), how large an error each choice
 * makes, and takes the selection of least predicted loss within `targetBits`. Deterministic. Weights are read one linear at a time.
 *
 * Throws ERR_BAD_ARGUMENT (no choices, two of one name, sensitivities of another model), ERR_LIMIT (a target below the smallest choices, which it names),
 * ERR_UNSUPPORTED_FORMAT (choices that no layout stores in one model, before anything is measured), and what `measureSensitivities` of models and
 * `quantize` of core throw.
 *
 * @example
 * const { rules, loss } = await allocateModel('./model', { targetBits: 3.25 });
 * await quantizeModel('./model', { out: './model-3.25', rules });
 */
export async function allocateModel(path: string, options: AllocateModelOptions): Promise<ModelAllocation> {
  checkOptionNames('allocateModel', options, OPTIONS);
  const { choices = DEFAULT_CHOICES, rules = [], signal } = options;
  await using checkpoint = await openModelFolder(path, { signal, onProgress: options.onProgress });
  const { usable, least, targetBits, targetSize, bytesOf } = await planAllocation(checkpoint, options);

  const sensitivities =
    options.sensitivities ??
    (await sensitivitiesOf(
      checkpoint,
      usable.map(({ site }) => site.path),
      options,
    ));
  const layers = await layersOf(checkpoint, usable, sensitivities, options);
  let budget = targetBits;
  let allocation = await allocateBits(layers, { bitsPerWeight: budget }, { signal });
  // Headers and settings of layers are longer for some choices than for others.
  while (targetSize !== undefined) {
    const over = (await bytesOf(allocatedRules(allocation))) - targetSize;
    if (over <= 0) break;
    budget -= (8 * over) / least.weights;
    checkTarget(least, budget);
    allocation = await allocateBits(layers, { bitsPerWeight: budget }, { signal });
  }
  return {
    rules: [...rules, ...allocatedRules(allocation)],
    targetBits,
    targetSize: targetSize ?? null,
    weights: allocation.weights,
    bitsPerWeight: allocation.bitsPerWeight,
    metric: sensitivities.metric,
    loss: allocation.loss,
    gap: allocation.gap,
    linears: allocation.layers.map(({ weights, choice, loss }, i) => {
      const { site, sensitivity } = layers[i]!;
      const { error, name, bits } = choice;
      return { path: site.path, tag: site.tag, weights, choice: name, bits: bits / weights, error, sensitivity, loss };
    }),
    uniform: uniform(layers, choices),
    sensitivities,
  };
}

async function layersOf(
  checkpoint: FolderCheckpoint,
  usable: readonly Usable[],
  sensitivities: TestedSensitivities,
  options: AllocateModelOptions,
): Promise<readonly Layer[]> {
  const { per = 'linear', importance, onProgress, signal } = options;
  const known = new Map(sensitivities.linears.map((linear) => [linear.path, linear.sensitivity]));
  const missing = usable.find(({ site }) => !known.has(site.path));
  if (missing) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `the sensitivities have no linear ${missing.site.path}`, {
      hint: 'They were measured on another model, or with other rules. Measure them again.',
      details: { path: missing.site.path },
    });
  }
  const total = usable.reduce((sum, { choices }) => sum + choices.length, 0);
  let done = 0;
  const step = (item: string): void => {
    onProgress?.({ phase: 'errors', done: ++done, total, unit: 'linears', item });
    signal?.throwIfAborted();
  };
  const { threads = 1 } = options;
  await using own = typeof threads === 'number' && threads > 1 ? createWorkers({ threads }) : undefined;
  const layers: Layer[] = [];
  for (const { site, choices } of usable) {
    const moments = importance?.get(site.path);
    const errors = await errorsOf(checkpoint, site, choices, moments, { ...options, threads: own ?? threads }, () => step(site.path));
    layers.push({
      site,
      name: site.path,
      weights: elementCount(site.shape),
      sensitivity: known.get(site.path)!,
      choices: choices.map(({ choice, bits }, i): Choice => ({ name: choice.name, bits, error: errors[i]!, use: choice })),
      ...groupOf(per, site),
    });
  }
  return layers;
}

/** Linears that programs load as one. */
const FUSED = /(?:[qkv]_proj|(?:gate|up)_proj)$/;

function groupOf(per: AllocatePer, { tag, path }: LinearSite): { readonly group?: string } {
  if (per === 'tag') return { group: tag };
  if (per === 'linear' || !FUSED.test(path)) return {};
  return { group: path.replace(FUSED, (name) => (/^[qkv]_/.test(name) ? 'qkv' : 'gate_up')) };
}

/** Errors of all choices for one linear: known ones as they are, others by quantizing it. */
async function errorsOf(
  checkpoint: FolderCheckpoint,
  site: LinearSite,
  choices: readonly Fitting[],
  importance: Importance | undefined,
  { dtype = 'f16', codecs, runtime, threads, signal }: AllocateModelOptions,
  step: () => void,
): Promise<readonly number[]> {
  const read = async () => (await readSite(checkpoint, site, { signal })).parts.weight!;
  let weight: ReturnType<typeof read> | undefined;
  const errors: number[] = [];
  for (const { choice } of choices) {
    const { use } = choice;
    if (use === 'keep') errors.push(0);
    else if (choice.error && !importance) errors.push(choice.error(site.shape));
    else {
      weight ??= read();
      const made = { metaDtype: dtype, importance, runtime, threads, signal, ...(codecs ? { codecs } : {}) };
      errors.push(await choiceError(await weight, testedQuantizer(use)!, made));
    }
    step();
  }
  return errors;
}

/** One rule for each choice taken. */
function allocatedRules({ layers }: Allocation<Choice>): readonly Rule[] {
  const paths = new Map<ModelChoice, string[]>();
  for (const { name, choice } of layers) {
    const own = paths.get(choice.use);
    if (own) own.push(name);
    else paths.set(choice.use, [name]);
  }
  return [...paths].map(([{ use }, match]) => ({ match, use }));
}

function uniform(layers: readonly Layer[], choices: readonly ModelChoice[]): ModelAllocation['uniform'] {
  return choices.flatMap(({ name }) => {
    const indices = layers.map((layer) => layer.choices.findIndex((choice) => choice.name === name));
    if (indices.includes(-1)) return [];
    const { bitsPerWeight: bits, loss } = allocationOf(layers, indices);
    return [{ choice: name, bitsPerWeight: bits, loss }];
  });
}
