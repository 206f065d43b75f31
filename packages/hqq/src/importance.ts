// Importance of input channels as weights of a least-squares fit: which element of a group meets which channel.

import { elements, type Importance, LowbitError, type Matrix } from '@lowbit/core';
import type { Tile, Tiling } from './tiles.ts';

/** Least weight of a channel, as a share of the mean: a channel that the samples never used still counts a little, so every group has a fit. */
const LEAST = 1e-4;

function unusable(message: string, importance: Importance): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `hqq: ${message}`, {
    hint: 'Give what collectImportance made for this linear.',
    details: { kind: importance.kind, shape: importance.moments.shape },
  });
}

/**
 * Weights of the input channels, mean about 1: the moments of a diagonal, or the diagonal of a matrix. Undefined where all are zero.
 * Throws ERR_BAD_ARGUMENT if they are not of this weight, or not finite and at least zero.
 */
export function channelWeights(importance: Importance, shape: Matrix): Float64Array | undefined {
  const inp = shape[1];
  const { kind, moments } = importance;
  const expected = kind === 'matrix' ? [inp, inp] : [inp];
  if (moments.dtype !== 'f32' || moments.shape.length !== expected.length || moments.shape.some((extent, i) => extent !== expected[i])) {
    throw unusable(`importance of ${moments.dtype} [${moments.shape.join(', ')}] is not of a weight with ${inp} inputs`, importance);
  }
  const values = elements({ dtype: 'f32', data: moments.data });
  const stride = kind === 'matrix' ? inp + 1 : 1;
  const weights = Float64Array.from({ length: inp }, (_, i) => values[i * stride]!);
  const wrong = weights.findIndex((value) => !(value >= 0 && value < Number.POSITIVE_INFINITY));
  if (wrong >= 0) throw unusable(`the importance of input ${wrong} is ${weights[wrong]}`, importance);
  const mean = weights.reduce((sum, value) => sum + value, 0) / inp;
  return mean > 0 ? weights.map((value) => Math.max(value / mean, LEAST)) : undefined;
}

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
