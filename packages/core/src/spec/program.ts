// A program is one step of a model as data: a flat list of operations over row tensors, compiled once by a backend and run once per step.
//
// What a step is. A step takes several sequences, each with its own new tokens; the tokens of all sequences, one after another, are the rows.
// Prefill, chunked prefill, decode and batched decode are the same call. Keys and values of earlier tokens are in the executable's caches, per sequence.
//
// Rows. Every tensor is [rows, width] f32 (ids: i32), where the number of rows is known only at run time and named by its domain:
//   tokens   one row per new token of the step
//   outputs  the rows whose results are wanted (`select`)
//   routed   topK rows per token, token-major (mixture of experts)
//   encoder  one row per encoder position handed in with this step (encoder-decoder); zero rows in later steps
//
// Positions. A token's is its place in the sequence; an encoder row's is its place among those of its sequence. A wanted row keeps its token's.
// Rules. A tensor is made by one operation, before it is read. Every cache is filled by exactly one `attend` or `remember`. All routers of a program
// have the same topK. Each operation rounds its result to f32 once; how it sums is the backend's.
//
// Everything here survives structuredClone. It says nothing about memory, fusion or order beyond data flow: those are the backend's.

import type { HostTensor } from './tensor.ts';

/** What rows stand for. */
export type RowDomain = 'tokens' | 'outputs' | 'routed' | 'encoder';

/** Index into `Program.tensors`. */
export type TensorId = number;
/** Index into `Program.constants`. */
export type ConstantId = number;
/** Index into `Program.linears`. */
export type LinearId = number;

/** Rows of numbers in a program. */
export interface ProgramTensor {
  readonly rows: RowDomain;
  readonly width: number;
  readonly dtype: 'f32' | 'i32';
}

/** A weight the program uses: as a linear, as an embedding table (rows looked up), or both when tied. */
export interface LinearUse {
  /** Module path; its `LinearSite` says where the weight is. */
  readonly path: string;
  readonly shape: readonly [out: number, inp: number];
  readonly use: 'linear' | 'embedding' | 'both';
  /** Index of the layer it belongs to; -1 before the first, `layers` after the last. */
  readonly layer: number;
  /** f32 [out], handed to `prepare` with the weight: the linear adds it. */
  readonly bias?: ConstantId;
}

/** Rotary frequencies. Angle of dimension pair i at position p: p * frequency_i; cos and sin are multiplied by `scale`. */
export type Rope =
  | { readonly kind: 'fixed'; readonly frequencies: readonly number[]; readonly scale: number }
  /**
   * Dynamic NTK: beyond `original` positions the base is base * (factor * length / original - factor + 1)^(dim / (dim - 2)) for the length of the
   * sequence at this step; frequency_i = base^(-2i / dim). Rotated keys stay as they are.
   */
  | { readonly kind: 'dynamic'; readonly base: number; readonly dim: number; readonly factor: number; readonly original: number }
  /** LongRoPE: `short` while the length of the sequence at this step is at most `original`, else `long`. */
  | {
      readonly kind: 'long';
      readonly short: readonly number[];
      readonly long: readonly number[];
      readonly original: number;
      readonly scale: number;
    };

/** Keys and values of one attention layer, per sequence. `encoder` caches hold encoder positions and are filled once. */
export interface CacheUse {
  readonly rows: 'tokens' | 'encoder';
  readonly heads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly layer: number;
}

/** Functions of one number. */
export type Activation = 'silu' | 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'relu' | 'relu2' | 'sigmoid' | 'tanh' | 'identity';

interface Node {
  /** Index of the layer it belongs to; -1 before the first, `layers` after the last. Operations are in layer order, so a program can be cut. */
  readonly layer: number;
  readonly out: TensorId;
}

/** Looks up the step's token ids. out tokens [hidden]. `scale` multiplies. */
export interface Embed extends Node {
  readonly op: 'embed';
  readonly table: LinearId;
  readonly scale: number;
}
/** Rows handed in by the caller under `name` (patches of an image; the residual stream of a cut program). Not of the routed domain. */
export interface Input extends Node {
  readonly op: 'input';
  readonly name: string;
}
/** Copies x (tokens), then replaces the rows that the step names (image features in place of placeholder tokens). */
export interface Inject extends Node {
  readonly op: 'inject';
  readonly x: TensorId;
  readonly name: string;
}
/** x + table[position + offset]: learned absolute positions. */
export interface PositionEmbed extends Node {
  readonly op: 'positionEmbed';
  readonly x: TensorId;
  readonly table: ConstantId;
  readonly offset: number;
}
/**
 * Normalises each of `groups` equal parts of a row. rms: x / sqrt(mean(x^2) + eps); layer: (x - mean) / sqrt(var + eps).
 * Then * (weight + weightOffset) + bias; weight and bias have the width of one part (`groups` of them share it) or of the row.
 */
export interface Norm extends Node {
  readonly op: 'norm';
  readonly x: TensorId;
  readonly kind: 'rms' | 'layer';
  readonly eps: number;
  readonly groups: number;
  readonly weight?: ConstantId;
  readonly weightOffset: 0 | 1;
  readonly bias?: ConstantId;
}
/** x W^T + bias. */
export interface Linear extends Node {
  readonly op: 'linear';
  readonly x: TensorId;
  readonly weight: LinearId;
}
/** Rotates the first `dim` elements of each of `heads` parts. half: pairs (i, i + dim/2); interleaved: pairs (2i, 2i + 1). */
export interface RopeOp extends Node {
  readonly op: 'rope';
  readonly x: TensorId;
  readonly heads: number;
  readonly dim: number;
  readonly style: 'half' | 'interleaved';
  readonly rope: number;
}
/**
 * Attention with cache: appends k and v (rows of the cache's domain) to the cache, then every row of q attends over its own sequence.
 * score = softcap(scale * q.k) + bias; causal: keys at positions <= the query's; `window` w: only keys with query position - key position < w.
 * Without `cache` keys and values are those of this step alone (encoders; q, k and v are all of tokens or all of encoder rows). Without k and v the cache is
 * read only (cross attention after `remember`, never causal); it holds what earlier operations of this step appended. With a cache q may be the
 * wanted rows alone. A row that sees no key gives zeros. `window` looks back only: without `causal`, later keys are seen whatever their distance.
 * heads are grouped: query head h uses key head floor(h * kvHeads / heads).
 */
export interface Attend extends Node {
  readonly op: 'attend';
  readonly q: TensorId;
  readonly k?: TensorId;
  readonly v?: TensorId;
  readonly cache?: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly scale: number;
  readonly causal: boolean;
  readonly window?: number;
  readonly softcap?: number;
  readonly bias?: PositionBias;
}
/** Added to attention scores. */
export type PositionBias =
  /** ALiBi: slopes[h] * (key position - query position). */
  | { readonly kind: 'alibi'; readonly slopes: readonly number[] }
  /**
   * T5: table [buckets, heads] looked up by the bucket of (key position - query position). Of the n buckets of a side (half of them if
   * bidirectional, keys after the query in the upper half) the first n/2 are exact distances d, the others n/2 + log(d / (n/2)) / log(maxDistance / (n/2)) * n/2
   * rounded down, at most n - 1; distances to the unused side count as 0.
   */
  | {
      readonly kind: 'relative';
      readonly table: ConstantId;
      readonly buckets: number;
      readonly maxDistance: number;
      readonly bidirectional: boolean;
    };
/** Appends k and v of encoder rows to an encoder cache. No output tensor of its own: `out` names k for data flow. */
export interface Remember extends Node {
  readonly op: 'remember';
  readonly k: TensorId;
  readonly v: TensorId;
  readonly cache: number;
}
export interface Activate extends Node {
  readonly op: 'activate';
  readonly x: TensorId;
  readonly kind: Activation;
}
/** act(gate) * x; a gate of width 1 is broadcast. */
export interface Gate extends Node {
  readonly op: 'gate';
  readonly gate: TensorId;
  readonly x: TensorId;
  readonly kind: Activation;
}
/** a + factor * b. */
export interface Add extends Node {
  readonly op: 'add';
  readonly a: TensorId;
  readonly b: TensorId;
  readonly factor: number;
}
export interface Scale extends Node {
  readonly op: 'scale';
  readonly x: TensorId;
  readonly factor: number;
}
/** cap * tanh(x / cap). */
export interface Softcap extends Node {
  readonly op: 'softcap';
  readonly x: TensorId;
  readonly cap: number;
}
/** From each of `groups` equal parts of a row takes `width` elements at `offset` and concatenates them: unfuses q, k, v and gate, up. */
export interface Slice extends Node {
  readonly op: 'slice';
  readonly x: TensorId;
  readonly groups: number;
  readonly offset: number;
  readonly width: number;
}
/** The rows whose results are wanted: tokens -> outputs. */
export interface Select extends Node {
  readonly op: 'select';
  readonly x: TensorId;
}
/**
 * Router: the topK experts with the largest x (ties: lower index first), best first, and their probabilities times `scale`: softmax over all experts,
 * or sigmoid each.
 * `normalize` divides by the sum of the chosen. out: expert ids, i32 tokens [topK]; weights: f32 tokens [topK].
 */
export interface Route extends Node {
  readonly op: 'route';
  readonly x: TensorId;
  readonly weights: TensorId;
  readonly topK: number;
  readonly scoring: 'softmax' | 'sigmoid';
  readonly normalize: boolean;
  readonly scale: number;
}
/** Row t*topK + j of the result is linears[ids[t][j]] applied to row t of x (tokens) or row t*topK + j (routed). */
export interface ExpertLinear extends Node {
  readonly op: 'expertLinear';
  readonly x: TensorId;
  readonly ids: TensorId;
  readonly linears: readonly LinearId[];
}
/** Sum over j of weights[t][j] * x[t*topK + j]: routed -> tokens. */
export interface Combine extends Node {
  readonly op: 'combine';
  readonly x: TensorId;
  readonly weights: TensorId;
}

/** An operation. */
export type Op =
  | Embed
  | Input
  | Inject
  | PositionEmbed
  | Norm
  | Linear
  | RopeOp
  | Attend
  | Remember
  | Activate
  | Gate
  | Add
  | Scale
  | Softcap
  | Slice
  | Select
  | Route
  | ExpertLinear
  | Combine;
/** Names of operations. */
export type OpName = Op['op'];
/** One kind of operation: `OpOf<'attend'>`. */
export type OpOf<N extends OpName> = Extract<Op, { readonly op: N }>;

/** One step of a model, as data. */
export interface Program {
  readonly spec: 1;
  readonly layers: number;
  readonly tensors: readonly ProgramTensor[];
  readonly constants: readonly HostTensor[];
  readonly linears: readonly LinearUse[];
  readonly ropes: readonly Rope[];
  readonly caches: readonly CacheUse[];
  readonly ops: readonly Op[];
  /** Tensors the caller receives after a step, by name (`logits`, `hidden.0`, ...). */
  readonly outputs: Readonly<Record<string, TensorId>>;
}
