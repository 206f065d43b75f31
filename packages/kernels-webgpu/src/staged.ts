// Products of one row whose x every workgroup makes for itself (wgsl/staged-product.ts): which weights take part, beside which, and their launches.

import {
  chunks,
  DOMAIN,
  type HeldWeight,
  type Launch,
  type ProductParts,
  rowsOf,
  type TensorRef,
  type Value,
  weightValues,
} from './launches.ts';
import type { WeightLayout } from './layout.ts';
import { STAGED, type Stage, stagedKernel } from './wgsl/staged-product.ts';
import { kindOf } from './wgsl/weight.ts';

/** What x becomes for a weight; undefined where the weight takes it as it is, or where x is made by a launch of its own. */
export function stageOf({ kind, run, threshold }: WeightLayout): Stage | undefined {
  if (kind === 'int8') return { kind: 'int8', outliers: threshold > 0 };
  return run !== undefined && run >= 4 && run <= STAGED.piece ? { kind: 'rotate', run } : undefined;
}

/** Weights of one x with equal keys take it in the same form, so one launch may multiply by all of them. */
export function formOf({ kind, run, inp, threshold }: WeightLayout): string {
  if (kind === 'int8') return `int8 ${threshold}`;
  return run === undefined ? 'plain' : `rotated ${run} ${inp}`;
}

/** Rows of a routed product that takes x like this: of tokens (each for `top_k` rows) or routed. */
export interface StagedExperts {
  readonly ids: TensorRef;
  readonly slots: number;
  readonly stride: number;
  readonly top_k: number;
}

/**
 * For steps of up to `most` rows (routed ones, where rows choose experts), each multiplied by itself. Weights are of one form and of one piece, whose rows come
 * out from `at` on.
 */
export function stagedLaunch(
  { x, weights, outs, norm, gate, add }: ProductParts,
  { most, at = 0, experts }: { readonly most: number; readonly at?: number; readonly experts?: StagedExperts },
): Launch {
  const { layout } = weights[0]!;
  const { inp, features, threshold } = layout;
  const domain = experts ? DOMAIN.routed : x.domain;
  const values: Record<string, Value> = { x: x.ref, inp, features, chunks: chunks(inp), threshold, ...norm?.values, ...add, ...experts };
  for (const [i, weight] of weights.entries()) Object.assign(values, weightValues(i, weight, weight.pieces[0]!.piece));
  for (const [i, { ref, width }] of outs.entries())
    Object.assign(values, { [`out${i}`]: ref, [`out${i}_width`]: width, [`out${i}_at`]: at });
  const groups = weights.map(({ pieces: [held] }) => Math.ceil((held!.piece.to - held!.piece.from) / STAGED.rows));
  const kinds = weights.map((weight) => kindOf(weight.layout, weight));
  const end = gate ? { gate } : add ? 'add' : 'store';
  return {
    kernel: stagedKernel({ stage: stageOf(layout)!, weights: kinds, norm: norm?.fused, end, experts: experts !== undefined }),
    values,
    weights: weights.map(({ pieces }) => pieces[0]!.place),
    x: gate ? groups[0]! : groups.reduce((a, b) => a + b),
    y: rowsOf(domain),
    where: { domain, least: 1, most },
  };
}

/** A product of one row by itself, whatever pieces the weight is in. */
export function stagedPieces(weight: HeldWeight, x: ProductParts['x'], out: ProductParts['outs'][number]): readonly Launch[] {
  return weight.pieces.map((held) =>
    stagedLaunch({ x, weights: [{ ...weight, pieces: [held] }], outs: [out] }, { most: 1, at: held.piece.from }),
  );
}

/** The same launches, of steps with at least so many rows in a domain. */
export function fromRows(domain: number, least: number, launches: readonly Launch[]): readonly Launch[] {
  return launches.map((launch) => ({ ...launch, where: { ...launch.where, domain, least: Math.max(least, launch.where?.least ?? 0) } }));
}
