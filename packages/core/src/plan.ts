// The plan of a quantized checkpoint: every tensor that will be written, with its size and where it comes from, before any weight is read.

import { codecFor } from './codecs/index.ts';
import { byteLength, elementCount, FLOAT_DTYPES } from './dtype.ts';
import { matrixShape } from './quantize.ts';
import { checkRules, resolveRules } from './rules.ts';
import type { CheckpointLayout, LateContent, LayoutTensor, PlannedLinear, QuantizedSite } from './spec/checkpoint.ts';
import { isLowbitError, LowbitError } from './spec/errors.ts';
import type { Affine, Codebook, Format, FormatCodec } from './spec/format.ts';
import type { Entries, LinearSite, ModelAdapter } from './spec/model.ts';
import type { Importance, Rule, Treatment } from './spec/quantizer.ts';
import type { JsonObject, TensorSpec } from './spec/tensor.ts';

/** Where the bytes of one output tensor come from. */
export type TensorOrigin =
  | { readonly kind: 'copy'; readonly from: string }
  | { readonly kind: 'part'; readonly path: string; readonly part: string; readonly spec: TensorSpec }
  | { readonly kind: 'constant'; readonly path: string; readonly data: Uint8Array }
  | {
      readonly kind: 'late';
      readonly path: string;
      readonly parts: Readonly<Record<string, TensorSpec>>;
      readonly make: LateContent['make'];
    };

export interface PlannedTensor {
  /** Of a late tensor: with the most bytes that it can take. */
  readonly spec: TensorSpec;
  readonly origin: TensorOrigin;
}

export interface CheckpointPlan {
  /** Every linear of the model in model order, quantized or kept. */
  readonly linears: readonly PlannedLinear[];
  /** Output tensors by name: those of the source in its order, a quantized weight replaced by the tensors of its layout. */
  readonly tensors: ReadonlyMap<string, PlannedTensor>;
  readonly layout: CheckpointLayout | undefined;
  /** Contents of config.json. */
  readonly config: JsonObject;
  /** Equal for equal jobs: source tensors, settings and outputs. */
  readonly fingerprint: string;
}

export interface PlanOptions {
  /** For linears that no rule matches. */
  readonly quantizer: Treatment;
  /** Applied after the default, which keeps `lm_head`; the last match wins. */
  readonly rules?: readonly Rule[] | undefined;
  readonly adapters: readonly ModelAdapter[];
  readonly layouts: readonly CheckpointLayout[];
  /** Name of the layout to write. Default: the first that stores what the quantizers make. */
  readonly layout?: string | undefined;
  /** Dtype of everything that is not quantized, and of scales and zeros. Default: tensors as in the source, scales and zeros f16. */
  readonly dtype?: 'f32' | 'f16' | 'bf16' | undefined;
  readonly codecs?: readonly FormatCodec[] | undefined;
  /** What an error in each linear costs, by path, for quantizers that can use it. From `collectImportance`. */
  readonly importance?: ReadonlyMap<string, Importance> | undefined;
}

const TORCH_DTYPE: Readonly<Record<string, string>> = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' };

/** The adapter for config.json's `model_type`. Throws ERR_UNSUPPORTED_ARCH. */
export function adapterFor(config: JsonObject, adapters: readonly ModelAdapter[]): ModelAdapter {
  const type = config.model_type;
  const found = adapters.find((adapter) => typeof type === 'string' && adapter.modelTypes.includes(type));
  if (found) return found;
  const known = adapters.flatMap((adapter) => adapter.modelTypes);
  throw new LowbitError('ERR_UNSUPPORTED_ARCH', `no adapter for model_type ${JSON.stringify(type ?? null)}`, {
    hint: `Supported: ${known.join(', ') || 'none given'}. An adapter of your own goes into the \`adapters\` option.`,
    details: { modelType: type ?? null, supported: known },
  });
}

/**
 * Plans without reading weights.
 * @throws ERR_UNSUPPORTED_ARCH, ERR_TENSOR_MISMATCH (a linear without its tensor or with another shape), ERR_UNSUPPORTED_FORMAT (a shape that the
 * quantizer cannot hold, a mixture that no layout stores, a source that is quantized already), ERR_BAD_ARGUMENT (rules or a quantizer that are
 * none, a rule that matches nothing, an unknown layout)
 */
export function planCheckpoint(config: JsonObject, entries: Entries, options: PlanOptions): CheckpointPlan {
  const { quantizer, rules = [], adapters, layouts, dtype, codecs, importance } = options;
  checkRules(rules);
  assertFloatSource(config, entries, layouts);
  if (dtype !== undefined && !(dtype in TORCH_DTYPE)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `dtype cannot be ${String(dtype)}`, { hint: 'Use f32, f16 or bf16.', details: { dtype } });
  }
  const metaDtype = dtype ?? 'f16';
  const sites = adapterFor(config, adapters).linears(config, entries);
  const defaults: Rule[] = sites.some((site) => site.tag === 'lm_head') ? [{ match: 'lm_head', use: 'keep' }] : [];
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
    return { site, use, format, importance: importance?.get(site.path) };
  });
  const layout = chooseLayout(linears, layouts, options.layout);

  const byWeight = new Map(linears.map((linear) => [`${linear.site.path}.weight`, linear]));
  const tensors = new Map<string, PlannedTensor>();
  const add = (name: string, tensor: PlannedTensor) => {
    if (tensors.has(name)) {
      throw new LowbitError('ERR_BAD_CHECKPOINT', `two output tensors would be called ${name}`, { details: { tensor: name } });
    }
    tensors.set(name, tensor);
  };
  for (const [name, entry] of entries) {
    const linear = byWeight.get(name);
    if (linear?.format) {
      const parts = codecFor(linear.format, codecs).parts(linear.format, linear.site.shape);
      for (const tensor of layout!.tensors(linear, { computeDtype: metaDtype, weightDtype: dtype ?? entry.dtype })) {
        add(tensor.name, { spec: tensor.spec, origin: originOf(layout!, linear, parts, tensor) });
      }
    } else {
      const spec = { dtype: dtype && FLOAT_DTYPES.has(entry.dtype) ? dtype : entry.dtype, shape: entry.shape };
      add(name, { spec, origin: { kind: 'copy', from: name } });
    }
  }
  const outConfig: Record<string, JsonObject[string]> = { ...config };
  const block = layout?.config(linears);
  if (block) outConfig.quantization_config = block;
  if (dtype) outConfig['dtype' in config ? 'dtype' : 'torch_dtype'] = TORCH_DTYPE[dtype]!;
  return { linears, tensors, layout, config: outConfig, fingerprint: fingerprint(entries, linears, tensors, layout, outConfig) };
}

/** Largest part that late bytes are made of. */
const MAX_LATE_PART = 1 << 16;

function originOf(
  layout: CheckpointLayout,
  { site: { path } }: QuantizedSite,
  parts: Readonly<Record<string, TensorSpec>>,
  { name, spec, content }: LayoutTensor,
): TensorOrigin {
  if ('data' in content) return { kind: 'constant', path, data: content.data };
  const refuse = (problem: string) =>
    new LowbitError('ERR_UNSUPPORTED_FORMAT', `layout ${layout.name} stores ${problem}`, { details: { path, tensor: name } });
  for (const part of 'part' in content ? [content.part] : content.late) {
    if (!Object.hasOwn(parts, part)) throw refuse(`a part '${part}' that ${path} does not have`);
    if ('late' in content && byteLength(parts[part]!) > MAX_LATE_PART) throw refuse(`${name}, made of the large part '${part}'`);
  }
  if ('part' in content) return { kind: 'part', path, part: content.part, spec: parts[content.part]! };
  if (spec.dtype !== 'u8' || spec.shape.length !== 1) throw refuse(`${name} late, which is no one-dimensional u8 tensor`);
  const made = Object.fromEntries(content.late.map((part) => [part, parts[part]!]));
  return { kind: 'late', path, parts: made, make: (values) => content.make(values) };
}

/** Names of the tensors whose spec has the most bytes they can take: `late` of a sink's `reserve`. */
export function lateTensors({ tensors }: CheckpointPlan): ReadonlySet<string> {
  return new Set([...tensors].filter(([, { origin }]) => origin.kind === 'late').map(([name]) => name));
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
  const name = `${site.path}.weight`;
  const entry = entries.get(name);
  if (!entry) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `the checkpoint has no tensor ${name}`, {
      hint: 'The download may be incomplete, or config.json belongs to another model.',
      details: { tensor: name, expected: site.shape },
    });
  }
  const shape = matrixShape(name, entry.shape);
  const expected = site.transposed ? site.shape.toReversed() : site.shape;
  if (shape[0] !== expected[0] || shape[1] !== expected[1]) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${name} is [${shape.join(', ')}], config.json says [${expected.join(', ')}]`, {
      hint: 'config.json and the weights belong to different models.',
      details: { tensor: name, expected, actual: shape },
    });
  }
  if (!FLOAT_DTYPES.has(entry.dtype)) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `${name} holds ${entry.dtype}, not floating-point weights`, {
      details: { tensor: name, dtype: entry.dtype },
    });
  }
}

/** The layouts to choose from: all, or those of that name. Throws ERR_BAD_ARGUMENT if there is none. */
function namedLayouts(layouts: readonly CheckpointLayout[], name: string | undefined): readonly CheckpointLayout[] {
  if (name === undefined) return layouts;
  const named = layouts.filter((layout) => layout.name === name);
  if (named.length > 0) return named;
  throw new LowbitError('ERR_BAD_ARGUMENT', `there is no layout ${JSON.stringify(name)}`, {
    hint: `Layouts given: ${layouts.map((layout) => layout.name).join(', ') || 'none'}.`,
    details: { layout: name },
  });
}

function chooseLayout(
  linears: readonly PlannedLinear[],
  layouts: readonly CheckpointLayout[],
  name: string | undefined,
): CheckpointLayout | undefined {
  const named = namedLayouts(layouts, name);
  const quantized = linears.filter((linear) => linear.format !== undefined);
  if (quantized.length === 0) return undefined;
  const storesAll = (layout: CheckpointLayout): boolean => quantized.every(({ use, format }) => layout.accepts(use, format));
  const found = named.find(storesAll);
  if (found) return found;
  const other = name === undefined ? undefined : layouts.find(storesAll);
  if (other) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `the layout ${name} does not store these settings; ${other.name} does`, {
      hint: `Choose ${other.name}, or no layout by name.`,
      details: { layout: name },
    });
  }
  const given = `Layouts given: ${named.map((layout) => layout.name).join(', ') || 'none'}.`;
  const homeless = quantized.find(({ use, format }) => !named.some((layout) => layout.accepts(use, format)));
  if (homeless) {
    const { site, use, format } = homeless;
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `${site.path}: ${name === undefined ? 'no checkpoint layout stores' : `the layout ${name} does not store`} what ${use.method} makes of it, ${formatText(format)}`,
      {
        hint: `${given} Choose settings that one of them stores, or keep this layer with a rule.`,
        details: { path: site.path, format },
      },
    );
  }
  const methods = [...new Set(quantized.map(({ use }) => use.method))];
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `no checkpoint layout stores ${methods.join(' and ')} in one model`, {
    hint: `${given} Use one method for all layers.`,
    details: { methods },
  });
}

/** What tells formats of one method apart: how their scales and zeros are kept. */
function formatText(format: Format): string {
  const kept = (stored: Affine['scale'] | Affine['zero']): string => (typeof stored === 'string' ? stored : 'quantized');
  if (format.kind === 'affine') {
    const { levels, scale, zero } = format as Affine;
    return `codes of ${levels} levels with ${kept(scale)} scales and ${zero === 'none' ? 'no' : kept(zero)} zeros`;
  }
  if (format.kind === 'codebook') return `codes of the table ${(format as Codebook).table} with ${kept((format as Codebook).scale)} scales`;
  return `a ${format.kind} format`;
}

function fingerprint(
  entries: Entries,
  linears: readonly PlannedLinear[],
  tensors: ReadonlyMap<string, PlannedTensor>,
  layout: CheckpointLayout | undefined,
  config: JsonObject,
): string {
  return JSON.stringify([
    PIPELINE_VERSION,
    [...entries].map(([name, { dtype, shape }]) => [name, dtype, shape]),
    linears.map((linear) => [
      linear.site.path,
      linear.use === 'keep' ? 'keep' : [linear.use.identity, linear.format, linear.importance ? checksum(linear.importance) : null],
      ...(linear.site.transposed ? ['transposed'] : []),
    ]),
    [...tensors].map(([name, { spec }]) => [name, spec.dtype, spec.shape]),
    layout?.name ?? null,
    config,
  ]);
}

/** Goes up when the pipeline would make other bytes of the same plan: older unfinished work is then not resumed. */
const PIPELINE_VERSION = 1;

/** Enough to notice other importances: two 32-bit multiplicative hashes of the moments, and their kind. */
function checksum({ kind, moments }: Importance): string {
  let a = 0x9e3779b9;
  let b = 0x85ebca6b;
  for (const byte of moments.data) {
    a = Math.imul(a ^ byte, 0x01000193);
    b = Math.imul(b + byte, 0xc2b2ae35) ^ (b >>> 15);
  }
  return `${kind} ${(a >>> 0).toString(16)}${(b >>> 0).toString(16)}`;
}

/** Sizes that a plan is judged by, in bytes and weights. */
export interface PlanSummary {
  readonly linears: number;
  readonly quantizedLinears: number;
  readonly quantizedWeights: number;
  /** Stored bits per quantized weight, scales and padding included. */
  readonly bitsPerWeight: number;
  readonly tensorBytes: number;
  readonly sourceBytes: number;
}

export function summarizePlan(plan: CheckpointPlan, entries: Entries, codecs?: readonly FormatCodec[]): PlanSummary {
  let weights = 0;
  let bytes = 0;
  let quantizedLinears = 0;
  for (const { site, format } of plan.linears) {
    if (!format) continue;
    quantizedLinears++;
    weights += elementCount(site.shape);
    for (const spec of Object.values(codecFor(format, codecs).parts(format, site.shape))) bytes += byteLength(spec);
  }
  return {
    linears: plan.linears.length,
    quantizedLinears,
    quantizedWeights: weights,
    bitsPerWeight: weights > 0 ? (8 * bytes) / weights : 0,
    tensorBytes: [...plan.tensors.values()].reduce((sum, { spec }) => sum + byteLength(spec), 0),
    sourceBytes: [...entries.values()].reduce((sum, spec) => sum + byteLength(spec), 0),
  };
}
