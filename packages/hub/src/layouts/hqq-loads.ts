// Which programs load what the hqq layouts write, a sentence each, for the end of `quantize`.

import type { PlannedLinear } from '@lowbit/core';
import { type Survey, survey } from './hqq-survey.ts';
import { FUSED, hasImageTower, LOWBIT, some, splitExperts } from './loads.ts';

/** Readers of the layout `hqq`. */
export function hqqLoadsIn(linears: readonly PlannedLinear[]): readonly string[] {
  const facts = survey(linears);
  const sentences = [
    LOWBIT,
    hasImageTower(linears)
      ? 'Models with images were not tried in Python: transformers 4.48 to 4.57 reads hqq, but has names of its own for the layers of the image tower.'
      : 'Python: transformers 4.48 to 4.57 with hqq 0.2.1 or later. transformers 4.57 computes these layers in float32, so load with dtype=torch.float32; 4.51 needs a GPU.',
    'Not transformers 5: it loads such a folder without an error, but as randomly initialised layers.',
    vllm(facts),
    ...splitExperts(linears),
  ];
  if (facts.clashing.length > 0) {
    sentences.push(
      `config.json holds one setting per layer name, and ${some(facts.clashing)} differ from it; lowbit and transformers go by the stored layers, which are right.`,
    );
  }
  if (facts.unskippable.length > 0) {
    sentences.push(
      `skip_modules cannot name ${some(facts.unskippable)} without skipping a quantized layer: transformers will not load this mix. Keep or quantize them together.`,
    );
  }
  return sentences;
}

/** Readers of the layout `hqq-safetensors`: the Python library writes it, but nothing there reads it as it is. */
export function hqqSafetensorsLoadsIn(linears: readonly PlannedLinear[]): readonly string[] {
  const reasons = vllmReasons(survey(linears));
  return [
    LOWBIT,
    ...splitExperts(linears),
    'Not transformers or vLLM as it is: they need the quantization_config that the layout hqq writes. Without it transformers 4.57 and 5 load the folder without an error, but as randomly initialised layers.',
    `With that block in config.json: transformers 4.57 with hqq 0.2.1 or later${reasons.length === 0 ? ', and vLLM up to 0.14' : ''}.`,
  ];
}

/** Readers of the layout `hqq-nested`. */
export function nestedHqqLoadsIn(): readonly string[] {
  return [
    'lowbit only, on every backend: no other program reads this layout.',
    'Not transformers: 4.57 refuses the folder, 5 loads it without an error, but as randomly initialised layers. For Python, write the layout hqq, which takes plain scales and zeros.',
  ];
}

function vllm(facts: Survey): string {
  const reasons = vllmReasons(facts);
  return reasons.length === 0
    ? 'vLLM up to 0.14, on GPUs of compute capability 8.0 or later (later releases dropped hqq).'
    : `Not vLLM: ${reasons.join('; ')}.`;
}

/** vLLM's kernel takes 4-bit weights in tiles of so many inputs and outputs, and one group is so many inputs. */
const VLLM_TILE = 64;

/** Why vLLM (hqq_marlin.py of 0.6.4 to 0.14) does not load it; empty if it does. */
function vllmReasons({ uniform, quantized, kept, skip }: Survey): string[] {
  const reasons: string[] = [];
  const settings = uniform?.settings;
  if (settings === undefined) reasons.push('it takes one setting for all layers');
  else if (settings.nbits !== 4 || settings.group_size !== VLLM_TILE || settings.axis !== 1 || !settings.channel_wise)
    reasons.push('it takes 4 bits in groups of 64 along axis 1 alone');
  if (quantized.some(({ settings: { view_as_float } }) => view_as_float)) reasons.push('it takes no float views');
  const odd = quantized.filter(({ site: { shape } }) => shape.some((extent) => extent % VLLM_TILE !== 0));
  if (odd.length > 0) reasons.push(`it takes widths that are multiples of 64, unlike ${some(odd.map(({ site }) => site.path))}`);
  if (quantized.some(({ site }) => site.tag === 'lm_head')) reasons.push('it takes no quantized lm_head');
  if (quantized.some(({ site }) => site.expert !== undefined)) reasons.push('it takes no quantized experts');
  if (kept.some(({ path }) => FUSED.test(path) || !path.split('.').some((component) => skip.includes(component)))) {
    reasons.push(
      'it skips layers by single components of their names, projections that it fuses not at all, and here some are kept in other ways',
    );
  }
  return reasons;
}
