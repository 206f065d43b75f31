import { type Affine, float32Tensor, packing, type Quantizer, type Routine, toFloat32, writeFloat32 } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { runCases } from './kit.ts';
import { quantizerCases, quantizerConformance } from './quantizer.ts';

interface Faults {
  readonly twice?: boolean;
  readonly lies?: boolean;
  readonly deaf?: boolean;
  /** Cannot do rows of an odd length, though its format accepts them. */
  readonly even?: boolean;
  /** Settings that are no JSON. */
  readonly vague?: boolean;
  /** Goes on without a routine that fails. */
  readonly swallows?: boolean;
  /** Uses a worker's scales, which are others than its own. */
  readonly differs?: boolean;
}

const scaleOf = (row: Float32Array): number => Math.max(...row.map(Math.abs)) / 127 || 1;
/** What its worker serves: a row -> its scale. */
const routines = (faults: Faults): Readonly<Record<string, Routine>> => ({
  'rowwise.scale': async ([row]) => [float32Tensor([1], [scaleOf(toFloat32(row!)) * (faults.differs ? 1.01 : 1)])],
});

/** Rounds each row to 8 bits around zero: the smallest honest quantizer. */
function rowwise(faults: Faults = {}): Quantizer {
  return {
    spec: 1,
    method: 'rowwise',
    config: faults.vague ? { threshold: Number.NaN } : {},
    worker: new URL('file:///rowwise.js'),
    identity: 'rowwise 1',
    format: (_shape, metaDtype) =>
      ({ kind: 'affine', levels: 256, group: null, axis: 1, scale: metaDtype, zero: 'none', packing: 'u8' }) satisfies Affine,
    async quantize(weight, format, out, { signal, onWeights, workers }) {
      const { scale: metaDtype, packing: name } = format as Affine;
      const [rows, inp] = weight.shape;
      if (faults.even && inp % 2 === 1) throw new RangeError('odd');
      const total = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      const row = new Float32Array(inp);
      for (let r = 0; r < rows; r++) {
        if (!faults.deaf) signal?.throwIfAborted();
        await weight.read(r * inp, (r + 1) * inp, row);
        const served = workers?.routine('rowwise.scale')([float32Tensor([inp], row)], {});
        const answer = await (faults.swallows ? served?.catch(() => undefined) : served);
        const bytes = writeFloat32(metaDtype as 'f32', answer ? toFloat32(answer[0]!) : Float32Array.of(scaleOf(row)));
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

quantizerConformance(rowwise(), { describe, it }, { routines: routines({}), others: [{ ...rowwise(), identity: 'rowwise 2' }] });

describe('a faulty quantizer fails the kit', () => {
  it.each([
    ['twice', /written 2 times/],
    ['lies', /reported squaredError/],
    ['deaf', /must throw ERR_TEST_ABORT/],
    ['even', /odd/],
    ['vague', /config\.threshold is NaN/],
    ['swallows', /a failing worker must fail the call/],
    ['differs', /differs: 1 threads/],
  ] as const)('%s', async (fault, message) => {
    const failed = (await runCases(quantizerCases(rowwise({ [fault]: true }), { routines: routines({ [fault]: true }) }))).filter(
      ({ outcome }) => outcome === 'failed',
    );
    expect(failed.map(({ reason }) => reason).join('\n')).toMatch(message);
  });

  it('whose identity does not tell settings apart', async () => {
    const outcomes = await runCases(quantizerCases(rowwise(), { others: [rowwise()] }));
    const failed = outcomes.filter(({ outcome }) => outcome === 'failed');
    expect(failed.map(({ reason }) => reason)).toEqual(['{} has the same identity, "rowwise 1"']);
    expect(outcomes.find(({ outcome }) => outcome === 'skipped')?.reason).toMatch(/pass `routines`/);
  });
});
