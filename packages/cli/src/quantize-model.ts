// Quantizing a model folder into another one, by paths: hub's pipeline with the adapters of models, and a report for people.

import {
  type CallOptions,
  type Importance,
  isQuantizer,
  type LinearSite,
  LowbitError,
  type ModelAdapter,
  type Rule,
  type Runtime,
  siteTensor,
  type Treatment,
} from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import {
  type CheckpointPlan,
  checkOutputFree,
  type FolderCheckpoint,
  type LateImportance,
  type LinearReport,
  lateTensors,
  type PlannedFile,
  type PlannedTensor,
  type PlanQuantizationOptions,
  type PlanSummary,
  plannedBytes,
  planQuantization,
  type QuantizationPlan,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
  quantizeShard,
  type RemoteCheckpoint,
  type Shard,
  type ShardReport,
} from '@lowbit/hub';
import { defaultAdapters } from '@lowbit/models';
import { checkedOptions } from './checked-options.ts';
import { type FindImportanceOptions, type ImportanceReport, type ImportanceSource, importanceOf } from './importance.ts';
import { type KeepingOptions, keepingImportance } from './kept-importance.ts';
import { layeredImportance } from './layered-importance.ts';
import { openModel, openModelFolder, placeOf } from './open.ts';
import { planOptions, sizeOf, unknownType } from './plan-options.ts';
import type { RunsOn } from './running-on.ts';
import { type TagRow, tagRows } from './tags.ts';
import { isFed, type WeighedLinears, weighedOf } from './weighed-linears.ts';

/** Hub's options, with a default for the quantizer; `adapters` come in addition to the built-in ones. */
export interface PlanModelOptions extends Partial<Omit<PlanQuantizationOptions, 'quantizer' | 'shardSize'>>, Pick<CallOptions, 'signal'> {
  /** What is done to every linear that no rule matches; default `hqq()`, 4 bits in groups of 64 as Python has them. What the command does unasked is `recipeOptions(presetRecipe('best4'))`. */
  readonly quantizer?: Treatment;
  /** Most bytes of a safetensors file, as a number or as text such as `2GB`; default 5 GB. */
  readonly shardSize?: number | string | undefined;
}

/** Hub's options again, `threads` (default 1), `concurrency` and `runtime` among them. */
export interface QuantizeModelOptions
  extends Omit<PlanModelOptions, 'importance'>,
    Omit<QuantizeCheckpointOptions, keyof PlanModelOptions | 'maxMemory' | 'runtime'>,
    Pick<RunsOn, 'backends' | 'onNote'> {
  /**
   * What tells methods that can use it (`solver: 'least-squares'`, `scale: 'search'`) which input channels matter: a source, for which the model is run once, layer by layer, or what
   * `findImportance` found before. Default `none`, unlike that of the command.
   */
  readonly importance?: ImportanceSource | ReadonlyMap<string, Importance> | LateImportance | undefined;
  /** Brings routines of methods, and if it is a whole runtime runs the model for `importance`. */
  readonly runtime?: Runtime | Pick<Runtime, 'routine'> | undefined;
  /** Bound for weights and results in flight, as a number of bytes or as text such as `512MiB`; default 192 MiB. */
  readonly maxMemory?: number | string | undefined;
}

/** What will be written. */
export interface ModelPlan {
  /** Absolute path of the source, or `org/name@commit`. */
  readonly source: string;
  /** The model_type, where no adapter serves it: linears were found by their names and shapes, and nothing here runs the result. Else null. */
  readonly byName: string | null;
  /** Name of the layout that the weights are stored in; null if nothing is quantized. */
  readonly layout: string | null;
  readonly files: readonly PlannedFile[];
  /** What sizes say: with double quantization of bitsandbytes those of a plan are the largest there can be. Of what was written they are exact. */
  readonly sizes: 'exact' | 'at most';
  readonly tags: readonly TagRow[];
  readonly summary: PlanSummary;
  /** Bytes of the safetensors files, before and after. */
  readonly weightBytes: { readonly before: number; readonly after: number };
  /** Which programs load the result, as sentences. */
  readonly loadsIn: readonly string[];
  /** Remarks on the source. */
  readonly notes: readonly string[];
}

export interface QuantizeModelReport extends ModelPlan {
  /** Absolute path of the result. */
  readonly out: string;
  readonly linears: readonly LinearReport[];
  /** Sum of squared errors over sum of squared weights. */
  readonly weightError: number;
  /** Where importance came from; null if it was given as a map. */
  readonly importance: ImportanceReport | null;
  /** Units of work found done by an interrupted run. */
  readonly resumed: number;
  readonly ms: number;
}

/**
 * Plans the quantization of a model folder, or of `org/name` of the Hub. Reads headers and small files, never weights; writes nothing.
 * @throws what `openModel` and hub's `planQuantization` throw
 */
export async function planModel(path: string, options: PlanModelOptions = {}): Promise<ModelPlan> {
  const checkpoint = await openModel(path, checkedOptions('planModel', options));
  try {
    return describe(checkpoint, await planQuantization(checkpoint, planOptions(options, checkpoint)), options);
  } finally {
    await checkpoint[Symbol.asyncDispose]();
  }
}

/**
 * Quantizes a model folder, or `org/name` of the Hub while it is fetched, into `out`, in bounded memory. An abort or an error leaves nothing behind (with `resume`: what is needed to go on).
 * @throws what `openModel` and hub's `quantizeCheckpoint` throw, ERR_BAD_ARGUMENT for a source of importance that no quantizer uses; abort throws the signal's reason
 *
 * @example
 * const { weightError, loadsIn } = await quantizeModel('./model', { out: './model-hqq4', quantizer: hqq({ bits: 4, groupSize: 64 }) });
 */
export async function quantizeModel(path: string, options: QuantizeModelOptions): Promise<QuantizeModelReport> {
  const started = performance.now();
  return withSettings('quantizeModel', path, options, options, async (checkpoint, settings, importance) => {
    const done = await quantizeCheckpoint(checkpoint, settings);
    const { linears, weightError, resumed } = done;
    return {
      ...describe(checkpoint, done, options),
      sizes: 'exact',
      out: done.out,
      linears,
      weightError,
      importance,
      resumed,
      ms: performance.now() - started,
    };
  });
}

/** Settings of `quantizeModelShard`: those of `quantizeModel`, the same for every worker, and the share. */
export interface QuantizeModelShardOptions extends Omit<QuantizeModelOptions, 'resume'> {
  /** Which share of the work, of how many, from 1: `{ index: 2, count: 4 }`. */
  readonly shard: Shard;
}

/** Of one share; the plan is that of the whole model. */
export interface QuantizeModelShardReport extends ModelPlan, Omit<ShardReport, 'planned'> {
  readonly importance: ImportanceReport | null;
}

/**
 * One worker's share of `quantizeModel`; `mergeShards` makes of all shares the folder that `quantizeModel` would have written. Interrupted work is kept, and taken up by the next call for the same share.
 * Importance that a model is run for is found by every worker: give all of them the same backend, or a map that one has found.
 * @throws what `openModel` and hub's `quantizeShard` throw; abort throws the signal's reason
 */
export async function quantizeModelShard(path: string, options: QuantizeModelShardOptions): Promise<QuantizeModelShardReport> {
  // Workers of one model may write beside one another: none keeps the importance that it found.
  return withSettings('quantizeModelShard', path, options, undefined, async (checkpoint, { resume: _, ...settings }, importance) => {
    const { planned, ...done } = await quantizeShard(checkpoint, { ...settings, shard: options.shard });
    return { ...describe(checkpoint, planned, options), ...done, importance };
  });
}

/** Opens the model, finds its importance (kept beside the output where `keeping` is given), and does the work with hub's options. */
async function withSettings<T>(
  call: string,
  path: string,
  options: Omit<QuantizeModelOptions, 'resume'>,
  keeping: KeepingOptions | undefined,
  work: (
    checkpoint: FolderCheckpoint | RemoteCheckpoint,
    settings: QuantizeCheckpointOptions,
    importance: ImportanceReport | null,
  ) => Promise<T>,
): Promise<T> {
  const { maxMemory, shardSize: _, importance: source, backends, onNote, ...rest } = checkedOptions(call, options);
  const given = source instanceof Map || isLate(source) ? source : undefined;
  const runs = source !== undefined && source !== 'none' && given === undefined;
  if (runs) checkUseOfImportance(rest);
  const checkpoint = runs ? await openModelFolder(path, options) : await openModel(path, options);
  try {
    // What cannot be quantized is refused before the model is run for it.
    let linears: WeighedLinears = new Map();
    if (runs) {
      if (keeping)
        await checkOutputFree(options.out, { resume: keeping.resume ?? false, overwrite: keeping.overwrite ?? false, source: path });
      const { quantizer, rules, adapters, dtype, layout, layouts, codecs } = rest;
      const asked = Object.entries({ quantizer, rules, adapters, dtype, layout, layouts, codecs }).filter(
        ([, value]) => value !== undefined,
      );
      linears = weighedOf(
        (await planQuantization(checkpoint, planOptions(Object.fromEntries(asked) as PlanModelOptions, checkpoint))).plan,
      );
    }
    const withImportance = (importance: PlanModelOptions['importance'], report: ImportanceReport | null): Promise<T> => {
      const settings = { ...rest, ...planOptions({ ...rest, shardSize: options.shardSize }, checkpoint), importance };
      return work(checkpoint, { ...settings, maxMemory: sizeOf(maxMemory) }, report);
    };
    if (isFed(linears)) {
      if (!keeping) throw noShares();
      return await keepingImportance(options.out, keeping, async () => {
        await using layers = await layeredImportance(checkpoint as FolderCheckpoint, source as ImportanceSource, {
          ...importanceOptions(options),
          linears,
        });
        return await withImportance(layers.importance, layers.report);
      });
    }
    const found = async (keepIn?: string): Promise<T> => {
      if (given) return await withImportance(given as PlanModelOptions['importance'], null);
      const { importance, report } = await importanceOf(checkpoint, (source as ImportanceSource | undefined) ?? 'none', {
        ...importanceOptions(options),
        keepIn,
      });
      return await withImportance(importance, report);
    };
    return await (runs && keeping ? keepingImportance(options.out, keeping, found) : found());
  } finally {
    await checkpoint[Symbol.asyncDispose]();
  }
}

/** What becomes of linears; anything, of options that nobody has checked yet. */
function treatmentsOf({ quantizer = hqq(), rules = [] }: PlanModelOptions): readonly unknown[] {
  return [quantizer, ...(Array.isArray(rules) ? rules.map((rule: Rule | undefined) => rule?.use) : [])];
}

function isLate(source: QuantizeModelOptions['importance']): source is LateImportance {
  return typeof source === 'object' && source !== null && 'of' in source; // hub looks whether it is whole
}

function noShares(): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', 'feedback quantizes one layer after another, and shares do layers apart', {
    hint: 'Use quantizeModel, or a quantizer without feedback.',
    details: { option: 'quantizer' },
  });
}

/** Throws ERR_BAD_ARGUMENT where no quantizer would look at what the model is run for. */
function checkUseOfImportance(options: PlanModelOptions): void {
  if (treatmentsOf(options).some((use) => isQuantizer(use) && use.usesImportance !== false)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'importance is asked for, and no quantizer of these uses any', {
    hint: "Pass hqq({ solver: 'least-squares' }), or nf4 or fp4 with { scale: 'search' }, or leave importance out.",
    details: { option: 'importance' },
  });
}

/** A runtime that only has routines runs no model: then there is one for that. */
function importanceOptions({ runtime, backends, onNote, adapters, signal, onProgress }: QuantizeModelOptions): FindImportanceOptions {
  return { runtime: runtime && 'select' in runtime ? runtime : undefined, backends, onNote, adapters, signal, onProgress };
}

/** What a linear that is kept is written as: a tensor of its own, or the one that it shares with others. */
function keptTensor({ tensors }: CheckpointPlan, site: LinearSite): PlannedTensor {
  return (tensors.get(`${site.path}.weight`) ?? tensors.get(siteTensor(site).name))!;
}

/** A plan for people. */
export function describe(
  checkpoint: FolderCheckpoint | RemoteCheckpoint,
  { plan, files, summary, loadsIn }: QuantizationPlan,
  { codecs, adapters = [] }: { readonly codecs?: PlanModelOptions['codecs']; readonly adapters?: readonly ModelAdapter[] | undefined },
): ModelPlan {
  const stored = plannedBytes(plan);
  const linears = plan.linears.map(({ site, format }) => ({
    tag: site.tag,
    shape: site.shape,
    bytes: stored.get(site.path),
    format: format ?? ({ kind: 'dense', dtype: keptTensor(plan, site).spec.dtype } as const),
  }));
  return {
    source: placeOf(checkpoint),
    byName: unknownType(checkpoint.config, [...adapters, ...defaultAdapters]) ?? null,
    layout: plan.layout?.name ?? null,
    files,
    sizes: lateTensors(plan).size > 0 ? 'at most' : 'exact',
    tags: tagRows(linears, codecs),
    summary,
    weightBytes: {
      before: checkpoint.source.files.reduce((sum, { size }) => sum + size, 0),
      after: files.reduce((sum, { name, bytes }) => sum + (name.endsWith('.safetensors') ? bytes : 0), 0),
    },
    loadsIn,
    notes: checkpoint.notes,
  };
}
