// 8-bit blockwise quantization: numbers in units of their block's largest magnitude, as indices into a map. What double quantization does to scales and
// 8-bit optimizers to their state.

import { checkOptionNames, LowbitError } from '@lowbit/core';
import { blockAbsmax, LEAST_ABSMAX } from './blocks.ts';
import { dynamicMap } from './dynamic-map.ts';
import { mapBounds, nearestEntry } from './nearest.ts';
import { refusal } from './refuse.ts';

const fround = Math.fround;

/** Of `quantizeBlockwise`. */
export interface BlockwiseOptions {
  /** Numbers that share a magnitude: a power of two from 64 to 4096. Default 4096, as in Python; optimizers use 256. */
  readonly blockSize?: number;
  /** 256 ascending numbers. Default: the signed dynamic map. */
  readonly map?: Float32Array;
}

/** Numbers in 8 bits. The last block may be short. */
export interface Blockwise {
  /** One per number: index into `map`. */
  readonly codes: Uint8Array;
  /** Largest magnitude of each block, f32 [ceil(n / blockSize)]. */
  readonly absmax: Float32Array;
  readonly map: Float32Array;
  readonly blockSize: number;
}

const OPTIONS = ['blockSize', 'map'] as const;
const BLOCK_SIZES = [64, 128, 256, 512, 1024, 2048, 4096];

function checkMap(call: string, map: Float32Array): void {
  const usable = map instanceof Float32Array && map.length === 256 && map.every((value, i) => i === 0 || value >= map[i - 1]!);
  if (!usable)
    throw refusal(call, 'map must be a Float32Array of 256 ascending numbers', 'Use dynamicMap(), or the map stored with the codes.', {});
}

function checkArray(call: string, name: string, value: unknown, kind: typeof Float32Array | typeof Uint8Array): void {
  if (value instanceof kind) return;
  throw refusal(call, `${name} must be a ${kind.name}`, `Pass a ${kind.name}; numbers of another kind would be read as others.`, {
    argument: name,
  });
}

function checkBlockSize(call: string, blockSize: number): void {
  if (!BLOCK_SIZES.includes(blockSize)) {
    throw refusal(call, `blockSize cannot be ${String(blockSize)}`, `Use one of ${BLOCK_SIZES.join(', ')}.`, { blockSize });
  }
}

/**
 * Nearest map entries of `value / absmax` in blocks, a tie to the lower entry, as bitsandbytes' pure PyTorch does (full blocks multiply by the reciprocal
 * of the magnitude, a short last one divides; each magnitude is at least 1e-38 there).
 * @throws ERR_BAD_ARGUMENT for another kind of array and unusable options, ERR_NON_FINITE for NaN or infinity
 *
 * @example
 * const q = quantizeBlockwise(moments, { blockSize: 256, map: dynamicMap({ signed: false }) });
 * dequantizeBlockwise(q); // map[code] * absmax of its block
 */
export function quantizeBlockwise(values: Float32Array, options: BlockwiseOptions = {}): Blockwise {
  checkArray('quantizeBlockwise', 'values', values, Float32Array);
  checkOptionNames('quantizeBlockwise', options, OPTIONS);
  const { blockSize = 4096, map = dynamicMap() } = options;
  checkBlockSize('quantizeBlockwise', blockSize);
  checkMap('quantizeBlockwise', map);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new LowbitError('ERR_NON_FINITE', `quantizeBlockwise: element ${bad} is ${values[bad]}`, {
      hint: 'Only finite numbers have a place on the map.',
      details: { index: bad },
    });
  }
  const absmax = new Float32Array(Math.ceil(values.length / blockSize));
  blockAbsmax(values, blockSize, 'divide', absmax);
  const codes = new Uint8Array(values.length);
  const bounds = mapBounds(map);
  for (let block = 0, i = 0; block < absmax.length; block++) {
    const end = Math.min(values.length, i + blockSize);
    const divide = end - i < blockSize;
    const factor = divide ? absmax[block]! : fround(1 / Math.max(absmax[block]!, LEAST_ABSMAX));
    for (; i < end; i++) codes[i] = nearestEntry(bounds, divide ? fround(values[i]! / factor) : fround(values[i]! * factor));
  }
  return { codes, absmax, map, blockSize };
}

/**
 * `map[code] * absmax`, rounded to f32 once.
 * @throws ERR_BAD_ARGUMENT for other kinds of arrays, an unusable map or block size, ERR_TENSOR_MISMATCH for too few magnitudes
 */
export function dequantizeBlockwise(blockwise: Blockwise): Float32Array {
  const { codes, absmax, map, blockSize } = blockwise ?? {};
  checkArray('dequantizeBlockwise', 'codes', codes, Uint8Array);
  checkArray('dequantizeBlockwise', 'absmax', absmax, Float32Array);
  checkBlockSize('dequantizeBlockwise', blockSize);
  checkMap('dequantizeBlockwise', map);
  const blocks = Math.ceil(codes.length / blockSize);
  if (absmax.length < blocks) {
    throw new LowbitError(
      'ERR_TENSOR_MISMATCH',
      `dequantizeBlockwise: ${codes.length} codes need ${blocks} magnitudes, got ${absmax.length}`,
      {
        hint: 'Pass the magnitudes and the block size that the codes were made with.',
        details: { codes: codes.length, blockSize, absmax: absmax.length },
      },
    );
  }
  const values = new Float32Array(codes.length);
  for (let block = 0, i = 0; block < blocks; block++) {
    const scale = absmax[block]!;
    for (const end = Math.min(codes.length, i + blockSize); i < end; i++) values[i] = map[codes[i]!]! * scale;
  }
  return values;
}
