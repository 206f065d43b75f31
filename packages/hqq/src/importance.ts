// Importance of input channels as weights of a least-squares fit: which element of a group meets which channel.

import type { Tile, Tiling } from './tiles.ts';

/** Fills `into` with the weights that the elements of one group meet; `index` counts the tile's groups in the order they are held. */
export type GroupWeights = (index: number, into: Float64Array) => void;

/** A tile as far as it matters which channels its elements meet: plain data, which can go to another thread. */
export type WeighedTile = {
  readonly axis: 0 | 1;
  readonly size: number;
  /** Of the grouped matrix. */
  readonly columns: number;
  readonly runs: readonly { readonly from: number; readonly to: number }[];
};

export function weighedTile({ axis, size, columns }: Tiling, { runs }: Tile): WeighedTile {
  return { axis, size, columns, runs };
}

/**
 * The grouped matrix is the flat weight cut into rows, so element (r, c) is flat element r * columns + c and meets channel (r * columns + c) mod in:
 * on axis 1 a group is a row, which may run across rows of the weight; on axis 0 it is a column.
 */
export function tileWeights(channels: Float64Array, { axis, size, columns, runs }: WeighedTile): GroupWeights {
  const inp = channels.length;
  const numbers = runs.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i));
  const stride = axis === 1 ? 1 : columns % inp;
  return (index, into) => {
    const group = numbers[index]!;
    let channel = (axis === 1 ? group * size : group) % inp;
    for (let i = 0; i < size; i++) {
      into[i] = channels[channel]!;
      channel += stride;
      if (channel >= inp) channel -= inp;
    }
  };
}
