// The `quantization_config` of the `bitsandbytes` layout, as transformers 5 writes it, and who can read the result.
//
// The block has one setting for all layers. transformers 5 goes by the stored tensors where they differ, transformers 4.57 fails; so does lowbit's plan
// not forbid mixtures, but says who cannot read them.

import type { JsonObject, LinearSite, PlannedLinear } from '@lowbit/core';
import { isFourBit, isInt8 } from '@lowbit/layouts';
import { type BitsAndBytesSettings, bitsAndBytesSettings } from './bitsandbytes-settings.ts';
import { FUSED, hasImageTower, LOWBIT, some, splitExperts } from './loads.ts';
import { type SkipList, skipList } from './skip-list.ts';

interface SurveyedLinear {
  readonly site: LinearSite;
  readonly bits: 4 | 8;
  /** Of 8-bit layers the value that transformers writes, which means nothing. */
  readonly type: string;
  readonly nested: boolean;
  readonly group: number;
  readonly threshold: number;
  readonly settings: BitsAndBytesSettings;
}

/** Value of `quantization_config`. Where layers differ the first one decides, of `llm_int8_threshold` the first 8-bit one. */
export function bitsAndBytesConfig(linears: readonly PlannedLinear[]): JsonObject {
  const layers = survey(linears);
  const [first] = layers;
  const { settings } = first!;
  const { modules } = skips(linears, settings);
  const [four, eight] = [first!.bits === 4, first!.bits === 8];
  return {
    _load_in_4bit: four,
    _load_in_8bit: eight,
    bnb_4bit_compute_dtype: settings.computeDtype,
    bnb_4bit_quant_storage: settings.storageName,
    bnb_4bit_quant_type: first!.type,
    bnb_4bit_use_double_quant: first!.nested,
    llm_int8_enable_fp32_cpu_offload: settings.fp32CpuOffload,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: modules,
    llm_int8_threshold: (layers.find(({ bits }) => bits === 8) ?? first!).threshold,
    load_in_4bit: four,
    load_in_8bit: eight,
    quant_method: 'bitsandbytes',
  };
}

/** Programs that load the result, a sentence each. */
export function bitsAndBytesLoadsIn(linears: readonly PlannedLinear[]): readonly string[] {
  const layers = survey(linears);
  const { unskippable } = skips(linears, layers[0]!.settings);
  return [
    LOWBIT,
    ...splitExperts(linears),
    ...thresholds(layers),
    ...(hasImageTower(linears) ? [NOT_WITH_IMAGES] : transformers(layers, unskippable)),
    vllm(layers, linears, unskippable),
    TGI,
  ];
}

const NOT_WITH_IMAGES =
  'Not transformers 5: it has other names for the layers of the image tower than llm_int8_skip_modules, which has those of the files, so it takes them for quantized ones. Models with images were not tried in transformers 4.';

const TGI = 'Not TGI: it quantizes float checkpoints while loading, and reads no quantized ones of bitsandbytes.';

/** Whoever reads the result, lowbit too, has no other threshold than that of config.json. */
function thresholds(layers: readonly SurveyedLinear[]): readonly string[] {
  const different = new Set(layers.flatMap(({ bits, threshold }) => (bits === 8 ? [threshold] : [])));
  return different.size > 1
    ? ['config.json holds one llm_int8_threshold, that of the first 8-bit layer, and every reader applies it to all.']
    : [];
}

function transformers(layers: readonly SurveyedLinear[], unskippable: readonly string[]): readonly string[] {
  if (unskippable.length > 0) {
    return [
      `Not transformers: llm_int8_skip_modules cannot name ${some(unskippable)} without skipping a quantized layer. Keep or quantize them together.`,
    ];
  }
  const [first] = layers;
  if (layers.some(({ bits, settings }) => bits !== first!.bits || settings.storage !== first!.settings.storage)) {
    return ['Not transformers: it takes one number of bits, and one storage dtype, for all layers.'];
  }
  const mixed = layers.some(({ type, nested }) => type !== first!.type || nested !== first!.nested);
  const library = first!.bits === 4 ? '0.41.3' : '0.38';
  const experts = layers.some(({ site }) => site.expert !== undefined);
  if (mixed && experts) {
    return [
      'Not transformers: 4 fails as config.json cannot name all settings, and 5 refuses quantized experts, which it joins into one tensor.',
    ];
  }
  const versions = mixed
    ? 'transformers 5, which goes by the stored layers where config.json cannot name all settings (4.57 fails)'
    : experts
      ? 'transformers 4, not 5 (tried: 5.23.0), which joins experts into one tensor and refuses quantized ones'
      : 'transformers 4 and 5 (tried: 4.57.6 and 5.23.0)';
  const sentences = [`Python: ${versions}, with bitsandbytes ${library} or later (transformers 5 asks for 0.46.1).`];
  const slipping = layers.filter(({ bits, site, group }) => bits === 4 && site.shape[1] % 16 === 0 && site.shape[1] % group !== 0);
  if (slipping.length > 0) {
    const names = some(slipping.map(({ site }) => site.path));
    sentences.push(
      `bitsandbytes 0.49.0 to 0.50.2 on CPUs with AVX-512 applies wrong scales to ${names}, whose rows are no multiple of the block size. Use a GPU there.`,
    );
  }
  return sentences;
}

function vllm(layers: readonly SurveyedLinear[], linears: readonly PlannedLinear[], unskippable: readonly string[]): string {
  const [first] = layers;
  const reasons: string[] = [];
  if (layers.some(({ bits }) => bits !== first!.bits)) reasons.push('it takes one number of bits for all layers');
  if (layers.some(({ bits, settings }) => bits === 4 && settings.storage !== 'u8')) reasons.push('it takes codes stored as uint8 alone');
  if (layers.some(({ site }) => site.tag === 'lm_head')) reasons.push('it takes no quantized lm_head');
  const eight = layers.filter(({ bits }) => bits === 8);
  if (eight.some(({ site }) => site.expert !== undefined)) reasons.push('it takes no 8-bit experts');
  if (eight.some(({ site: { path } }) => path !== path.toLowerCase()))
    reasons.push('it finds no 8-bit layers with capitals in their names');
  const partly = linears.filter(({ site, use }) => use === 'keep' && FUSED.test(site.path)).map(({ site }) => site.path);
  if (partly.length > 0 || unskippable.length > 0)
    reasons.push(`it cannot keep ${some([...partly, ...unskippable])} apart from what it fuses them with`);
  return reasons.length === 0
    ? 'vLLM with bitsandbytes 0.46.1 or later, in float16 or bfloat16 and without tensor parallelism.'
    : `Not vLLM: ${reasons.join('; ')}.`;
}

function survey(linears: readonly PlannedLinear[]): readonly SurveyedLinear[] {
  return linears.flatMap((linear): SurveyedLinear[] => {
    if (linear.use === 'keep') return [];
    const { site, use, format } = linear;
    const settings = bitsAndBytesSettings(use);
    if (isInt8(format)) return [{ site, bits: 8, type: 'fp4', nested: false, group: site.shape[1], threshold: format.threshold, settings }];
    if (!isFourBit(format)) return [];
    const nested = typeof format.scale !== 'string';
    return [{ site, bits: 4, type: format.table, nested, group: format.group, threshold: settings.threshold, settings }];
  });
}

function skips(linears: readonly PlannedLinear[], { skipModules }: BitsAndBytesSettings): SkipList {
  const wanted = skipModules ?? null;
  return skipList(linears, { wanted, readers: ['transformers 4', 'transformers 5', 'vLLM'], field: 'llm_int8_skip_modules' });
}
