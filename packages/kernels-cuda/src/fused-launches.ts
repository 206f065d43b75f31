// Launches of what runs together where a step has few rows: kernels of native/kernels/fused.cuh and `attend_few`.

import type { Argument, Launch } from './binding.ts';
import { blocks, FEW_ROWS, float, int, planeOrder } from './launches.ts';
import type { WeightLayout } from './layout.ts';

/** Parts of the keys that have blocks of their own, as native/kernels/attention.cuh. */
export const ATTEND_PARTS = 16;
/** Rows of weights to a block: fewer where there would be too few blocks for a large GPU, and more have less to do twice. */
const FEWEST = 16;
const MOST = 64;
const ENOUGH_BLOCKS = 264;

/** Where a weight is, and how. */
export interface PlacedWeight {
  readonly layout: WeightLayout;
  readonly at: Argument;
}

/** Arguments of a norm, from `kind` to the width of the bias. */
export type NormArguments = readonly Argument[];

export const NO_NORM: NormArguments = [int(0), float(0), null, int(0), float(0), null, int(0)];

export interface Planes {
  readonly planes: Argument;
  readonly numbers: Argument;
}

/** Where launches of few rows run; what is done one by one runs where there are more. */
export function fewRows(domain: number, launch: Launch): Launch {
  return { ...launch, where: { rows: domain, least: 1, most: FEW_ROWS } };
}

const natural = (layout: WeightLayout): Argument => int(planeOrder(layout) === 'natural' ? 1 : 0);
const sharedBytes = ({ inp }: WeightLayout): number => (inp / 32) * 120;

/** Of all rows of weights together; a multiple of `unit`. */
function perBlock(rows: number, unit: number): number {
  return Math.min(MOST, Math.max(FEWEST, unit, Math.ceil(rows / ENOUGH_BLOCKS / unit) * unit));
}

export function normedLaunch(
  domain: number,
  x: Argument,
  norm: NormArguments,
  weights: readonly (PlacedWeight & { readonly out: Argument })[],
): Launch {
  const { layout } = weights[0]!;
  const each = perBlock(
    weights.reduce((sum, { layout: { out } }) => sum + out, 0),
    FEWEST,
  );
  const count = weights.reduce((sum, { layout: { out } }) => sum + Math.ceil(out / each), 0);
  const three = <T>(list: readonly T[]): readonly (T | null)[] => [0, 1, 2].map((i) => list[i] ?? null);
  return fewRows(domain, {
    kernel: 'gemv_normed',
    grid: [count, blocks({ domain }), 1],
    block: 256,
    shared: sharedBytes(layout),
    arguments: [x, ...norm, natural(layout), int(each), ...three(weights.map(({ at }) => at)), ...three(weights.map(({ out }) => out))],
  });
}

export function gatedLaunch(
  domain: number,
  x: Argument,
  norm: NormArguments,
  { gate, up, activation }: { readonly gate: PlacedWeight; readonly up: PlacedWeight; readonly activation: number },
  to: { readonly out: Argument } | (Planes & { readonly order: 'natural' | 'halves for few rows' }),
): Launch {
  const { layout } = gate;
  const each = perBlock(layout.out, 'out' in to ? FEWEST : 32);
  const target = 'out' in to ? [to.out, null, null, int(0)] : [null, to.planes, to.numbers, int(to.order === 'natural' ? 1 : 0)];
  return fewRows(domain, {
    kernel: 'gemv_gated',
    grid: [Math.ceil(layout.out / each), blocks({ domain }), 1],
    block: 256,
    shared: sharedBytes(layout),
    arguments: [x, ...norm, natural(layout), int(each), gate.at, up.at, int(activation), ...target],
  });
}

export function addedLaunch(
  domain: number,
  { layout, at }: PlacedWeight,
  { planes, numbers }: Planes,
  added: { readonly other: Argument; readonly factor: number; readonly productIsB: boolean; readonly out: Argument },
): Launch {
  const { other, factor, productIsB, out } = added;
  return fewRows(domain, {
    kernel: 'gemv_added',
    grid: [Math.ceil(layout.out / 8), blocks({ domain }), 1],
    block: 128,
    arguments: [at, planes, numbers, other, float(factor), int(productIsB ? 1 : 0), out],
  });
}
