import { ProgramBuilder } from '@lowbit/program';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { afterEach, describe, expect, it, vi } from 'vitest';
import * as hadamard from '../codecs/hadamard.ts';
import { toFloat32 } from '../dtype.ts';
import { dequantize } from '../quantized.ts';
import type { Codebook } from '../spec/format.ts';
import { referenceBackend } from './index.ts';
import { rotateRows } from './rotation.ts';

const format = (block: number): Codebook => ({
  kind: 'codebook',
  bits: 4,
  dim: 2,
  group: 16,
  table: 'any',
  scale: 'f16',
  packing: 'row_bits8',
  rotate: { kind: 'hadamard', block },
});

afterEach(() => {
  vi.restoreAllMocks();
});

describe('rotated weights', () => {
  it('are multiplied with rows that are filled up and rotated alike: more exact than with their float32 numbers', async () => {
    await using backend = await referenceBackend().open();
    const weight = sampleWeight(format(64), [11, 100]);
    using linear = await backend.prepare(weight);
    const x = seededTensor(5, [6, 100]);
    const input = backend.alloc(x);
    const output = backend.alloc({ dtype: 'f32', shape: [6, 11] });
    backend.write(input, x.data);
    linear.forward(input, output);
    const y = toFloat32(await backend.read(output));
    const w = toFloat32(dequantize(weight));
    expect([...toFloat32(await linear.dequantize())]).toEqual([...w]);
    const wide = toFloat32(x);
    for (let row = 0; row < 6; row++) {
      for (let i = 0; i < 11; i++) {
        let sum = 0;
        let size = 0;
        for (let k = 0; k < 100; k++) {
          sum += wide[row * 100 + k]! * w[i * 100 + k]!;
          size += Math.abs(wide[row * 100 + k]! * w[i * 100 + k]!);
        }
        expect(Math.abs(y[row * 11 + i]! - sum)).toBeLessThan(1e-6 * size);
      }
    }
    expect(backend.allocated()).toBeGreaterThan(0);
  });

  it('share the rotation of an input: once per block and step, however many linears read it', async () => {
    const rotate = vi.spyOn(hadamard, 'hadamardBlocks');
    await using backend = await referenceBackend().open();
    const b = new ProgramBuilder({ layers: 1 });
    const x = b.input('x', { width: 128 });
    b.layer = 0;
    const uses = ['q', 'k', 'v', 'odd'].map((name) => b.addLinear(name, [32, 128]));
    for (const [i, use] of uses.entries()) b.output(`y${i}`, b.linear(x, use));
    const program = b.build();
    const weights = [64, 64, 64, 32].map((block, i) => sampleWeight(format(block), [32, 128], i));
    const linears = await Promise.all(weights.map((weight) => backend.prepare(weight)));
    using executable = await backend.compile(program, linears, { contextLength: 8 });
    const id = executable.open();
    rotate.mockClear();
    const rows = seededTensor(9, [3, 128]);
    const outputs = await executable.step([{ id, tokens: new Uint32Array(3), inputs: { x: rows } }]);
    expect(rotate.mock.calls.map(([, block]) => block)).toEqual([64, 32]);
    await executable.step([{ id, tokens: new Uint32Array(3), inputs: { x: rows } }]);
    expect(rotate).toHaveBeenCalledTimes(4);
    for (const [i, linear] of linears.entries()) {
      const input = backend.alloc(rows);
      const output = backend.alloc({ dtype: 'f32', shape: [3, 32] });
      backend.write(input, rows.data);
      linear.forward(input, output);
      expect(outputs[`y${i}`]!.data).toEqual((await backend.read(output)).data);
    }
  });

  it('fills rows up before it rotates them', () => {
    const rotated = rotateRows(Float32Array.of(1, 2, 3, 4, 5, 6), 3, { block: 2, columns: 4 });
    const half = Math.SQRT1_2;
    expect([...rotated].map((value) => +value.toFixed(12))).toEqual(
      [3 * half, -half, 3 * half, 3 * half, 9 * half, -half, 6 * half, 6 * half].map((value) => +value.toFixed(12)),
    );
  });
});
