// Rotary scaling: rope_scaling of config.json from metadata and from the factors that converters store as tensors.

import type { Json, JsonObject } from '@lowbit/core';
import { unsupportedGguf } from './bad.ts';
import type { GgufMetadata } from './metadata.ts';

/** Numbers of the tensors rope_freqs, rope_factors_long and rope_factors_short, where there are such. */
export interface RopeFactors {
  readonly freqs?: readonly number[] | undefined;
  readonly long?: readonly number[] | undefined;
  readonly short?: readonly number[] | undefined;
}

interface Rotation {
  readonly theta: number;
  readonly headDim: number;
  readonly positions: number;
}

/** Throws ERR_UNSUPPORTED_ARCH for a kind that is not known here. */
export function ropeScaling(meta: GgufMetadata, rotation: Rotation, { freqs, long, short }: RopeFactors): Json {
  const type = meta.text('rope.scaling.type');
  // Early files have the factor alone.
  const factor = meta.number('rope.scaling.factor') ?? meta.number('rope.scale_linear');
  const original = meta.whole('rope.scaling.original_context_length', 1);
  if (long !== undefined && short !== undefined) {
    const attention = meta.number('rope.scaling.attn_factor');
    return {
      rope_type: 'longrope',
      long_factor: long,
      short_factor: short,
      ...(attention === undefined ? {} : { attention_factor: attention }),
    };
  }
  if (freqs !== undefined) return llama3(meta, rotation, freqs, original);
  if (type === undefined || type === 'none' || type === 'linear') {
    return factor === undefined || factor === 1 || type === 'none' ? null : { rope_type: 'linear', factor };
  }
  if (type === 'yarn' && factor !== undefined && !meta.has('rope.scaling.yarn_log_multiplier') && !meta.has('rope.scaling.attn_factor')) {
    const fast = meta.number('rope.scaling.yarn_beta_fast');
    const slow = meta.number('rope.scaling.yarn_beta_slow');
    return {
      rope_type: 'yarn',
      factor,
      ...(original === undefined ? {} : { original_max_position_embeddings: original }),
      ...(fast === undefined ? {} : { beta_fast: fast }),
      ...(slow === undefined ? {} : { beta_slow: slow }),
    };
  }
  throw unsupportedGguf(
    meta.file,
    meta.architecture,
    `has rotary scaling ${JSON.stringify(type)} of a kind not known here`,
    'Start from the safetensors version of the model.',
  );
}

/**
 * The numbers of Llama 3 that give these factors, as convert_hf_to_gguf.py (llama.cpp) makes them: low and high are 1 and 4 in all published models, the factor is
 * that of the slowest frequency, and any frequency in between tells the original length.
 */
function llama3(meta: GgufMetadata, { theta, headDim }: Rotation, freqs: readonly number[], said: number | undefined): JsonObject {
  const [low, high] = [1, 4];
  const factor = Math.max(...freqs);
  const angles = freqs.map((_, i) => theta ** ((-2 * i) / headDim));
  const blended = (i: number): number => (1 / freqs[i]! - 1 / factor) / (1 - 1 / factor);
  const between = freqs.findIndex((value, i) => value > 1 && value < factor && blended(i) > 0.01 && blended(i) < 0.99);
  const original = said ?? (between < 0 ? 8192 : Math.round(((blended(between) * (high - low) + low) * 2 * Math.PI) / angles[between]!));
  const made = angles.map((angle) => {
    const kept = Math.min(1, Math.max(0, ((original * angle) / (2 * Math.PI) - low) / (high - low)));
    return 1 / ((1 - kept) / factor + kept);
  });
  if (freqs.length !== headDim / 2 || !made.every((value, i) => Math.abs(value - freqs[i]!) <= 1e-4 * value)) {
    throw unsupportedGguf(
      meta.file,
      meta.architecture,
      'has factors of rotary frequencies that are not those of Llama 3',
      'Start from the safetensors version of the model.',
    );
  }
  return { rope_type: 'llama3', factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original };
}
