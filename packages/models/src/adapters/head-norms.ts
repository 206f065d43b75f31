// RMS norms of queries and keys, as Qwen3, Gemma 3 (over each head) and OLMo 2 (over all heads together) have them.

import type { JsonObject } from '@lowbit/core';
import { readNumber } from '../config.ts';
import type { AttentionSpec, NormSpec } from '../decoder/spec.ts';
import { EPS, rmsNorm } from './common.ts';

/** For `mapAttention`: `self_attn.q_norm` and `k_norm`, after q and k. */
export function headNorms(
  config: JsonObject,
  {
    over = 'head',
    eps = 1e-6,
    weightOffset = 0,
  }: { readonly over?: 'head' | 'all'; readonly eps?: number; readonly weightOffset?: 0 | 1 } = {},
): (attention: AttentionSpec, layer: number) => Partial<AttentionSpec> {
  const epsilon = readNumber(config, 'rms_norm_eps', EPS, eps);
  return ({ heads, kvHeads, headDim }, layer) => {
    const norm = (name: string, count: number): NormSpec => ({
      ...rmsNorm(`model.layers.${layer}.self_attn.${name}`, over === 'all' ? count * headDim : headDim, epsilon),
      weightOffset,
    });
    return { qNorm: norm('q_norm', heads), kNorm: norm('k_norm', kvHeads) };
  };
}
