// Mixtral: Mistral with experts in place of the MLP.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readOptionalInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec } from '../decoder/spec.ts';
import { mapAttention, mapLayers, POSITIONS } from './common.ts';
import { expertsMlp, readExperts } from './experts.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of a Mixtral says, as a decoder. Throws as `llamaSpec`. */
function mixtralSpec(config: JsonObject, entries: Entries): DecoderSpec {
  const spec = llamaSpec(config, entries, {
    positions: 2 ** 17,
    eps: 1e-5,
    theta: 1e6,
    biases: { qkv: false, o: false, mlp: false },
  });
  const window = readOptionalInteger(config, 'sliding_window', POSITIONS);
  const chosen = readExperts(config, { keys: ['num_local_experts', 'num_experts'], topK: 2, layers: spec.layers.length, normalize: true });
  const sliding = mapAttention(spec, () => (window === undefined ? {} : { window }));
  return mapLayers(sliding, (layer, index) => {
    const { module } = layer.mlp;
    if (module.kind !== 'gated') return layer;
    const at = `model.layers.${index}`;
    const names = { module: `${at}.block_sparse_moe`, gate: 'w1', up: 'w3', down: 'w2' };
    const numbers = { ...chosen, hidden: spec.hidden, width: module.down.shape[1], activation: module.activation };
    return { ...layer, mlp: { ...layer.mlp, module: expertsMlp(entries, names, `${at}.mlp`, numbers) } };
  });
}

/** Mixtral: `model_type` "mixtral". */
export const mixtral: ModelAdapter = decoderAdapter({ modelTypes: ['mixtral'], spec: mixtralSpec });
