// A decoder-only transformer as plain data. Every module is named once, here, with its path in the checkpoint and its size: the list of linear
// layers, the check of the checkpoint's tensors and the program are all derived from it. An adapter turns config.json into one of these.
//
// Layers are listed one by one, so a model whose layers differ (sliding and full attention, dense and expert MLPs) is a list with two kinds of
// members. New families add members to the unions below and a branch in build.ts; nothing else changes.

import type { Activation, Matrix, Rope, StackedRows } from '@lowbit/core';

/** A linear layer; its tensors are `${path}.weight` [out, in] and, with `bias`, `${path}.bias` [out]. */
export interface LinearSpec {
  readonly path: string;
  /** [out, in]. */
  readonly shape: Matrix;
  readonly bias: boolean;
  /** The file has the weight as [in, out]: GPT-2's Conv1D. */
  readonly transposed?: true;
  /** The file has the weight as rows of a larger tensor: experts that are stored as one. */
  readonly stacked?: StackedRows;
  /** Which expert of its layer it belongs to. */
  readonly expert?: number;
  /** Stays in floating point unless a rule names it: heads and routers. */
  readonly keep?: true;
}

/**
 * A normalisation; its tensors are `${path}.weight` [width] and, with `bias`, `${path}.bias` [width]. A row of several times `width` is normalised part by
 * part, as the heads of queries and keys are.
 */
export interface NormSpec {
  readonly path: string;
  readonly kind: 'rms' | 'layer';
  readonly width: number;
  readonly eps: number;
  readonly bias: boolean;
  /** Added to the weight; default 0. */
  readonly weightOffset?: 0 | 1;
}

/** What tells attention where a token is. `none`: nothing here; positions may have been added to the embeddings. */
export type PositionSpec =
  /** The first `rotated` elements of every head of queries and keys turn, halves of them in pairs. `rope` is an index into `DecoderSpec.ropes`. */
  | { readonly kind: 'rope'; readonly rope: number; readonly rotated: number }
  /** Slope of each head, times the distance. */
  | { readonly kind: 'alibi'; readonly slopes: readonly number[] }
  | { readonly kind: 'none' };

/** Queries, keys and values: from three linears, or from one whose rows are all q, all k, all v (`blocks`), or q, k, v of one head after another (`heads`). */
export type QkvSpec =
  | { readonly kind: 'separate'; readonly q: LinearSpec; readonly k: LinearSpec; readonly v: LinearSpec }
  | { readonly kind: 'fused'; readonly qkv: LinearSpec; readonly order: 'blocks' | 'heads' };

/** Grouped-query attention. */
export interface AttentionSpec {
  readonly qkv: QkvSpec;
  readonly o: LinearSpec;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Factor of q.k before the softmax. */
  readonly scale: number;
  readonly position: PositionSpec;
  /** Every row sees every row of its step, and nothing is cached: image towers. Absent: a row sees those before it. */
  readonly causal?: false;
  /** A query sees itself and the `window - 1` tokens before it. Absent: all. */
  readonly window?: number;
  /** Scores are cap * tanh(score / cap). */
  readonly softcap?: number;
  /** Of queries and of keys, before they turn: over each head, or over all together, as their width says. */
  readonly qNorm?: NormSpec;
  readonly kNorm?: NormSpec;
}

/** down(act(gate(x)) * up(x)); gate and up may be one linear, whose first half of rows is gate. */
export type GatedMlp =
  | {
      readonly kind: 'gated';
      readonly gate: LinearSpec;
      readonly up: LinearSpec;
      readonly down: LinearSpec;
      readonly activation: Activation;
    }
  | { readonly kind: 'gated-fused'; readonly gateUp: LinearSpec; readonly down: LinearSpec; readonly activation: Activation };

/** down(act(up(x))). */
export interface PlainMlp {
  readonly kind: 'plain';
  readonly up: LinearSpec;
  readonly down: LinearSpec;
  readonly activation: Activation;
}

/**
 * The weighted sum of the `topK` experts that a softmax over the router's outputs likes best; with `normalize` their weights add up to 1.
 * `shared` is added for every token, times the sigmoid of its gate [1, hidden] if there is one.
 */
export interface ExpertsMlp {
  readonly kind: 'experts';
  readonly router: LinearSpec;
  readonly topK: number;
  readonly normalize: boolean;
  /** All of one kind. */
  readonly experts: readonly GatedMlp[];
  readonly shared?: { readonly mlp: GatedMlp; readonly gate?: LinearSpec };
}

/** The feed-forward module of a layer. */
export type MlpSpec = GatedMlp | PlainMlp | ExpertsMlp;

/** x = sum(x + residualFactor * output(module(input(x)))), where a norm that is absent does nothing. */
export interface Sublayer<M> {
  readonly module: M;
  readonly input?: NormSpec;
  readonly output?: NormSpec;
  readonly sum?: NormSpec;
}

/**
 * Attention, then the MLP on what it made; or, `parallel`, both on the layer's input (with no `sum` norms):
 * x + residualFactor * attention(x) + residualFactor * mlp(x).
 */
export interface DecoderLayer {
  readonly residual: 'sequential' | 'parallel';
  /** Default 1. */
  readonly residualFactor?: number;
  readonly attention: Sublayer<AttentionSpec>;
  readonly mlp: Sublayer<MlpSpec>;
}

/** norm(project(table[id] * scale) + positions[position + offset]). */
export interface EmbeddingSpec {
  /** Its tensor is `${path}.weight` [vocab, width]. */
  readonly path: string;
  /** Default `hidden`. */
  readonly width?: number;
  /** Default 1. */
  readonly scale?: number;
  readonly project?: LinearSpec;
  /** Learned positions: `${path}.weight` [rows, hidden]. */
  readonly positions?: { readonly path: string; readonly rows: number; readonly offset: number };
  readonly norm?: NormSpec;
}

/** cap * tanh(factor * head(project(x)) / cap). */
export interface OutputSpec {
  readonly project?: LinearSpec;
  /** Absent where the head is the table of embeddings (tied). */
  readonly head?: LinearSpec;
  /** Default 1. */
  readonly factor?: number;
  readonly softcap?: number;
}

/** A decoder as data: every module, norm and position that it has. */
export interface DecoderSpec {
  readonly vocab: number;
  readonly hidden: number;
  /** Most positions of a sequence that the model was made for. */
  readonly contextLength: number;
  readonly embedding: EmbeddingSpec;
  readonly ropes: readonly Rope[];
  readonly layers: readonly DecoderLayer[];
  /** Before the output; absent in models that normalise after every sum. */
  readonly norm?: NormSpec;
  readonly output: OutputSpec;
  /** Tensors of published files that the model does not read, such as masks and frequencies stored by old versions. */
  readonly unread?: RegExp;
}
