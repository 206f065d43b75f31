// Kernels as launches, for a single product and for a program's steps alike.

import type { WeightLayout, WeightPiece } from './layout.ts';
import type { Place } from './storage.ts';
import { gemmKernel, TILE } from './wgsl/gemm.ts';
import { hadamardKernel } from './wgsl/hadamard.ts';
import { int8FlagsKernel, int8ProductKernel, int8RowsKernel } from './wgsl/int8.ts';
import type { Kernel } from './wgsl/kernel.ts';
import { lookUpKernel } from './wgsl/look-up.ts';
import { type FusedNorm, PRODUCT, type ProductOptions, productKernel } from './wgsl/product.ts';
import { COLUMNS } from './wgsl/rows.ts';
import { kindOf } from './wgsl/weight.ts';

export const DOMAIN = { tokens: 0, outputs: 1, routed: 2, encoder: 3, once: 4 } as const;

/** A tensor of the arena, by its place in a list. */
export interface TensorRef {
  readonly tensor: number;
}
export type Value = number | TensorRef;

/** How many workgroups: a number, or those of rows, `per` of them each. */
export type Extent = number | { readonly rows: number; readonly per: number };

export interface Launch {
  readonly kernel: Kernel;
  readonly values: Readonly<Record<string, Value>>;
  readonly weights?: readonly Place[];
  readonly x: Extent;
  readonly y: Extent;
  /** Once for each share of a step that is as it says. */
  readonly share?: ShareUse;
  /** Only for so many rows of a domain. */
  readonly where?: { readonly domain: number; readonly least: number; readonly most?: number };
}

export interface ShareUse {
  /** As many workgroups along y as there are rows in the domain, `per` of them each. */
  readonly domain: number;
  readonly per?: number;
  /** Which cache of the program is bound. */
  readonly cache: number | undefined;
  /** Only for so many rows of the share. */
  readonly least?: number;
  readonly most?: number;
  /** Only for so many rows in the cache. */
  readonly keys?: { readonly least?: number; readonly most?: number };
}

export interface HeldPiece {
  readonly piece: WeightPiece;
  readonly place: Place;
}

/** A prepared weight, as launches use it. */
export interface HeldWeight {
  readonly layout: WeightLayout;
  readonly bias: boolean;
  readonly pieces: readonly HeldPiece[];
}

/** Makes tensors that nobody else names, of rows of a domain. */
export type Scratch = (domain: number, width: number) => TensorRef;

/** Rows of x up to which weights are read for each row alone, and up to which for 4 at a time. */
export const FEW = { one: 1, several: 16, together: 4 } as const;

/** Fields of weight i. */
export function weightValues(i: number, { layout }: HeldWeight, piece: WeightPiece): Record<string, number> {
  const { rowWords, group, groups, inp, grouping } = layout;
  const fields = {
    out: piece.to - piece.from,
    row_words: rowWords,
    scale: piece.scale,
    zero: piece.zero,
    table: piece.table,
    bias: piece.bias,
    group,
    groups: Math.max(1, groups),
    per_row: grouping === 'chunk' || grouping === 'quad' ? inp / group : 0,
    row0: piece.from,
    group0: piece.firstGroup,
  };
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [`w${i}_${name}`, value]));
}

export const chunks = (inp: number): number => Math.ceil(inp / 32);
export const rowsOf = (domain: number, per = 1): Extent => ({ rows: domain, per });

export interface Operand {
  readonly ref: TensorRef;
  readonly domain: number;
}

/** What stands before and after products of one x. */
export interface ProductParts {
  readonly x: Operand;
  readonly weights: readonly HeldWeight[];
  readonly outs: readonly { readonly ref: TensorRef; readonly width: number }[];
  readonly norm?: { readonly fused: FusedNorm; readonly values: Readonly<Record<string, number>> };
  readonly gate?: Exclude<ProductOptions['end'], string>['gate'];
  readonly add?: { readonly residual: TensorRef; readonly residual_factor: number; readonly factor: number };
}

/** Launches for 1 row and for several, or for several alone; weights are of one piece each, and take x as it is. */
export function fewRows(parts: ProductParts, { least = 1 }: { readonly least?: number } = {}): readonly Launch[] {
  const { x, weights, outs, norm, gate, add } = parts;
  const { inp } = weights[0]!.layout;
  const values: Record<string, Value> = { x: x.ref, inp, chunks: chunks(inp), ...norm?.values, ...add };
  for (const [i, weight] of weights.entries()) Object.assign(values, weightValues(i, weight, weight.pieces[0]!.piece));
  for (const [i, { ref, width }] of outs.entries())
    Object.assign(values, { [`out${i}`]: ref, [`out${i}_width`]: width, [`out${i}_at`]: 0 });
  const rows = gate ? weights[0]!.layout.out : weights.reduce((sum, { layout }) => sum + layout.out, 0);
  const kinds = weights.map((weight) => kindOf(weight.layout, weight));
  const end = gate ? { gate } : add ? 'add' : 'store';
  const launch = (at: number): Launch => ({
    kernel: productKernel({ rows: at, weights: kinds, norm: norm?.fused, end }),
    values,
    weights: weights.map(({ pieces }) => pieces[0]!.place),
    x: Math.ceil(rows / PRODUCT.rows),
    y: rowsOf(x.domain, at),
  });
  const several = { ...launch(FEW.together), where: { domain: x.domain, least: FEW.one + 1, most: FEW.several } };
  return least > FEW.one ? [several] : [{ ...launch(1), where: { domain: x.domain, least: 1, most: FEW.one } }, several];
}

/** For more rows than that: one weight at a time. */
export function manyRows(
  weight: HeldWeight,
  x: Operand,
  out: { readonly ref: TensorRef; readonly width: number },
  add?: ProductParts['add'],
): readonly Launch[] {
  const { inp } = weight.layout;
  return weight.pieces.map(({ piece, place }) => ({
    kernel: gemmKernel(kindOf(weight.layout, weight), { end: add ? 'add' : 'store' }),
    values: {
      ...{ x: x.ref, inp, chunks: chunks(inp), ...add, ...weightValues(0, weight, piece) },
      ...{ out0: out.ref, out0_width: out.width, out0_at: piece.from },
    },
    weights: [place],
    x: Math.ceil((piece.to - piece.from) / TILE),
    y: rowsOf(x.domain, TILE),
    where: { domain: x.domain, least: FEW.several + 1 },
  }));
}

/** x filled up and rotated into the basis of a weight; x itself where there is none. */
export function rotated(layout: WeightLayout, x: Operand, scratch: Scratch): { readonly x: Operand; readonly launches: readonly Launch[] } {
  const { run, features, inp } = layout;
  if (run === undefined) return { x, launches: [] };
  const ref = scratch(x.domain, inp);
  return { x: { ref, domain: x.domain }, launches: [hadamardLaunch(x, ref, { run, features, columns: inp, kept: inp })] };
}

function hadamardLaunch(
  x: Operand,
  out: TensorRef,
  { run, features, columns, kept }: { readonly run: number; readonly features: number; readonly columns: number; readonly kept: number },
): Launch {
  return {
    kernel: hadamardKernel(run),
    values: { x: x.ref, out, features, kept, factor: 1 / Math.sqrt(run) },
    x: columns / run,
    y: rowsOf(x.domain),
  };
}

/** A product by itself; x is in the basis of the weight, and has 8 bits nowhere yet. */
export function plainProduct(weight: HeldWeight, x: Operand, out: TensorRef, scratch: Scratch): readonly Launch[] {
  const { layout } = weight;
  if (layout.kind === 'int8') {
    const made = int8Rows(layout, x, scratch, { shared: true });
    const pieces = weight.pieces.map(({ piece, place }) => int8Product(weight, made, x, { piece, place, out }));
    return [...made.launches, ...pieces];
  }
  const few = weight.pieces.flatMap(({ piece, place }) =>
    fewRows({
      x,
      weights: [{ ...weight, layout: { ...layout, out: piece.to - piece.from }, pieces: [{ piece, place }] }],
      outs: [{ ref: out, width: layout.out }],
    }).map((launch): Launch => ({ ...launch, values: { ...launch.values, out0_at: piece.from } })),
  );
  return [...few, ...manyRows(weight, x, { ref: out, width: layout.out })];
}

export interface Int8X {
  readonly codes: TensorRef;
  readonly wide: TensorRef;
  readonly scale: TensorRef;
  readonly launches: readonly Launch[];
}

/** Rows of x in 8 bits. `shared`: the columns of outliers are those of all rows together, else of each row. */
export function int8Rows({ inp, threshold }: WeightLayout, x: Operand, scratch: Scratch, { shared }: { readonly shared: boolean }): Int8X {
  const outliers = threshold > 0;
  const flags = outliers && shared ? scratch(DOMAIN.once, inp) : x.ref;
  const codes = scratch(x.domain, inp);
  const wide = outliers ? scratch(x.domain, inp) : codes;
  const scale = scratch(x.domain, 1);
  const launches: Launch[] = [];
  if (outliers && shared) {
    launches.push({ kernel: int8FlagsKernel(), values: { x: x.ref, flags, inp, threshold }, x: Math.ceil(inp / 64), y: 1 });
  }
  const values = { x: x.ref, flags, codes, wide, scale, inp, threshold };
  launches.push({ kernel: int8RowsKernel({ outliers, shared }), values, x: 1, y: rowsOf(x.domain) });
  return { codes, wide, scale, launches };
}

export function int8Product(
  weight: HeldWeight,
  { codes, wide, scale }: Int8X,
  x: Operand,
  { piece, place, out }: HeldPiece & { readonly out: TensorRef },
): Launch {
  const { inp, threshold } = weight.layout;
  const outputs = { out0: out, out0_width: weight.layout.out, out0_at: piece.from };
  return {
    kernel: int8ProductKernel(kindOf(weight.layout, weight), { outliers: threshold > 0, experts: false }),
    values: { x: x.ref, codes, wide, scale, inp, chunks: chunks(inp), ...weightValues(0, weight, piece), ...outputs },
    weights: [place],
    x: Math.ceil((piece.to - piece.from) / 4),
    y: rowsOf(x.domain),
  };
}

/** Experts that lie in one buffer, `stride` words apart: those of ids whose number in `slots` (a place in the constants) is not negative. */
export interface ExpertBank {
  readonly weight: HeldWeight;
  readonly piece: WeightPiece;
  readonly place: Place;
  readonly stride: number;
  readonly slots: number;
}

interface ExpertOperands {
  readonly x: Operand;
  readonly ids: TensorRef;
  readonly out: TensorRef;
  readonly topK: number;
  readonly scratch: Scratch;
}

/** Rows of `out` (routed) by experts of one bank; x is of tokens or routed. */
export function expertProduct(bank: ExpertBank, { x, ids, out, topK, scratch }: ExpertOperands): readonly Launch[] {
  const { weight, piece, place, stride, slots } = bank;
  const { inp, kind, threshold } = weight.layout;
  const common = {
    ...{ ids, slots, stride, top_k: x.domain === DOMAIN.tokens ? topK : 0 },
    ...weightValues(0, weight, piece),
    ...{ out0: out, out0_width: weight.layout.out, out0_at: piece.from },
  };
  const shape = { weights: [place], x: Math.ceil((piece.to - piece.from) / 4), y: rowsOf(DOMAIN.routed) };
  const variant = kindOf(weight.layout, weight);
  if (kind === 'int8') {
    const { launches, codes, wide, scale } = int8Rows(weight.layout, x, scratch, { shared: false });
    const values = { x: x.ref, codes, wide, scale, inp, chunks: chunks(inp), ...common };
    return [...launches, { kernel: int8ProductKernel(variant, { outliers: threshold > 0, experts: true }), values, ...shape }];
  }
  const turned = rotated(weight.layout, x, scratch);
  const values = { x: turned.x.ref, inp, chunks: chunks(inp), ...common };
  return [...turned.launches, { kernel: productKernel({ rows: 1, weights: [variant], end: 'store', experts: true }), values, ...shape }];
}

/** Rows of a weight by number (those of the step's tokens), times a factor. */
export function lookUp(
  weight: HeldWeight,
  out: TensorRef,
  { factor, scratch, features }: { readonly factor: number; readonly scratch: Scratch; readonly features: number },
): readonly Launch[] {
  const { inp, run } = weight.layout;
  const stored = run === undefined ? out : scratch(DOMAIN.tokens, inp);
  const launches: Launch[] = weight.pieces.map(({ piece, place }) => ({
    kernel: lookUpKernel({ ...kindOf(weight.layout, weight), bias: false }),
    values: { out: stored, inp, chunks: chunks(inp), factor, first_row: piece.from, ...weightValues(0, weight, piece) },
    weights: [place],
    x: Math.ceil(chunks(inp) / 64),
    y: rowsOf(DOMAIN.tokens),
  }));
  if (run !== undefined) {
    launches.push(hadamardLaunch({ ref: stored, domain: DOMAIN.tokens }, out, { run, features: inp, columns: inp, kept: features }));
  }
  return launches;
}

/** A kernel with an invocation for each number of [rows, width]. */
export function each(kernel: Kernel, domain: number, width: number, values: Readonly<Record<string, Value>>): Launch {
  return { kernel, values: { ...values, width }, x: Math.ceil(width / COLUMNS), y: rowsOf(domain) };
}
