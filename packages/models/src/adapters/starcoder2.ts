// StarCoder2: Llama with layer norms, an MLP without a gate, biases everywhere, and a sliding window.

import type { Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { readBoolean, readNumber, readOptionalInteger } from '../config.ts';
import { decoderAdapter } from '../decoder/adapter.ts';
import type { DecoderSpec, NormSpec } from '../decoder/spec.ts';
import { EPS, layerNorm, linear, mapAttention, mapLayers, POSITIONS } from './common.ts';
import { llamaSpec } from './llama.ts';

/** What config.json of a StarCoder2 says, as a decoder. Throws as `llamaSpec`. */
function starcoder2Spec(config: JsonObject, entries: Entries): DecoderSpec {
  const bias = readBoolean(config, 'use_bias', true);
  const eps = readNumber(config, 'norm_epsilon', EPS, 1e-5);
  const window = readOptionalInteger(config, 'sliding_window', POSITIONS);
  const spec = llamaSpec(config, entries, {
    positions: 4096,
    activation: 'gelu_pytorch_tanh',
    tied: true,
    biases: { qkv: bias, o: bias, mlp: bias },
  });
  const { hidden } = spec;
  const norm = ({ path }: NormSpec): NormSpec => layerNorm(path, hidden, eps);
  const sliding = mapAttention(spec, () => (window === undefined ? {} : { window }));
  const plain = mapLayers(sliding, ({ residual, attention, mlp }, index) => {
    const { module } = mlp;
    if (module.kind !== 'gated') return { residual, attention, mlp };
    const at = `model.layers.${index}.mlp`;
    const width = module.down.shape[1];
    return {
      residual,
      attention: { ...attention, input: norm(attention.input!) },
      mlp: {
        input: norm(mlp.input!),
        module: {
          kind: 'plain',
          up: linear(`${at}.c_fc`, width, hidden, { bias }),
          down: linear(`${at}.c_proj`, hidden, width, { bias }),
          activation: module.activation,
        },
      },
    };
  });
  return { ...plain, norm: norm(spec.norm!) };
}

/** StarCoder2: `model_type` "starcoder2". */
export const starcoder2: ModelAdapter = decoderAdapter({ modelTypes: ['starcoder2'], spec: starcoder2Spec });
