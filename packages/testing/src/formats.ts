// Seeded weights in every built-in family of formats.

import {
  type Affine,
  type Codebook,
  codecFor,
  elementCount,
  type Format,
  grouping,
  type HostTensor,
  type Matrix,
  packing,
  type QuantizedTensor,
  storedColumns,
  type TensorSpec,
  writeFloat32,
} from '@lowbit/core';
import { seeded, seededFloats } from './random.ts';

/** A weight in a format. */
export interface FormatSample {
  readonly name: string;
  readonly weight: QuantizedTensor;
}

const affine = (levels: number, packed: string, rest: Partial<Affine> = {}): Affine => ({
  kind: 'affine',
  levels,
  group: 64,
  axis: 1,
  scale: 'f16',
  zero: 'f16',
  packing: packed,
  ...rest,
});
const codebook = (rest: Partial<Codebook> = {}): Codebook => ({
  kind: 'codebook',
  bits: 4,
  dim: 1,
  group: 64,
  table: 'sample',
  scale: 'f32',
  packing: 'bnb_nibble',
  ...rest,
});

const SHAPE: Matrix = [40, 128];

const FORMATS: readonly (readonly [name: string, format: Format, shape?: Matrix])[] = [
  ['dense f32', { kind: 'dense', dtype: 'f32' }],
  ['dense f16', { kind: 'dense', dtype: 'f16' }],
  ['dense bf16', { kind: 'dense', dtype: 'bf16' }],
  ['dense, odd shape', { kind: 'dense', dtype: 'bf16' }, [37, 51]],
  ['affine 8 bits', affine(256, '8bit_u8')],
  ['affine 6 bits', affine(64, '8bit_u8')],
  ['affine 4 bits', affine(16, '4bit_u8')],
  ['affine 4 bits, axis 0', affine(16, '4bit_u8', { axis: 0 })],
  ['affine 4 bits, a group per row', affine(16, '4bit_u8', { group: null, scale: 'f32', zero: 'f32' })],
  ['affine 4 bits, a group per column', affine(16, '4bit_u8', { group: null, axis: 0 })],
  ['affine 4 bits, groups across rows', affine(16, '4bit_u8', { group: 32 }), [40, 48]],
  ['affine 4 bits, rows not a multiple of 4', affine(16, '4bit_u8', { group: 32 }), [38, 96]],
  ['affine 4 bits, bf16 scales', affine(16, '4bit_u8', { scale: 'bf16', zero: 'bf16' })],
  ['affine 3 bits', affine(8, '3bit_32')],
  ['affine 3 bits, axis 0', affine(8, '3bit_32', { axis: 0 })],
  ['affine 2 bits', affine(4, '2bit_u8', { group: 16 })],
  ['affine 3 levels', affine(3, '2bit_u8', { group: 16 })],
  ['affine 1 bit', affine(2, '1bit_u8', { group: 32 })],
  ['affine 8 bits around zero, rowwise', affine(256, 'u8', { group: null, zero: 'none', scale: 'f32' })],
  [
    'affine 4 bits, quantized scale and zero',
    affine(16, '4bit_u8', {
      scale: affine(256, '8bit_u8', { group: 16, scale: 'f32', zero: 'f32' }),
      zero: affine(256, '8bit_u8', { group: null, axis: 0, scale: 'f32', zero: 'f32' }),
    }),
  ],
  ['codebook 4 bits', codebook()],
  ['codebook 4 bits, blocks across rows', codebook(), [40, 80]],
  ['codebook 4 bits, a short last block', codebook(), [5, 30]],
  [
    'codebook 4 bits, quantized scale with offset',
    codebook({ offset: true, scale: codebook({ bits: 8, group: 16, packing: 'u8', scale: 'f32' }) }),
  ],
  [
    'codebook of pairs, rotated',
    codebook({ dim: 2, bits: 4, group: 128, packing: 'u8', scale: 'f16', rotate: { kind: 'hadamard', block: 32 } }),
  ],
  [
    'codebook of pairs, rotated and filled up',
    codebook({ dim: 2, bits: 3, group: 32, packing: 'row_bits6', scale: 'bf16', rotate: { kind: 'hadamard', block: 64 } }),
    [37, 130],
  ],
  [
    'codebook in tiles, rotated and filled up',
    codebook({ dim: 1, bits: 4, group: 64, packing: 'flute4_p1_t32', scale: 'f16', rotate: { kind: 'hadamard', block: 64 } }),
    [128, 70],
  ],
  [
    'codebook of 3-bit pairs in tiles, rotated',
    codebook({ dim: 2, bits: 3, group: 64, packing: 'flute3_p2_t32', scale: 'f16', rotate: { kind: 'hadamard', block: 128 } }),
    [512, 128],
  ],
  [
    'codebook of 2-bit pairs in tiles of 64, a scale for blocks',
    codebook({ dim: 2, bits: 2, group: 256, packing: 'flute2_p2_t64', scale: 'f16', rotate: { kind: 'hadamard', block: 256 } }),
    [512, 300],
  ],
  ['int8', { kind: 'int8', threshold: 6 }],
  ['int8 without outliers, odd shape', { kind: 'int8', threshold: 0 }, [37, 51]],
  ['codebook of 3 bits, rotated', codebook({ bits: 3, group: 64, packing: 'u8', rotate: { kind: 'hadamard', block: 64 } })],
];

/** Seeded floats that keep weights near [-1, 1]: scales in [0.005, 0.015), zeros near the middle of the codes, tables in [-1, 1]. */
function floatsFor(part: string, levels: number, count: number, seed: number): Float32Array {
  const name = part.split('.').at(-1);
  const values = seededFloats(seed, count);
  if (name === 'scale') return values.map((value) => (0.01 + 0.005 * value) * (levels <= 16 ? 16 : 1));
  if (name === 'zero') return values.map((value) => levels / 2 + value * levels * 0.2);
  return values;
}

function codesFor(spec: TensorSpec, packed: string, levels: number, rows: number, columns: number, seed: number): HostTensor {
  const next = seeded(seed);
  const codes = Uint8Array.from({ length: rows * columns }, () => Math.floor(next() * levels));
  return { ...spec, data: packing(packed).pack(codes, rows, columns) };
}

/** Parts of one format under a prefix; nested formats see n numbers as a weight [n, 1]. */
function fill(format: Format, shape: Matrix, seed: number): Record<string, HostTensor> {
  const specs = codecFor(format).parts(format, shape);
  const parts: Record<string, HostTensor> = {};
  const nest = (name: string, nested: Affine | Codebook, count: number): void => {
    for (const [part, value] of Object.entries(fill(nested, [count, 1], seed + 17))) parts[`${name}.${part}`] = value;
  };
  if (format.kind === 'affine') {
    const { levels, packing: packed, scale, zero } = format as Affine;
    const { rows, columns, groups } = grouping(format as Affine, shape);
    parts.codes = codesFor(specs.codes!, packed, levels, rows, columns, seed);
    if (typeof scale !== 'string') nest('scale', scale, groups);
    if (typeof zero !== 'string') nest('zero', zero, groups);
  } else if (format.kind === 'codebook') {
    const { bits, dim, group, packing: packed, scale } = format as Codebook;
    const stored = storedColumns(format as Codebook, shape);
    parts.codes = codesFor(specs.codes!, packed, 2 ** (bits * dim), shape[0], stored / dim, seed);
    if (typeof scale !== 'string') nest('scale', scale, Math.ceil((shape[0] * stored) / group));
  }
  const levels = format.kind === 'affine' ? (format as Affine).levels : 16;
  if (format.kind === 'int8') {
    const next = seeded(seed);
    parts.codes = { ...specs.codes!, data: Uint8Array.from({ length: shape[0] * shape[1] }, () => Math.floor(next() * 255) - 127) };
  }
  for (const [i, [name, spec]] of Object.entries(specs).entries()) {
    if (parts[name]) continue;
    const values = floatsFor(name, levels, elementCount(spec.shape), seed + 31 * (i + 1));
    parts[name] = { ...spec, data: writeFloat32(spec.dtype, values) };
  }
  return parts;
}

/** A seeded weight of any built-in format. */
export function sampleWeight(format: Format, shape: Matrix, seed = 1): QuantizedTensor {
  return { format, shape, parts: fill(format, shape, seed) };
}

/** One weight per family and trap: group sizes across rows, nested scales, offsets, rotations, odd shapes. */
export function formatSamples(): readonly FormatSample[] {
  return FORMATS.map(([name, format, shape = SHAPE], i) => ({ name, weight: sampleWeight(format, shape, 1000 + i) }));
}
