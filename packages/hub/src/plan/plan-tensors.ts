// What every plan is made of: the layout that stores all linears, the tensors that take the place of theirs, and the plan's fingerprint.

import type {
  Affine,
  CheckpointLayout,
  Codebook,
  DType,
  Entries,
  Format,
  FormatCodec,
  Importance,
  JsonObject,
  LateContent,
  LayoutOptions,
  LayoutTensor,
  PlannedLinear,
  QuantizedSite,
  Quantizer,
  StoredLinear,
  TensorSpec,
} from '@lowbit/core';
import { byteLength, codecFor, FLOAT_DTYPES, LowbitError, siteTensor } from '@lowbit/core';
import { isLate, type LateImportance } from './late-importance.ts';

/** Where the bytes of one output tensor come from. */
export type TensorOrigin =
  /** `first`: the flat element of the source where it begins; default 0. */
  | { readonly kind: 'copy'; readonly from: string; readonly first?: number }
  | { readonly kind: 'part'; readonly path: string; readonly part: string; readonly spec: TensorSpec }
  | { readonly kind: 'constant'; readonly path: string; readonly data: Uint8Array }
  | {
      readonly kind: 'late';
      readonly path: string;
      readonly parts: Readonly<Record<string, TensorSpec>>;
      /** The length is known from the start. */
      readonly exact: boolean;
      readonly make: LateContent['make'];
    };

/** One tensor of a plan. */
export interface PlannedTensor {
  /** Of a late tensor that is not exact: with the most bytes that it can take. */
  readonly spec: TensorSpec;
  readonly origin: TensorOrigin;
}

/** How the parts of one linear come about. */
export type LinearWork =
  | { readonly kind: 'quantize'; readonly quantizer: Quantizer; readonly importance?: Importance | LateImportance | undefined }
  /** Its codes, scales and table are taken over from the source. */
  | { readonly kind: 'recode'; readonly stored: StoredLinear };

/** Every tensor that will be written. */
export interface CheckpointPlan {
  /** Every linear of the model in model order, quantized or kept. */
  readonly linears: readonly PlannedLinear[];
  /** What is to be done for the quantized ones, by path. */
  readonly work: ReadonlyMap<string, LinearWork>;
  /** Output tensors by name: those of the source in its order, those of a linear replaced by the tensors of its layout. */
  readonly tensors: ReadonlyMap<string, PlannedTensor>;
  readonly layout: CheckpointLayout | undefined;
  /** Contents of config.json. */
  readonly config: JsonObject;
  /** Equal for equal jobs: source tensors, settings and outputs. */
  readonly fingerprint: string;
}

/** Names of the tensors whose spec has the most bytes they can take: `late` of a sink's `reserve`. */
export function lateTensors({ tensors }: CheckpointPlan): ReadonlySet<string> {
  return new Set([...tensors].filter(([, { origin }]) => origin.kind === 'late' && !origin.exact).map(([name]) => name));
}

interface TensorsOptions {
  /**
   * The linears that a tensor of the source belongs to: several if it is their weights in one. Unless all are kept, each is written as a linear of its own.
   * The tensors of one linear are replaced together, where the first of them is.
   */
  readonly owners: (name: string) => readonly PlannedLinear[];
  readonly layout: CheckpointLayout | undefined;
  readonly computeDtype: DType;
  /** Of what is not quantized; default as in the source. */
  readonly dtype?: DType | undefined;
  readonly codecs?: readonly FormatCodec[] | undefined;
}

/** The output tensors. Throws ERR_BAD_CHECKPOINT if two would have one name, ERR_UNSUPPORTED_FORMAT for what a layout cannot ask for. */
export function planTensors(
  entries: Entries,
  { owners, layout, computeDtype, dtype, codecs }: TensorsOptions,
): ReadonlyMap<string, PlannedTensor> {
  const tensors = new Map<string, PlannedTensor>();
  const planned = new Set<QuantizedSite>();
  const add = (name: string, tensor: PlannedTensor) => {
    if (tensors.has(name)) {
      throw new LowbitError('ERR_BAD_CHECKPOINT', `two output tensors would be called ${name}`, { details: { tensor: name } });
    }
    tensors.set(name, tensor);
  };
  const kept = (entry: TensorSpec): DType => (dtype && FLOAT_DTYPES.has(entry.dtype) ? dtype : entry.dtype);
  for (const [name, entry] of entries) {
    const linears = owners(name);
    if (linears.every(({ use }) => use === 'keep')) {
      add(name, { spec: { dtype: kept(entry), shape: entry.shape }, origin: { kind: 'copy', from: name } });
      continue;
    }
    for (const linear of linears) {
      if (linear.use === 'keep') {
        const { path, shape } = linear.site;
        const { from } = siteTensor(linear.site);
        add(`${path}.weight`, { spec: { dtype: kept(entry), shape }, origin: { kind: 'copy', from: name, first: from } });
        continue;
      }
      if (planned.has(linear)) continue;
      planned.add(linear);
      const parts = codecFor(linear.format, codecs).parts(linear.format, linear.site.shape);
      const options: LayoutOptions = { computeDtype, weightDtype: dtype ?? (FLOAT_DTYPES.has(entry.dtype) ? entry.dtype : computeDtype) };
      for (const tensor of layout!.tensors(linear, options)) {
        add(tensor.name, { spec: tensor.spec, origin: originOf(layout!, linear, parts, tensor) });
      }
    }
  }
  return tensors;
}

/** Largest part that late bytes are made of. */
const MAX_LATE_PART = 1 << 16;

/** Where a tensor's bytes come from. Throws ERR_UNSUPPORTED_FORMAT for what a layout cannot ask for. */
export function originOf(
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
  const { exact = false } = content;
  if (!exact && (spec.dtype !== 'u8' || spec.shape.length !== 1)) throw refuse(`${name} late, which is no one-dimensional u8 tensor`);
  const made = Object.fromEntries(content.late.map((part) => [part, parts[part]!]));
  return { kind: 'late', path, parts: made, exact, make: (values) => content.make(values) };
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

/** The first layout that stores all linears, or that of a name; undefined if none is quantized. Throws ERR_UNSUPPORTED_FORMAT, ERR_BAD_ARGUMENT. */
export function chooseLayout(
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
        hint: `${given} Choose settings that one of them stores, or keep this linear with a rule.`,
        details: { path: site.path, format },
      },
    );
  }
  const methods = [...new Set(quantized.map(({ use }) => use.method))];
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `no checkpoint layout stores ${methods.join(' and ')} in one model`, {
    hint: `${given} Use one method for all linears.`,
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
  if (format.kind === 'codebook') {
    const { table, scale, packing } = format as Codebook;
    return `codes of the table ${table} with ${kept(scale)} scales, packed as ${packing}`;
  }
  return `a ${format.kind} format`;
}

/** Equal for equal jobs. */
export function planFingerprint(entries: Entries, plan: Omit<CheckpointPlan, 'fingerprint'>): string {
  return JSON.stringify([
    PIPELINE_VERSION,
    [...entries].map(([name, { dtype, shape }]) => [name, dtype, shape]),
    plan.linears.map((linear) => [
      linear.site.path,
      linear.use === 'keep' ? 'keep' : workText(linear, plan.work.get(linear.site.path)!),
      ...(linear.site.transposed ? ['transposed'] : []),
      ...(linear.site.stacked ? [linear.site.stacked] : []),
    ]),
    [...plan.tensors].map(([name, { spec }]) => [name, spec.dtype, spec.shape]),
    plan.layout?.name ?? null,
    plan.config,
  ]);
}

function workText({ use, format }: QuantizedSite, work: LinearWork): readonly unknown[] {
  if (work.kind === 'recode') return [`recode ${use.method}`, format, work.stored];
  const { importance } = work;
  return [work.quantizer.identity, format, importance ? (isLate(importance) ? `late ${importance.identity}` : checksum(importance)) : null];
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
