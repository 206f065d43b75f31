// Launches of LLM.int8 that run together where a step has few rows: kernels of native/kernels/fused-int8.cuh.

import type { Argument, Launch } from './binding.ts';
import { type Added, addedArguments, fewRows, type NormArguments, type PlacedWeight, three } from './fused-launches.ts';
import { blocks, float, int, rowArgument } from './launches.ts';
import type { WeightLayout } from './layout.ts';

/** Rows of a weight to a block: one to a warp. */
const BLOCK_ROWS = 4;

/** Rows of x in 8 bits, with what is multiplied in floating point. */
export interface Int8Inputs {
  readonly codes: Argument;
  readonly scale: Argument;
  readonly x: Argument;
  readonly columns: Argument;
}

/** `normed`: where x goes after the norm; null: it is taken as it is. */
export function int8FewLaunch(
  domain: number,
  x: Argument,
  norm: NormArguments,
  { inp, threshold, rowWords }: WeightLayout,
  normed: Argument,
  { codes, scale, columns }: Int8Inputs,
): Launch {
  const shape = [int(inp), rowArgument({ domain }), float(threshold), int(rowWords)];
  return fewRows(domain, {
    kernel: 'int8_few',
    grid: [1, 1, 1],
    block: 256,
    arguments: [x, ...norm, ...shape, normed, codes, scale, columns],
  });
}

function launch(
  kernel: string,
  domain: number,
  count: number,
  { codes, scale, x, columns }: Int8Inputs,
  list: readonly Argument[],
): Launch {
  return fewRows(domain, { kernel, grid: [blocks({ domain }), count, 1], block: 128, arguments: [codes, scale, x, columns, ...list] });
}

const blockCount = ({ out }: WeightLayout): number => Math.ceil(out / BLOCK_ROWS);

export function int8NormedLaunch(
  domain: number,
  inputs: Int8Inputs,
  weights: readonly (PlacedWeight & { readonly out: Argument })[],
): Launch {
  const count = weights.reduce((sum, { layout }) => sum + blockCount(layout), 0);
  return launch('int8_normed', domain, count, inputs, [...three(weights.map(({ at }) => at)), ...three(weights.map(({ out }) => out))]);
}

export function int8GatedLaunch(
  domain: number,
  inputs: Int8Inputs,
  {
    gate,
    up,
    activation,
    out,
  }: { readonly gate: PlacedWeight; readonly up: PlacedWeight; readonly activation: number; readonly out: Argument },
): Launch {
  return launch('int8_gated', domain, blockCount(gate.layout), inputs, [gate.at, up.at, int(activation), out]);
}

export function int8AddedLaunch(domain: number, inputs: Int8Inputs, { layout, at }: PlacedWeight, added: Added): Launch {
  return launch('int8_added', domain, blockCount(layout), inputs, [at, ...addedArguments(added)]);
}
