// Mixtures of experts: the names under which published files and those of transformers 5 keep a layer's experts.
//
//   one by one   `${module}.experts.3.gate_proj.weight` [width, hidden] and so on; Mixtral says w1, w3, w2
//   fused        `${module}.experts.gate_up_proj` [experts, 2 width, hidden], `${module}.experts.down_proj` [experts, hidden, width]
//   fused rows   as fused, but each expert by itself: `${module}.experts.3.gate_up_proj`, which is what fused ones become when they are quantized

import type { Activation, Entries, JsonObject } from '@lowbit/core';
import { badConfig, readBoolean, readInteger } from '../config.ts';
import type { ExpertsMlp, GatedMlp, LinearSpec } from '../decoder/spec.ts';
import { COUNT, kept, linear } from './common.ts';

/** Modules of a layer's experts, by the names of a family. */
export interface ExpertNames {
  /** The module that holds router and experts: `model.layers.0.mlp`. */
  readonly module: string;
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

export interface ExpertNumbers {
  readonly experts: number;
  readonly topK: number;
  readonly hidden: number;
  readonly width: number;
  readonly activation: Activation;
  readonly normalize: boolean;
}

/** Linears of experts in all layers together that a config may ask for: far above published models. */
const MOST_LINEARS = 2 ** 18;

/** num_experts_per_tok of the experts that one of `keys` counts, and whether their weights are to add up to 1. */
export function readExperts(
  config: JsonObject,
  {
    keys,
    topK: fallback,
    layers,
    normalize,
  }: { readonly keys: readonly string[]; readonly topK: number; readonly layers: number; readonly normalize?: true },
): Pick<ExpertNumbers, 'experts' | 'topK' | 'normalize'> {
  const key = keys.find((name) => Object.hasOwn(config, name)) ?? keys[0]!;
  const experts = readInteger(config, key, COUNT);
  if (3 * experts * layers > MOST_LINEARS)
    throw badConfig(key, experts, `at most ${Math.floor(MOST_LINEARS / 3 / layers)} experts for ${layers} layers`);
  const topK = readInteger(config, 'num_experts_per_tok', { min: 1, max: experts }, Math.min(fallback, experts));
  return { experts, topK, normalize: normalize ?? readBoolean(config, 'norm_topk_prob', false) };
}

/** The experts of a layer under the names that the checkpoint has them. `names` are those of published files, one by one. */
export function expertsMlp(entries: Entries, names: ExpertNames, fusedModule: string, numbers: ExpertNumbers): ExpertsMlp {
  const { experts, topK, normalize, hidden, width, activation } = numbers;
  const fused = hasFused(entries, fusedModule);
  const module = fused ? fusedModule : names.module;
  const expert = (index: number): GatedMlp => {
    const of = (name: string, out: number, inp: number): LinearSpec => ({
      ...linear(`${module}.experts.${index}.${name}`, out, inp),
      ...(fused && entries.has(`${module}.experts.${name}`) && { stacked: { tensor: `${module}.experts.${name}`, row: index * out } }),
      expert: index,
    });
    if (fused)
      return { kind: 'gated-fused', gateUp: of('gate_up_proj', 2 * width, hidden), down: of('down_proj', hidden, width), activation };
    const [gate, up, down] = [of(names.gate, width, hidden), of(names.up, width, hidden), of(names.down, hidden, width)];
    return { kind: 'gated', gate, up, down, activation };
  };
  return {
    kind: 'experts',
    router: kept(linear(`${module}.gate`, experts, hidden)),
    topK,
    normalize,
    experts: Array.from({ length: experts }, (_, index) => expert(index)),
  };
}

function hasFused(entries: Entries, module: string): boolean {
  const name = `${module}.experts`;
  return [`${name}.gate_up_proj`, `${name}.0.gate_up_proj.weight`].some((tensor) => entries.has(tensor));
}
