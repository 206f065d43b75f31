// Feedback over the least squares of hqq: what is gained at the outputs, that it is the same format, and what is refused.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import {
  codecFor,
  dequantize,
  elements,
  float32Tensor,
  hostTensor,
  type Importance,
  type Matrix,
  type Quantizer,
  quantize,
  toFloat32,
} from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { withFeedback } from '@lowbit/models';
import { seededFloats } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { factor } from '../packages/models/src/feedback/factor.ts';

/** Second moments f32 [n, n] of `rows` samples in which neighbouring channels go together. */
function moments(n: number, rows: number, seed: number): Float32Array {
  const own = seededFloats(seed, rows * n, 1);
  const sums = new Float64Array(n * n);
  const x = new Float64Array(n);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < n; i++) x[i] = (1 + (i % 5)) * own[row * n + i]! + (i > 0 ? 0.8 * x[i - 1]! : 0);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) sums[i * n + j]! += x[i]! * x[j]!;
  }
  return Float32Array.from(sums, (sum) => sum / rows);
}

const matrixOf = (values: Float32Array, n: number): Importance => ({ kind: 'matrix', moments: float32Tensor([n, n], values), rows: 1024 });

/** e^T H e. */
function cost(e: ArrayLike<number>, matrix: Float32Array, n: number): number {
  let total = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) total += e[i]! * e[j]! * matrix[i * n + j]!;
  return total;
}

describe('withFeedback', () => {
  const shape: Matrix = [48, 128];
  const [out, inp] = shape;
  const weight = float32Tensor(shape, seededFloats(1, out * inp, 0.05));
  const matrix = moments(inp, 1024, 2);
  const importance = matrixOf(matrix, inp);
  const base = (bits: 2 | 3 | 4) => hqq({ bits, solver: 'least-squares' });
  const bad = expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' });

  function outputError(numbers: Float32Array): number {
    const original = toFloat32(weight);
    let total = 0;
    for (let r = 0; r < out; r++)
      total += cost(
        numbers.subarray(r * inp, (r + 1) * inp).map((value, i) => value - original[r * inp + i]!),
        matrix,
        inp,
      );
    return total;
  }

  it.each([2, 3, 4] as const)('leaves less error at the outputs in the same format, at %i bits', async (bits) => {
    const plain = await quantize(weight, base(bits), { importance });
    const found = await quantize(weight, withFeedback(base(bits)), { importance });
    expect(found.format).toEqual(plain.format);
    expect(Object.keys(found.parts)).toEqual(Object.keys(plain.parts));
    const specs = codecFor(found.format).parts(found.format, shape);
    for (const [name, { dtype, shape: of }] of Object.entries(specs)) expect(found.parts[name]).toMatchObject({ dtype, shape: of });
    expect(outputError(toFloat32(dequantize(found))) / outputError(toFloat32(dequantize(plain)))).toBeLessThan(0.65);
  });

  it.each([2, 3, 4] as const)('never costs more for going over it again, at %i bits', async (bits) => {
    const costs = await Promise.all(
      [0, 1, 2, 3, 50, 51].map(async (sweeps) =>
        outputError(toFloat32(dequantize(await quantize(weight, withFeedback(base(bits), { sweeps, trust: 1 }), { importance })))),
      ),
    );
    expect(costs[1]! / costs[0]!).toBeLessThan(0.97);
    expect(costs[2]).toBeLessThan(costs[1]!);
    expect(costs[3]).toBeLessThan(costs[2]!);
    expect(costs[4]).toBeLessThan(costs[3]!);
    expect(costs[5]! / costs[4]!).toBeCloseTo(1, 6); // nothing moves any more but last digits
  });

  it('reports the error of what is stored', async () => {
    const use = withFeedback(base(3));
    const reports: Readonly<Record<string, number | undefined>>[] = [];
    const watched = {
      ...use,
      quantize: async (...args: Parameters<typeof use.quantize>) => {
        const report = await use.quantize(...args);
        reports.push({ ...report });
        return report;
      },
    };
    const numbers = toFloat32(dequantize(await quantize(weight, watched, { importance, metaDtype: 'bf16' })));
    const original = toFloat32(weight);
    const errors = [...numbers].map((value, i) => value - original[i]!);
    expect(reports[0]!.squaredError).toBeCloseTo(
      errors.reduce((sum, e) => sum + e * e, 0),
      5,
    );
    expect(reports[0]!.squaredWeight).toBeCloseTo(
      original.reduce((sum, w) => sum + w * w, 0),
      5,
    );
    expect(reports[0]!.maxAbs).toBeCloseTo(Math.max(...errors.map(Math.abs)), 6);
  });

  it('is plain least squares where no channels go together', async () => {
    const diagonal = new Float32Array(inp * inp);
    for (let i = 0; i < inp; i++) diagonal[i * inp + i] = 1;
    const apart = matrixOf(diagonal, inp);
    const plain = await quantize(weight, base(4), { importance: apart });
    expect((await quantize(weight, withFeedback(base(4), { sweeps: 0 }), { importance: apart })).parts).toEqual(plain.parts);
    const none = matrixOf(new Float32Array(inp * inp), inp);
    expect((await quantize(weight, withFeedback(base(4)), { importance: none })).parts).toEqual((await quantize(weight, base(4))).parts);
  });

  it('has another identity than its quantizer, by how much is believed and how often it is gone over', () => {
    const others = [{ trust: 0.5 }, { sweeps: 1 }].map((options) => withFeedback(base(4), options));
    const names = [base(4), withFeedback(base(4)), withFeedback(base(3)), ...others].map(({ identity }) => identity);
    expect(new Set(names).size).toBe(5);
    expect(withFeedback(base(4), { trust: 0.75, sweeps: 3 }).identity).toBe(names[1]);
  });

  it('refuses importance that is no matrix of samples of this weight', async () => {
    const use = withFeedback(base(4));
    await expect(quantize(weight, use)).rejects.toThrow(bad);
    const diagonal: Importance = { kind: 'diagonal', moments: float32Tensor([inp], new Float32Array(inp).fill(1)), rows: 1 };
    await expect(quantize(weight, use, { importance: diagonal })).rejects.toThrow(bad);
    await expect(quantize(weight, use, { importance: matrixOf(moments(64, 100, 1), 64) })).rejects.toThrow(bad);
    for (const value of [Number.NaN, 1e6]) {
      const holed = matrix.slice();
      holed[1] = holed[inp] = value;
      await expect(quantize(weight, use, { importance: matrixOf(holed, inp) }), String(value)).rejects.toThrow(bad);
    }
  });

  it('refuses options, quantizers and formats that it has no use for', async () => {
    for (const trust of [0, 1.1, -1, Number.NaN, '0.5' as unknown as number])
      expect(() => withFeedback(base(4), { trust }), String(trust)).toThrow(bad);
    for (const sweeps of [-1, 0.5, 101, Number.NaN, '3' as unknown as number])
      expect(() => withFeedback(base(4), { sweeps }), String(sweeps)).toThrow(bad);
    expect(() => withFeedback(hqq())).toThrow(bad);
    expect(() => withFeedback(undefined as never)).toThrow(bad);
    expect(() => withFeedback(withFeedback(base(4)))).toThrow(bad);
    const unsupported = expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' });
    const solver = 'least-squares';
    for (const options of [{ axis: 0 }, { groupSize: 96 }, { quantScale: true, groupSize: 16 }, { quantZero: true }] as const) {
      await expect(quantize(weight, withFeedback(hqq({ solver, ...options })), { importance }), JSON.stringify(options)).rejects.toThrow(
        unsupported,
      );
    }
    const { codes } = (await quantize(weight, withFeedback(hqq({ solver, groupSize: null })), { importance })).parts;
    expect(elements(codes as { dtype: 'u8'; data: Uint8Array }).length).toBe((out * inp) / 2);
  });

  it('asks the next backend where one failed, and holds no moments when nobody else does', async () => {
    const use = withFeedback(base(4));
    const failing = {
      ...use,
      quantize: (...[reader, format, writer, context]: Parameters<typeof use.quantize>) =>
        use.quantize(reader, format, writer, {
          ...context,
          routine: (name) => (name === 'feedback.factor' ? () => Promise.reject(new Error('gone')) : undefined),
        }),
    };
    const fresh = matrixOf(matrix.slice(), inp);
    await expect(quantize(weight, failing, { importance: fresh })).rejects.toThrow('gone');
    const again = await quantize(weight, use, { importance: fresh });
    expect(again.parts).toEqual((await quantize(weight, withFeedback(base(4)), { importance })).parts);

    const held = await (async () => {
      const own = matrixOf(matrix.slice(), inp);
      await quantize(weight, use, { importance: own });
      return new WeakRef(own);
    })();
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    for (let turn = 0; turn < 10 && held.deref(); turn++) {
      await new Promise((resolve) => setTimeout(resolve));
      collect();
    }
    expect(held.deref()).toBeUndefined();
  });

  it('factors once what several quantizers ask for, and again for another share of belief', async () => {
    let factored = 0;
    const counting = (use: Quantizer): Quantizer => ({
      ...use,
      quantize: (reader, format, writer, context) =>
        use.quantize(reader, format, writer, {
          ...context,
          routine: (name) =>
            name !== 'feedback.factor'
              ? context.routine?.(name)
              : async ([of]) => {
                  factored++;
                  const { coupling, cost } = await factor(toFloat32(of!), inp);
                  return [float32Tensor([inp, inp], coupling), hostTensor('f64', [inp], cost)];
                },
        }),
    });
    const own = matrixOf(matrix.slice(), inp);
    const uses = [withFeedback(base(4)), withFeedback(base(3)), withFeedback(base(3)), withFeedback(base(3), { trust: 0.5 })];
    const found = [];
    for (const use of uses) found.push((await quantize(weight, counting(use), { importance: own })).parts);
    expect(factored).toBe(2);
    expect(found[1]).toEqual((await quantize(weight, uses[1]!, { importance })).parts);
    expect(found[3]).not.toEqual(found[2]);
  });

  it('finds factors again where whoever made them for both was stopped', async () => {
    const use = withFeedback(base(4));
    const stop = new AbortController();
    const stopped = quantize(weight, use, { importance, signal: stop.signal });
    const other = quantize(weight, use, { importance });
    stop.abort();
    await expect(stopped).rejects.toBe(stop.signal.reason);
    expect((await other).parts).toEqual((await quantize(weight, withFeedback(base(4)), { importance })).parts);
  });

  it('stops when told to', async () => {
    const signal = AbortSignal.abort();
    await expect(quantize(weight, withFeedback(base(4)), { importance, signal })).rejects.toBe(signal.reason);
  });
});
