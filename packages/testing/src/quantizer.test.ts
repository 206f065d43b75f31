import { type Affine, packing, type Quantizer, toFloat32, writeFloat32 } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { runCases } from './kit.ts';
import { quantizerCases, quantizerConformance } from './quantizer.ts';

/** Rounds each row to 8 bits around zero: the smallest honest quantizer. */
function rowwise(faults: { readonly twice?: boolean; readonly lies?: boolean; readonly deaf?: boolean } = {}): Quantizer {
  return {
    spec: 1,
    method: 'rowwise',
    config: {},
    identity: 'rowwise 1',
    format: (_shape, metaDtype) =>
      ({ kind: 'affine', levels: 256, group: null, axis: 1, scale: metaDtype, zero: 'none', packing: 'u8' }) satisfies Affine,
    async quantize(weight, format, out, { signal, onWeights }) {
      const { scale: metaDtype, packing: name } = format as Affine;
      const [rows, inp] = weight.shape;
      const total = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      const row = new Float32Array(inp);
      for (let r = 0; r < rows; r++) {
        if (!faults.deaf) signal?.throwIfAborted();
        await weight.read(r * inp, (r + 1) * inp, row);
        const bytes = writeFloat32(metaDtype as 'f32', Float32Array.of(Math.max(...row.map(Math.abs)) / 127 || 1));
        const scale = toFloat32({ dtype: metaDtype as 'f32', shape: [1], data: bytes })[0]!;
        const codes = Uint8Array.from(row, (value) => Math.min(255, Math.max(0, Math.round(value / scale) + 128)));
        for (const [i, code] of codes.entries()) {
          const error = row[i]! - Math.fround((code - 128) * scale);
          total.squaredError += error * error;
          total.squaredWeight += row[i]! ** 2;
          total.maxAbs = Math.max(total.maxAbs, Math.abs(error));
        }
        await out.write('codes', r * inp, packing(name).pack(codes, 1, inp));
        await out.write('scale', r, bytes);
        if (faults.twice) await out.write('scale', r, bytes);
        onWeights?.(inp);
      }
      return faults.lies ? { ...total, squaredError: 0 } : total;
    },
  };
}

quantizerConformance(rowwise(), { describe, it });

describe('a faulty quantizer fails the kit', () => {
  it.each([
    ['twice', /written 2 times/],
    ['lies', /reported squaredError/],
    ['deaf', /must throw ERR_TEST_ABORT/],
  ] as const)('%s', async (fault, message) => {
    const failed = (await runCases(quantizerCases(rowwise({ [fault]: true })))).filter(({ outcome }) => outcome === 'failed');
    expect(failed.map(({ reason }) => reason).join('\n')).toMatch(message);
  });
});
