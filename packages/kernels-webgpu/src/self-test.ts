// A GPU or a driver that computes something else is found when a backend is opened: a decoder of one layer, in six kinds of weights, must give what the
// reference gives. Two tokens, of which the second attends to the first; on a GPU more of them in a tile, which other kernels multiply; and one whose largest logits
// are chosen on the device.

import {
  type Affine,
  type Backend,
  type Codebook,
  type Format,
  type HostTensor,
  hostTensor,
  type Matrix,
  NF4_TABLE,
  packing,
  type QuantizedTensor,
  referenceBackend,
  type StepOptions,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { unavailable } from './errors.ts';

const WIDTH = 64;
const VOCAB = 32;
/** Of the largest logit. */
const TOLERANCE = 1e-3;

const AFFINE: Affine = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const THREE: Affine = { ...AFFINE, levels: 8, packing: '3bit_32' };
const TABLE: Codebook = { kind: 'codebook', bits: 4, dim: 1, group: 32, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };
const ROTATED: Codebook = { ...TABLE, rotate: { kind: 'hadamard', block: 32 } };

/** Numbers in [-1, 1) that are the same everywhere. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

function floats(dtype: 'f32' | 'f16', shape: readonly number[], values: Float32Array): HostTensor {
  return { dtype, shape, data: writeFloat32(dtype, values) };
}

function sample(format: Format, shape: Matrix, seed: number): QuantizedTensor {
  const [out, inp] = shape;
  const values = numbers(out * inp, seed);
  const codes = (levels: number): Uint8Array =>
    Uint8Array.from(values, (value) => Math.min(levels - 1, Math.floor(((value + 1) / 2) * levels)));
  const groups = (out * inp) / 32;
  switch (format.kind) {
    case 'affine': {
      const { levels, packing: name } = format as Affine;
      // 3 bits: words of ten codes, whole rows of groups.
      const packed = packing(name).pack(codes(levels), groups, 32);
      const scale = numbers(groups, seed + 1).map((value) => (0.02 * (2 + value)) / (levels / 16));
      const zero = numbers(groups, seed + 2).map((value) => levels / 2 + value);
      const [count, dtype] = name === '3bit_32' ? [packed.byteLength / 4, 'i32' as const] : [packed.byteLength, 'u8' as const];
      return {
        format,
        shape,
        parts: {
          codes: { dtype, shape: [count / 32, 32], data: packed },
          scale: floats('f16', [groups, 1], scale),
          zero: floats('f16', [groups, 1], zero),
        },
      };
    }
    case 'codebook': {
      const data = packing('bnb_nibble').pack(codes(16), out, inp);
      return {
        format,
        shape,
        parts: {
          codes: { dtype: 'u8', shape: [data.byteLength, 1], data },
          table: floats('f32', [16, 1], Float32Array.from(NF4_TABLE)),
          scale: floats(
            'f32',
            [groups],
            numbers(groups, seed + 1).map((value) => 0.1 * (2 + value)),
          ),
        },
      };
    }
    case 'int8':
      return {
        format,
        shape,
        parts: {
          codes: { dtype: 'i8', shape, data: new Uint8Array(Int8Array.from(values, (value) => Math.round(value * 127)).buffer) },
          scale: floats(
            'f32',
            [out],
            numbers(out, seed + 1).map((value) => 0.1 * (2 + value)),
          ),
        },
      };
    default:
      return {
        format,
        shape,
        parts: {
          weight: floats(
            'f16',
            shape,
            values.map((value) => 0.2 * value),
          ),
        },
      };
  }
}

async function logits(backend: Backend, { tiles }: { readonly tiles: boolean }): Promise<Float32Array> {
  const b = new ProgramBuilder({ layers: 1 });
  const weights: QuantizedTensor[] = [];
  const linear = (format: Format, shape: Matrix, use: 'linear' | 'both' = 'linear'): number => {
    weights.push(sample(format, shape, 11 * (weights.length + 1)));
    return b.addLinear(`${weights.length}`, shape, { use });
  };
  const f16: Format = { kind: 'dense', dtype: 'f16' };
  const scale = b.addConstant(hostTensor('f32', [WIDTH], numbers(WIDTH, 5)));
  const table = linear(f16, [VOCAB, WIDTH], 'both');
  const embedded = b.embed(table);
  b.layer = 0;
  const norm = (x: number): number => b.norm(x, { kind: 'rms', eps: 1e-5, weight: scale, weightOffset: 1 });
  const rope = b.addRope({ kind: 'fixed', frequencies: Array.from({ length: 16 }, (_, i) => 100 ** (-i / 16)), scale: 1 });
  const turn = (x: number): number => b.rope(x, { heads: 2, dim: 32, style: 'half', rope });
  const h = norm(embedded);
  const [q, k, v] = [0, 1, 2].map(() => b.linear(h, linear(AFFINE, [WIDTH, WIDTH]))) as [number, number, number];
  const cache = b.addCache({ heads: 2, keyDim: 32, valueDim: 32 });
  const attended = b.attend(turn(q), { k: turn(k), v, cache, heads: 2, keyDim: 32, scale: 0.18 });
  const x = b.add(embedded, b.linear(attended, linear(TABLE, [WIDTH, WIDTH])));
  const m = norm(x);
  const gated = b.gate(b.linear(m, linear(THREE, [2 * WIDTH, WIDTH])), b.linear(m, linear(THREE, [2 * WIDTH, WIDTH])), 'silu');
  const y = b.add(x, b.linear(gated, linear({ kind: 'int8', threshold: 2 }, [WIDTH, 2 * WIDTH])));
  const z = b.add(y, b.linear(y, linear(ROTATED, [WIDTH, WIDTH])));
  b.layer = 1;
  b.output('logits', b.softcap(b.linear(norm(z), table), 30));
  const program = b.build();
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  try {
    using executable = await backend.compile(program, linears, { contextLength: 24, maxSequences: 1 });
    const id = executable.open();
    const all: number[] = [];
    const step = async (tokens: Uint32Array, options?: StepOptions): Promise<void> => {
      all.push(...toFloat32((await executable.step([{ id, tokens }], options)).logits!));
    };
    for (const token of [3, 14]) await step(Uint32Array.of(token));
    if (tiles) await step(Uint32Array.from({ length: 20 }, (_, i) => (7 * i + 5) % VOCAB));
    await step(Uint32Array.of(15), { largest: { logits: 3 } });
    return Float32Array.from(all);
  } finally {
    for (const one of linears) one[Symbol.dispose]();
  }
}

/** Rejects with ERR_BACKEND_UNAVAILABLE (`details.reason` WRONG_NUMBERS) where the numbers are not those of the reference. */
export async function selfTest(backend: Backend): Promise<void> {
  const reference = await referenceBackend().open();
  // Software adapters compile the workgroup memory of tiles for many seconds, and no driver of a GPU is in them that could get it wrong.
  const kinds = { tiles: !backend.device.features.includes('software') };
  const expected = await logits(reference, kinds);
  await reference[Symbol.asyncDispose]();
  const got = await logits(backend, kinds);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = expected.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - got[i]!) || (Number.isNaN(got[i]!) ? Number.POSITIVE_INFINITY : 0)),
    0,
  );
  if (worst <= TOLERANCE * largest) return;
  throw unavailable(
    'WRONG_NUMBERS',
    `${backend.device.label} computes wrong numbers: the small model of the self-test is off by ${worst} of ${largest}`,
    'Update the driver or the browser, or use another backend. Please report the GPU, its driver and the browser.',
  );
}
