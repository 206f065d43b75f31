// Mixtral: experts in place of the MLP. Qwen2-MoE: weights not normalised, and a shared expert behind a gate of one element.

import type { Program } from '@lowbit/core';
import { type LlamaLikeConfig, llamaLike } from './llama-like.ts';
import type { Tensors } from './parts.ts';

export interface MixtralConfig extends LlamaLikeConfig {
  readonly num_local_experts: number;
  readonly num_experts_per_tok: number;
}

export interface Qwen2MoeConfig extends LlamaLikeConfig {
  readonly num_experts: number;
  readonly num_experts_per_tok: number;
  readonly norm_topk_prob: boolean;
}

const paths = (module: string, count: number, names: readonly string[]): string[][] =>
  names.map((name) => Array.from({ length: count }, (_, i) => `${module}.experts.${i}.${name}`));

export function mixtral(config: MixtralConfig, tensors: Tensors): Program {
  return llamaLike(config, tensors, {
    feedForward(p, x, path) {
      const module = `${path}.block_sparse_moe`;
      return p.experts(x, `${module}.gate`, {
        topK: config.num_experts_per_tok,
        normalize: true,
        paths: paths(module, config.num_local_experts, ['w1', 'w3', 'w2']),
      });
    },
  });
}

export function qwen2Moe(config: Qwen2MoeConfig, tensors: Tensors): Program {
  return llamaLike(config, tensors, {
    feedForward(p, x, path) {
      const module = `${path}.mlp`;
      const chosen = p.experts(x, `${module}.gate`, {
        topK: config.num_experts_per_tok,
        normalize: config.norm_topk_prob,
        paths: paths(module, config.num_experts, ['gate_proj', 'up_proj', 'down_proj']),
      });
      const shared = p.gatedMlp(x, `${module}.shared_expert`, 'silu');
      return p.b.add(chosen, p.b.gate(p.linear(x, `${module}.shared_expert_gate`), shared, 'sigmoid'));
    },
  });
}
