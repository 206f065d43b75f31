// The plan of a quantized checkpoint: every tensor that will be written, with its size and where it comes from, before any weight is read.

import type {
  CheckpointLayout,
  Entries,
  FormatCodec,
  Importance,
  JsonObject,
  LinearSite,
  ModelAdapter,
  PlannedLinear,
  Quantizer,
  Rule,
  Treatment,
} from '@lowbit/core';
import {
  adapterFor,
  byteLength,
  checkRules,
  checkSiteShape,
  codecFor,
  elementCount,
  FLOAT_DTYPES,
  isLowbitError,
  LowbitError,
  resolveRules,
  siteTensor,
} from '@lowbit/core';
import { checkImportance, isLate, type LateImportance } from './late-importance.ts';
import { type CheckpointPlan, chooseLayout, type LinearWork, planFingerprint, planTensors } from './plan-tensors.ts';
import { plannedBytes } from './stored-bytes.ts';

/** Of `planCheckpoint`. */
export interface PlanOptions {
  /** For linears that no rule matches. */
  readonly quantizer: Treatment;
  /** Applied after the default, which keeps `lm_head` and `LinearSite.keep`; the last match wins. */
  readonly rules?: readonly Rule[] | undefined;
  readonly adapters: readonly ModelAdapter[];
  readonly layouts: readonly CheckpointLayout[];
  /** Name of the layout to write. Default: the first that stores what the quantizers make. */
  readonly layout?: string | undefined;
  /** Dtype of everything that is not quantized, and of scales and zeros. Default: tensors as in the source, scales and zeros f16. */
  readonly dtype?: 'f32' | 'f16' | 'bf16' | undefined;
  readonly codecs?: readonly FormatCodec[] | undefined;
  /** What an error in each linear costs, by path, for quantizers that can use it. From `checkpointImportance` of models, or from its `layerImportance` while it is quantized. */
  readonly importance?: ReadonlyMap<string, Importance> | LateImportance | undefined;
}

const TORCH_DTYPE: Readonly<Record<string, string>> = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' };

/**
 * Plans without reading weights.
 * @throws ERR_UNSUPPORTED_ARCH, ERR_TENSOR_MISMATCH (a linear without its tensor or with another shape), ERR_UNSUPPORTED_FORMAT (a shape that the
 * quantizer cannot hold, a mixture that no layout stores, a source that is quantized already), ERR_BAD_ARGUMENT (rules or a quantizer that are
 * none, a rule that matches nothing, an unknown layout, importance that is none)
 */
export function planCheckpoint(config: JsonObject, entries: Entries, options: PlanOptions): CheckpointPlan {
  const { quantizer, rules = [], adapters, layouts, dtype, codecs, importance } = options;
  checkRules(rules);
  checkImportance(importance);
  assertFloatSource(config, entries, layouts);
  if (dtype !== undefined && !(dtype in TORCH_DTYPE)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `dtype cannot be ${String(dtype)}`, { hint: 'Use f32, f16 or bf16.', details: { dtype } });
  }
  const metaDtype = dtype ?? 'f16';
  const sites = adapterFor(config, adapters).linears(config, entries);
  const kept = sites.filter((site) => keptByDefault(site)).map(({ path }) => path);
  const defaults: Rule[] = kept.length > 0 ? [{ match: kept, use: 'keep' }] : [];
  const treatments = resolveRules(sites, [...defaults, ...rules], quantizer);
  const linears = sites.map((site): PlannedLinear => {
    const use = treatments.get(site)!;
    checkSite(site, entries);
    if (use === 'keep') return { site, use };
    const format = naming(site, () => {
      const chosen = use.format(site.shape, metaDtype);
      codecFor(chosen, codecs).parts(chosen, site.shape); // a packing may refuse what the quantizer does not
      return chosen;
    });
    return { site, use, format };
  });
  const layout = chooseLayout(linears, layouts, options.layout);

  const work = new Map<string, LinearWork>();
  const byWeight = new Map<string, PlannedLinear[]>();
  for (const linear of linears) {
    const { path } = linear.site;
    const treatment = treatments.get(linear.site)!;
    const { name } = siteTensor(linear.site);
    byWeight.set(name, [...(byWeight.get(name) ?? []), linear]);
    if (linear.use === 'keep' || treatment === 'keep') continue;
    work.set(path, { kind: 'quantize', quantizer: treatment, importance: importanceOf(path, treatment, importance) });
  }
  const owners = (name: string): readonly PlannedLinear[] => byWeight.get(name) ?? [];
  const tensors = planTensors(entries, { owners, layout, computeDtype: metaDtype, dtype, codecs });
  const outConfig: Record<string, JsonObject[string]> = { ...config };
  const block = layout?.config(linears);
  if (block) outConfig.quantization_config = block;
  if (dtype) outConfig['dtype' in config ? 'dtype' : 'torch_dtype'] = TORCH_DTYPE[dtype]!;
  const plan = { linears, work, tensors, layout, config: outConfig };
  return { ...plan, fingerprint: planFingerprint(entries, plan) };
}

/** Stays as it is unless a rule names it. */
export function keptByDefault({ tag, keep }: Pick<LinearSite, 'tag' | 'keep'>): boolean {
  return keep === true || tag === 'lm_head';
}

/** Late importance of who does not look at it would be found in vain. */
function importanceOf(
  path: string,
  { usesImportance }: Quantizer,
  importance: PlanOptions['importance'],
): Importance | LateImportance | undefined {
  if (!isLate(importance)) return importance?.get(path);
  return usesImportance === false ? undefined : importance;
}

/** Adds the linear's path to what a quantizer or codec says of a shape. */
function naming<T>(site: LinearSite, choose: () => T): T {
  try {
    return choose();
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    throw new LowbitError(error.code, `${site.path}: ${error.message}`, {
      hint: error.hint,
      details: { ...error.details, path: site.path, shape: site.shape },
      cause: error,
    });
  }
}

function assertFloatSource(config: JsonObject, entries: Entries, layouts: readonly CheckpointLayout[]): void {
  const block = config.quantization_config;
  const layout = layouts.find((candidate) => candidate.detect(config, entries));
  if (!layout && (block === undefined || block === null)) return;
  throw new LowbitError(
    'ERR_UNSUPPORTED_FORMAT',
    `the source is quantized already (${layout?.name ?? JSON.stringify((block as JsonObject).quant_method)})`,
    {
      hint: 'Quantize the original 16- or 32-bit checkpoint: quantizing twice adds the errors of both.',
      details: { layout: layout?.name },
    },
  );
}

function checkSite(site: LinearSite, entries: Entries): void {
  const { name } = siteTensor(site);
  const entry = entries.get(name);
  if (!entry) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `the checkpoint has no tensor ${name}`, {
      hint: 'The download may be incomplete, or config.json belongs to another model.',
      details: { tensor: name, expected: site.shape },
    });
  }
  checkSiteShape(site, entry);
  if (!FLOAT_DTYPES.has(entry.dtype)) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${name} holds ${entry.dtype}, not floating-point weights`, {
      details: { tensor: name, dtype: entry.dtype },
    });
  }
}

/** Sizes that a plan is judged by, in bytes and weights. */
export interface PlanSummary {
  readonly linears: number;
  readonly quantizedLinears: number;
  readonly quantizedWeights: number;
  /** Stored bits per quantized weight, scales, tables and padding included, in the dtypes of the files; settings of layers are not. */
  readonly bitsPerWeight: number;
  readonly tensorBytes: number;
  readonly sourceBytes: number;
  /** Numbers of the model, and bits for each of them in the result: everything counted, what is not quantized, too. */
  readonly parameters: number;
  readonly bitsPerParameter: number;
}

/** Bits and bytes of a plan. */
export function summarizePlan(plan: CheckpointPlan, entries: Entries): PlanSummary {
  const stored = plannedBytes(plan);
  let weights = 0;
  let bytes = 0;
  let quantizedLinears = 0;
  for (const { site, format } of plan.linears) {
    if (!format) continue;
    quantizedLinears++;
    weights += elementCount(site.shape);
    bytes += stored.get(site.path) ?? 0;
  }
  const tensorBytes = [...plan.tensors.values()].reduce((sum, { spec }) => sum + byteLength(spec), 0);
  const copied = [...plan.tensors.values()].filter(({ origin }) => origin.kind === 'copy');
  const parameters = weights + copied.reduce((sum, { spec }) => sum + elementCount(spec.shape), 0);
  return {
    linears: plan.linears.length,
    quantizedLinears,
    quantizedWeights: weights,
    bitsPerWeight: weights > 0 ? (8 * bytes) / weights : 0,
    parameters,
    bitsPerParameter: parameters > 0 ? (8 * tensorBytes) / parameters : 0,
    tensorBytes,
    sourceBytes: [...entries.values()].reduce((sum, spec) => sum + byteLength(spec), 0),
  };
}
