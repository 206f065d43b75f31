// A decoder-only transformer as plain data. Every module is named once, here, with its path in the checkpoint and its size: the list of linear
// layers, the check of the checkpoint's tensors and the program are all derived from it. An adapter turns config.json into one of these.
//
// Layers are listed one by one, so a model whose layers differ (sliding and full attention, dense and expert MLPs) is a list with two kinds of
// members. New families add members to the unions below and a branch in build.ts; nothing else changes.

import type { Activation, Matrix, Rope } from '@lowbit/core';

/** A linear layer; its tensors are `${path}.weight` [out, in] and, with `bias`, `${path}.bias` [out]. */
export interface LinearSpec {
  readonly path: string;
  readonly shape: Matrix;
  readonly bias: boolean;
}

/** A normalisation; its tensor is `${path}.weight` [hidden]. */
export interface NormSpec {
  readonly path: string;
  readonly kind: 'rms';
  readonly eps: number;
}

/** Grouped-query attention with rotary positions. `rope` is an index into `DecoderSpec.ropes`; the first `rotated` elements of a head turn. */
export interface AttentionSpec {
  readonly q: LinearSpec;
  readonly k: LinearSpec;
  readonly v: LinearSpec;
  readonly o: LinearSpec;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Factor of q.k before the softmax. */
  readonly scale: number;
  readonly rope: number;
  readonly rotated: number;
}

/** down(act(gate(x)) * up(x)). */
export interface GatedMlp {
  readonly kind: 'gated';
  readonly gate: LinearSpec;
  readonly up: LinearSpec;
  readonly down: LinearSpec;
  readonly activation: Activation;
}

/** x += attention(attentionNorm(x)); x += mlp(mlpNorm(x)). */
export interface DecoderLayer {
  readonly attentionNorm: NormSpec;
  readonly attention: AttentionSpec;
  readonly mlpNorm: NormSpec;
  readonly mlp: GatedMlp;
}

export interface DecoderSpec {
  readonly vocab: number;
  readonly hidden: number;
  /** Most positions of a sequence that the model was made for. */
  readonly contextLength: number;
  /** Table [vocab, hidden]. */
  readonly embedding: { readonly path: string };
  readonly ropes: readonly Rope[];
  readonly layers: readonly DecoderLayer[];
  readonly norm: NormSpec;
  /** Absent where the output head is the embedding table (tied). */
  readonly head?: LinearSpec;
}
