// Launches of what runs together where a step has few rows: kernels of native/kernels/fused.cuh, of fused-floats.cuh, and `attend_few`.

import type { Argument, Launch } from './binding.ts';
import { floatKernels } from './fuse.ts';
import { blocks, FEW_ROWS, float, int, planeOrder } from './launches.ts';
import type { WeightLayout } from './layout.ts';

/** Parts of the keys that have blocks of their own, as native/kernels/attention.cuh. */
export const ATTEND_PARTS = 16;
/** Rows of weights to a block: fewer where there would be too few blocks for a large GPU, and more have less to do twice. */
const FEWEST = 16;
const MOST = 64;
const ENOUGH_BLOCKS = 264;
/** Rows of weights to a warp, and inputs of a row in shared memory at once, as native/kernels/codebook.cuh and fused-floats.cuh. */
const WARP_ROWS = 4;
const CHUNK = 8192;

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

/** Arguments of up to three weights. */
export function three(list: readonly Argument[]): readonly Argument[] {
  return [0, 1, 2].map((i) => list[i] ?? null);
}

/** How x comes into the basis of a weight: features, run and factor of native/kernels/fused-floats.cuh. */
function turning({ features, run = 1 }: WeightLayout): readonly Argument[] {
  return [int(features), int(run), float(1 / Math.sqrt(run))];
}
const floatBytes = (inputs: number): number => Math.ceil(inputs / 32) * 144;

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
  const floats = floatKernels(layout);
  const rows = weights.reduce((sum, { layout: { out } }) => sum + out, 0);
  const each = perBlock(rows, floats ? 32 : FEWEST);
  const count = weights.reduce((sum, { layout: { out } }) => sum + Math.ceil(out / each), 0);
  const list = [int(each), ...three(weights.map(({ at }) => at)), ...three(weights.map(({ out }) => out))];
  return fewRows(domain, {
    ...(floats ? floatsOf(`${floats}_normed`, count, domain, layout) : planesOf('gemv_normed', count, domain, layout)),
    arguments: [x, ...norm, ...(floats ? turning(layout) : [natural(layout)]), ...list],
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
  const floats = floatKernels(layout);
  const each = perBlock(layout.out, 'out' in to && !floats ? FEWEST : 32);
  const count = Math.ceil(layout.out / each);
  const list = [int(each), gate.at, up.at, int(activation)];
  const quantized = 'out' in to ? [null, null, int(0)] : [to.planes, to.numbers, int(to.order === 'natural' ? 1 : 0)];
  const out = 'out' in to ? to.out : null;
  return fewRows(domain, {
    ...(floats ? floatsOf(`${floats}_gated`, count, domain, layout) : planesOf('gemv_gated', count, domain, layout)),
    arguments: floats ? [x, ...norm, ...turning(layout), ...list, out] : [x, ...norm, natural(layout), ...list, out, ...quantized],
  });
}

type Shape = Omit<Launch, 'arguments'>;

function planesOf(kernel: string, count: number, domain: number, layout: WeightLayout): Shape {
  return { kernel, grid: [count, blocks({ domain }), 1], block: 256, shared: sharedBytes(layout) };
}

function floatsOf(kernel: string, count: number, domain: number, { inp }: WeightLayout): Shape {
  return { kernel, grid: [blocks({ domain }), count, 1], block: 256, shared: floatBytes(inp) };
}

/** What a product is added to, and what to do with both. */
export interface Added {
  readonly other: Argument;
  readonly factor: number;
  readonly productIsB: boolean;
  readonly out: Argument;
}

export const addedArguments = ({ other, factor, productIsB, out }: Added): readonly Argument[] => [
  other,
  float(factor),
  int(productIsB ? 1 : 0),
  out,
];

export function addedLaunch(domain: number, { layout, at }: PlacedWeight, { planes, numbers }: Planes, added: Added): Launch {
  return fewRows(domain, {
    kernel: 'gemv_added',
    grid: [Math.ceil(layout.out / 8), blocks({ domain }), 1],
    block: 128,
    arguments: [at, planes, numbers, ...addedArguments(added)],
  });
}

/** As `addedLaunch`, of x as it is. */
export function addedFloatsLaunch(domain: number, { layout, at }: PlacedWeight, x: Argument, added: Added): Launch {
  // A block prepares x for all its warps; more blocks where there would be too few for a GPU.
  const warps = Math.ceil(layout.out / (8 * WARP_ROWS)) >= ENOUGH_BLOCKS / 2 ? 8 : 4;
  return fewRows(domain, {
    kernel: `${floatKernels(layout)}_added`,
    grid: [blocks({ domain }), Math.ceil(layout.out / (warps * WARP_ROWS)), 1],
    block: 32 * warps,
    shared: floatBytes(Math.min(layout.inp, CHUNK)),
    arguments: [x, ...turning(layout), at, ...addedArguments(added)],
  });
}
