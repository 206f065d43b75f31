// Which programs load what the `higgs` layout writes, a sentence each, for the end of `quantize` and `convert`.

import { fluteRows, type PlannedLinear } from '@lowbit/core';
import { MAX_HADAMARD } from '@lowbit/layouts';
import { type SurveyedHiggs, surveyHiggs } from './higgs-config.ts';
import { higgsSkips } from './higgs-settings.ts';
import { isTunable } from './higgs-templates.ts';
import { hasImageTower, some, splitExperts } from './loads.ts';

/** Group sizes that FLUTE 0.4.2 has kernels for. */
const GROUPS: ReadonlySet<number> = new Set([64, 128, 256]);
/** Multiprocessors of the smallest GPU that transformers' documentation lists, an RTX A6000. */
const FEWEST_SMS = 84;

/** Programs that load the result. */
export function higgsLoadsIn(linears: readonly PlannedLinear[]): readonly string[] {
  const layers = surveyHiggs(linears);
  const portable = layers.filter(({ packing }) => packing === 'portable');
  const sentences = ['lowbit, on every backend.', ...splitExperts(linears)];
  if (portable.length > 0) sentences.push(`${names(portable)}: in the portable form, which lowbit alone reads. ${whyPortable(portable)}`);
  const reasons = obstacles(linears, layers, portable);
  if (reasons.length > 0) sentences.push(...reasons.map((reason) => `Not transformers: ${reason}.`));
  else sentences.push(...transformers(layers));
  return sentences;
}

function names(layers: readonly SurveyedHiggs[]): string {
  return some(layers.map(({ site }) => site.path));
}

function whyPortable(portable: readonly SurveyedHiggs[]): string {
  const rules = new Map<number, number>();
  for (const { format, site } of portable) {
    const multiple = fluteRows(format.bits, 32);
    if (site.shape[0] % multiple !== 0) rules.set(format.bits, multiple);
  }
  if (rules.size === 0) return 'FLUTE could pack them (`lowbit convert --flute 32`).';
  const text = [...rules].map(([bits, multiple]) => `${multiple} with ${bits} bits`).join(', ');
  return `FLUTE needs out_features that are a multiple of ${text}.`;
}

/** Why transformers does not load the result; empty if it does. */
function obstacles(
  linears: readonly PlannedLinear[],
  layers: readonly SurveyedHiggs[],
  portable: readonly SurveyedHiggs[],
): readonly string[] {
  const [first] = layers;
  const reasons: string[] = [];
  const where = (of: (layer: SurveyedHiggs) => boolean): readonly SurveyedHiggs[] => layers.filter(of);
  if (where(({ format }) => format.bits !== first!.format.bits).length > 0) reasons.push('mixed bit widths do not load in transformers');
  if (
    where(
      ({ format: { dim, group, rotate } }) =>
        dim !== first!.format.dim || group !== first!.format.group || rotate.block !== first!.format.rotate.block,
    ).length > 0
  ) {
    reasons.push('it takes one p, group_size and hadamard_size for all layers');
  }
  if (hasImageTower(linears)) {
    reasons.push('modules_to_not_convert has the names of the files, and it calls the layers of the image tower by others');
  }
  if (portable.length > 0) reasons.push('it reads no portable form');
  if (layers.some(({ site }) => site.expert !== undefined))
    reasons.push('5 joins experts into one tensor and takes no quantized ones; 4 was not tried');
  const padded = where(({ columns, site }) => columns !== site.shape[1]);
  if (padded.length > 0) {
    reasons.push(`it loads no rows that were filled up: in_features of ${names(padded)} are no multiple of hadamard_size`);
  }
  if (where(({ format }) => !GROUPS.has(format.group)).length > 0) reasons.push('FLUTE has kernels for groups of 64, 128 and 256 alone');
  if (where(({ format }) => format.rotate.block > MAX_HADAMARD).length > 0)
    reasons.push(`it rotates at most ${MAX_HADAMARD} inputs together`);
  const { unskippable } = higgsSkips(linears, first!.settings);
  if (unskippable.length > 0) {
    reasons.push(
      `modules_to_not_convert cannot name ${some(unskippable)} without naming a quantized layer. Keep or quantize them together`,
    );
  }
  return reasons;
}

function transformers(layers: readonly SurveyedHiggs[]): readonly string[] {
  const sentences = [
    'Python: transformers 4.49 to 4.57 and 5, with flute-kernel and fast_hadamard_transform, on NVIDIA GPUs of the Ampere and Ada generations. Its kernels were not run here.',
  ];
  const { sms } = layers[0]!.settings;
  const small = layers.filter(({ format, site, columns }) => !isTunable(format.bits, [site.shape[0], columns], FEWEST_SMS));
  sentences.push(
    sms === 1
      ? 'transformers packs all layers anew for its GPU when it loads them, as num_sms is 1 here: no GPU has 1 multiprocessor.'
      : `GPUs with other than ${sms} multiprocessors pack all layers anew when they load them.`,
  );
  if (small.length > 0) {
    sentences.push(
      `${names(small)}: too small for FLUTE to find a kernel on a GPU of ${FEWEST_SMS} or more multiprocessors, where packing them anew fails.`,
    );
  }
  if (layers.some(({ format }) => format.scale === 'bf16')) {
    sentences.push(
      'bfloat16 loads with wrong weights there: transformers casts tables2 by value, which damages it (and saves it so; lowbit mends it). Use float16 for Python.',
    );
  }
  const biased = layers.filter(({ site }) => site.bias);
  if (biased.length > 0) sentences.push(`transformers forgets the biases of ${names(biased)}; lowbit adds them.`);
  return sentences;
}
