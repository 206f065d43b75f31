// The `quantization_config` of the `higgs` layout, as transformers 4.49 to 5 write it. It has one setting for all layers; what differs from it, or has no
// place in it, goes into a key of our own, which transformers ignores.

import { type JsonObject, type LinearSite, type PlannedLinear, storedColumns } from '@lowbit/core';
import { type HiggsFormat, type HiggsPacking, higgsPacking, isHiggs } from '@lowbit/layouts';
import { type HiggsWriteSettings, higgsSettings, higgsSkips } from './higgs-settings.ts';
import { defaultTemplate, isTemplate, tileOf } from './higgs-templates.ts';

export interface SurveyedHiggs {
  readonly site: LinearSite;
  readonly format: HiggsFormat;
  readonly packing: HiggsPacking;
  /** K: in_features as they are stored. */
  readonly columns: number;
  readonly settings: HiggsWriteSettings;
}

/** The quantized linears of a plan. Throws ERR_BAD_ARGUMENT for settings that are not of HIGGS. */
export function surveyHiggs(linears: readonly PlannedLinear[]): readonly SurveyedHiggs[] {
  return linears.flatMap((linear): SurveyedHiggs[] => {
    if (linear.use === 'keep' || !isHiggs(linear.format)) return [];
    const { site, format, use } = linear;
    const columns = storedColumns(format, site.shape);
    return [{ site, format, packing: higgsPacking(format)!, columns, settings: higgsSettings(use) }];
  });
}

/** Value of `quantization_config`. Where layers differ the first one decides. */
export function higgsConfig(linears: readonly PlannedLinear[]): JsonObject {
  const layers = surveyHiggs(linears);
  const { format, settings } = layers[0]!;
  const own = Object.fromEntries(layers.flatMap((layer) => ownSettings(layer, format)));
  return {
    bits: format.bits,
    group_size: format.group,
    hadamard_size: format.rotate.block,
    ...(Object.keys(own).length === 0 ? {} : { lowbit: { modules: own } }),
    modules_to_not_convert: higgsSkips(linears, settings).modules,
    p: format.dim,
    quant_method: 'higgs',
    tune_metadata: Object.fromEntries(layers.flatMap(tuneMetadata)),
  };
}

/** What config.json cannot say of a module otherwise. */
function ownSettings({ site, format, columns }: SurveyedHiggs, common: HiggsFormat): readonly [string, JsonObject][] {
  const own: JsonObject = {
    ...(format.bits === common.bits ? {} : { bits: format.bits }),
    ...(format.group === common.group ? {} : { group_size: format.group }),
    ...(format.rotate.block === common.rotate.block ? {} : { hadamard_size: format.rotate.block }),
    ...(site.shape[1] === columns ? {} : { in_features: site.shape[1] }),
    ...(format.dim === common.dim ? {} : { p: format.dim }),
  };
  return Object.keys(own).length === 0 ? [] : [[site.path, own]];
}

/** FLUTE's TuneMetaData. A kernel that is not known is one that most layers have; a GPU that is not known has one multiprocessor, which makes transformers pack anew. */
function tuneMetadata({ site, format, packing, columns, settings }: SurveyedHiggs): readonly [string, JsonObject][] {
  if (packing === 'portable') return [];
  const { bits } = format;
  const { template } = settings;
  const fits = isTemplate(bits, template) && tileOf(bits, template, () => new Error()) === packing;
  const metadata: JsonObject = {
    K: columns,
    M: 1,
    N: site.shape[0],
    device: 'cuda:0',
    dtype: format.scale === 'f16' ? 'torch.float16' : 'torch.bfloat16',
    group_size: format.group,
    num_bits: bits,
    num_sms: settings.sms,
    template_id: fits ? template : defaultTemplate(bits, packing),
  };
  return [[site.path, metadata]];
}
