// The plan of a checkpoint whose quantized linears are to be stored in another way. Everything else is copied.

import type {
  CheckpointLayout,
  Entries,
  Format,
  FormatCodec,
  JsonObject,
  LinearSettings,
  LinearSite,
  ModelAdapter,
  PlannedLinear,
  QuantizedSite,
  StoredLinear,
} from '@lowbit/core';
import { codecFor, fitInputs, LowbitError, linearTag, quote, siteTensor } from '@lowbit/core';
import { type CheckpointPlan, chooseLayout, type LinearWork, planFingerprint, planTensors } from './plan-tensors.ts';
import { isRecoding } from './recode.ts';

/** How a linear is to be stored. */
export interface Recoding {
  /** What the layout writes into its config block. */
  readonly use: LinearSettings;
  /** Differs from the stored format in its packing at the most. */
  readonly format: Format;
}

/** Of `planRecoding`. */
export interface RecodingOptions {
  /** Called for every quantized linear; `stored.shape` is that of the site. */
  readonly recode: (site: LinearSite, stored: StoredLinear) => Recoding;
  /** They know in_features where files only know rows that were filled up, and the linears that are not quantized. A model without an adapter is converted, too. */
  readonly adapters?: readonly ModelAdapter[] | undefined;
  readonly layouts: readonly CheckpointLayout[];
  /** Name of the layout to write. Default: the first that stores the formats. */
  readonly layout?: string | undefined;
  readonly codecs?: readonly FormatCodec[] | undefined;
}

/**
 * Plans without reading weights. `stored` is `Checkpoint.quantized`.
 * @throws ERR_BAD_ARGUMENT (nothing is quantized, an unknown layout), ERR_TENSOR_MISMATCH (a linear of another shape than the model has),
 * ERR_UNSUPPORTED_FORMAT (a shape that the packing cannot hold, formats that differ in more, a mixture that no layout stores)
 */
export function planRecoding(
  config: JsonObject,
  entries: Entries,
  stored: ReadonlyMap<string, StoredLinear>,
  options: RecodingOptions,
): CheckpointPlan {
  const { recode, layouts, codecs } = options;
  if (stored.size === 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'the source has no quantized linears to convert', {
      hint: 'Quantize it first, or pass a quantized checkpoint.',
    });
  }
  const work = new Map<string, LinearWork>();
  const linears = sitesOf(config, entries, stored, options.adapters ?? []).map((site): PlannedLinear => {
    const found = stored.get(site.path);
    if (found === undefined) {
      if (!entries.has(siteTensor(site).name)) throw incomplete(site);
      return { site, use: 'keep' };
    }
    const fitted = toSite(site, found);
    const { use, format } = recode(site, fitted);
    codecFor(format, codecs).parts(format, site.shape); // a packing may refuse the shape
    if (!isRecoding(fitted.format, format)) {
      throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(site.path)}: its codes cannot be taken over into another format`, {
        hint: 'Only the packing of codes can be changed. For other settings quantize the original again.',
        details: { path: site.path, from: fitted.format, to: format },
      });
    }
    work.set(site.path, { kind: 'recode', stored: fitted });
    return { site, use, format };
  });
  const layout = chooseLayout(linears, layouts, options.layout);
  const byPath = new Map(linears.flatMap((linear) => (linear.use === 'keep' ? [] : [[linear.site.path, linear] as const])));
  const owners = (name: string): readonly QuantizedSite[] => {
    for (let end = name.length; end > 0; end = name.lastIndexOf('.', end - 1)) {
      const path = name.slice(0, end);
      if (byPath.has(path)) return stored.get(path)!.bias === name ? [] : [byPath.get(path)!];
    }
    return [];
  };
  const tensors = planTensors(entries, { owners, layout, computeDtype: 'f16', codecs });
  const { quantization_config: _, ...rest } = config;
  const block = layout?.config(linears);
  const plan = { linears, work, tensors, layout, config: block ? { ...rest, quantization_config: block } : rest };
  return { ...plan, fingerprint: planFingerprint(entries, plan) };
}

/** The linears of the model, as its adapter knows them; quantized ones that it does not know, or all if there is none, by what is stored. */
function sitesOf(
  config: JsonObject,
  entries: Entries,
  stored: ReadonlyMap<string, StoredLinear>,
  adapters: readonly ModelAdapter[],
): readonly LinearSite[] {
  const adapter = adapters.find(({ modelTypes }) => typeof config.model_type === 'string' && modelTypes.includes(config.model_type));
  const logical = new Map(entries);
  for (const [path, { shape }] of stored) logical.set(`${path}.weight`, { dtype: 'f32', shape });
  const known = adapter?.linears(config, logical) ?? [];
  const paths = new Set(known.map(({ path }) => path));
  const further = [...stored].filter(([path]) => !paths.has(path));
  return [
    ...known,
    ...further.map(([path, { shape, bias }]): LinearSite => ({ path, tag: linearTag(path), layer: -1, shape, bias: bias !== undefined })),
  ];
}

function incomplete({ path, shape }: LinearSite): LowbitError {
  return new LowbitError(
    'ERR_TENSOR_MISMATCH',
    `the linear ${quote(path)} is neither quantized nor has a tensor ${quote(`${path}.weight`)}`,
    {
      hint: 'Tensors of it are missing, or named otherwise. The download may be incomplete.',
      details: { path, expected: shape },
    },
  );
}

/** The linear with the shape of its site. Throws ERR_TENSOR_MISMATCH if it has another. */
function toSite(site: LinearSite, stored: StoredLinear): StoredLinear {
  const fitted = fitInputs(stored, site.shape);
  if (fitted.shape[0] === site.shape[0] && fitted.shape[1] === site.shape[1]) return fitted;
  throw new LowbitError(
    'ERR_TENSOR_MISMATCH',
    `${quote(site.path)} is stored as [${stored.shape.join(', ')}], config.json says [${site.shape.join(', ')}]`,
    {
      hint: 'config.json and the weights belong to different models.',
      details: { path: site.path, expected: site.shape, actual: stored.shape },
    },
  );
}
