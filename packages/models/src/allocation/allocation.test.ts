import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../../../../fixtures/golden.ts';
import { allocateBits, allocationOf } from './allocate.ts';
import type { AllocationLayer } from './problem.ts';
import { fitSensitivity } from './sensitivity.ts';

interface Menu {
  readonly bits: number;
  readonly mse: number;
}
interface Golden {
  readonly cases: readonly {
    readonly name: string;
    /** A text for the case whose layers are in allocation-llama31-8b.json. */
    readonly layers: string | readonly { readonly name: string; readonly params: number; readonly alpha: number }[];
    readonly menu: readonly (Menu & { readonly name: string })[];
    readonly results: readonly {
      readonly budget_bits: number;
      readonly objective?: number;
      readonly average_bits?: number;
      readonly error?: string;
    }[];
  }[];
  readonly alpha_fit: readonly {
    readonly t2: readonly number[];
    readonly metric_increase: readonly number[];
    readonly alpha: number;
    readonly alpha_clamped: number;
  }[];
}
interface Llama {
  readonly alpha_llama31_8b: {
    readonly order: readonly string[];
    readonly size_units: readonly number[];
    readonly unit_elements: number;
    readonly alpha: readonly (readonly number[])[];
  };
  readonly allocation_fixture: {
    readonly bits: readonly number[];
    readonly mse: readonly number[];
    readonly cases: readonly { readonly budget_bits: number; readonly objective: number; readonly used_units: number }[];
  };
}

const golden = goldenJson<Golden>('higgs/allocation.json');
const llama = goldenJson<Llama>('higgs/allocation-llama31-8b.json');

type Plain = readonly { readonly name: string; readonly params: number; readonly alpha: number }[];

function llamaLayers(): Plain {
  const { order, size_units, unit_elements, alpha } = llama.alpha_llama31_8b;
  return alpha.flatMap((row, layer) =>
    row.map((value, i) => ({ name: `layers.${layer}.${order[i]}`, params: size_units[i]! * unit_elements, alpha: value })),
  );
}

const problem = (layers: Plain, menu: readonly Menu[]): AllocationLayer[] =>
  layers.map(({ name, params, alpha }) => ({
    name,
    weights: params,
    sensitivity: alpha,
    choices: menu.map(({ bits, mse }) => ({ name: `${bits}`, bits: params * bits, error: mse })),
  }));

/** The plain dynamic programme over every number of bits: least loss, Infinity if nothing fits. */
function dense(layers: readonly AllocationLayer[], capacity: number): number {
  let best = new Float64Array(capacity + 1);
  for (const { sensitivity, choices } of layers) {
    const next = new Float64Array(capacity + 1).fill(Number.POSITIVE_INFINITY);
    for (let c = 0; c <= capacity; c++) {
      for (const { bits, error } of choices) {
        if (bits <= c) next[c] = Math.min(next[c]!, best[c - bits]! + Math.max(0, sensitivity) * error);
      }
    }
    best = next;
  }
  return best[capacity]!;
}

describe('the reference cases', () => {
  for (const { name, layers, menu, results } of golden.cases) {
    for (const { budget_bits, objective, average_bits, error } of results) {
      it(`${name} at ${budget_bits} bits`, async () => {
        const given = problem(typeof layers === 'string' ? llamaLayers() : layers, menu);
        const run = allocateBits(given, { bitsPerWeight: budget_bits });
        if (error !== undefined) {
          await expect(run).rejects.toThrow(
            expect.objectContaining({ code: 'ERR_LIMIT', hint: expect.stringContaining('at least 2 bits') }),
          );
          return;
        }
        const got = await run;
        expect(Math.abs(got.loss - objective!)).toBeLessThanOrEqual(1e-9 * objective!);
        expect(got.bitsPerWeight).toBeLessThanOrEqual(budget_bits);
        expect(got.bits).toBe(got.layers.reduce((sum, { choice }) => sum + choice.bits, 0));
        expect(got.gap).toBe(0);
        if (average_bits !== undefined && name === 'llama31_8b') expect(got.bitsPerWeight).toBeGreaterThan(budget_bits - 0.01);
      });
    }
  }

  it.each(llama.allocation_fixture.cases)('the specification at $budget_bits bits', async ({ budget_bits, objective, used_units }) => {
    const { bits, mse } = llama.allocation_fixture;
    const menu = bits.map((each, i) => ({ bits: each, mse: mse[i]! }));
    const got = await allocateBits(problem(llamaLayers(), menu), { bitsPerWeight: budget_bits });
    expect(Math.abs(got.loss - objective)).toBeLessThanOrEqual(1e-6);
    expect(got.bits).toBe(used_units * llama.alpha_llama31_8b.unit_elements);
  });

  it.each(golden.alpha_fit)('a slope of $alpha', ({ t2, metric_increase, alpha, alpha_clamped }) => {
    const got = fitSensitivity(t2.map((error, i) => ({ error, loss: metric_increase[i]! })));
    expect(Math.abs(got - alpha)).toBeLessThanOrEqual(1e-9 * Math.abs(alpha));
    expect(Math.abs(Math.max(0, got) - alpha_clamped)).toBeLessThanOrEqual(1e-9 * alpha_clamped);
  });
});

const arbitraryLayer = fc.record({
  name: fc.constant('layer'),
  weights: fc.integer({ min: 1, max: 12 }),
  sensitivity: fc.double({ min: -0.2, max: 5, noNaN: true }),
  choices: fc.array(
    fc.record({ name: fc.constant('choice'), bits: fc.integer({ min: 0, max: 40 }), error: fc.double({ min: 0, max: 1, noNaN: true }) }),
    { minLength: 1, maxLength: 5 },
  ),
});
const arbitraryLayers = fc.array(arbitraryLayer, { minLength: 1, maxLength: 9 });

describe('allocateBits', () => {
  it('finds what the plain dynamic programme finds', async () => {
    await fc.assert(
      fc.asyncProperty(arbitraryLayers, fc.integer({ min: 0, max: 260 }), async (layers, bits) => {
        const expected = dense(layers, bits);
        if (expected === Number.POSITIVE_INFINITY) {
          await expect(allocateBits(layers, { bits })).rejects.toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
          return;
        }
        const got = await allocateBits(layers, { bits });
        expect(got.bits).toBeLessThanOrEqual(bits);
        expect(Math.abs(got.loss - expected)).toBeLessThanOrEqual(1e-12 * (1 + expected));
        expect(got.gap).toBe(0);
      }),
      { numRuns: 400 },
    );
  });

  it('finds it where errors follow bits so closely that nothing can be ruled out', async () => {
    // Strongly correlated: cost is a straight line in bits, with steps of 1.
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 20 })), { minLength: 3, maxLength: 12 }),
        fc.integer({ min: 0, max: 300 }),
        async (sizes, bits) => {
          const layers = sizes.map(([a, b], i) => ({
            name: `${i}`,
            weights: 1,
            sensitivity: 1,
            choices: [0, a, a + b].map((size) => ({ name: `${size}`, bits: size, error: (60 - size) / 8 })),
          }));
          const got = await allocateBits(layers, { bits });
          expect(got.loss).toBeCloseTo(dense(layers, bits), 9);
          expect(got.gap).toBe(0);
        },
      ),
      { numRuns: 100 },
    );
  });

  it('never loses by a larger budget, and repeats itself', async () => {
    await fc.assert(
      fc.asyncProperty(arbitraryLayers, fc.integer({ min: 0, max: 100 }), fc.integer({ min: 0, max: 100 }), async (layers, a, more) => {
        const least = layers.reduce((sum, { choices }) => sum + Math.min(...choices.map(({ bits }) => bits)), 0);
        const tight = await allocateBits(layers, { bits: least + a });
        const wide = await allocateBits(layers, { bits: least + a + more });
        expect(wide.loss).toBeLessThanOrEqual(tight.loss * (1 + 1e-12));
        expect(await allocateBits(layers, { bits: least + a })).toEqual(tight);
      }),
    );
  });

  it('says honestly how far it may be off when its search is bounded', async () => {
    await fc.assert(
      fc.asyncProperty(arbitraryLayers, fc.integer({ min: 0, max: 80 }), async (layers, more) => {
        const bits = more + layers.reduce((sum, { choices }) => sum + Math.min(...choices.map((choice) => choice.bits)), 0);
        const got = await allocateBits(layers, { bits }, { maxStates: 1 });
        expect(got.bits).toBeLessThanOrEqual(bits);
        expect(got.loss - got.gap).toBeLessThanOrEqual(dense(layers, bits) + 1e-12);
      }),
      { numRuns: 300 },
    );
  });

  it('solves 600 layers of odd sizes with choices of their own', async () => {
    let state = 12345;
    const random = (): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    const layers = Array.from({ length: 600 }, (_, i): AllocationLayer => {
      const weights = Math.floor(4e6 + 6e7 * random());
      const scale = 0.5 + random();
      return {
        name: `${i}`,
        weights,
        sensitivity: Math.exp(3 * random()) / 20,
        choices: [2, 2.5, 3, 3.4, 4, 4.25, 5, 6, 8, 16].map((bits) => ({
          name: `${bits}`,
          bits: Math.floor(weights * bits + 10_000 * random()),
          error: scale * 4 ** -bits * (1 + 0.2 * random()),
        })),
      };
    });
    const got = await allocateBits(layers, { bitsPerWeight: 3.25 });
    expect(got.gap).toBe(0);
    expect(got.bitsPerWeight).toBeGreaterThan(3.2499);
    expect(got.bitsPerWeight).toBeLessThanOrEqual(3.25);
    // No exchange of two layers' choices makes it better.
    const left = 3.25 * got.weights - got.bits;
    const moves = layers.flatMap((layer, i) =>
      layer.choices.map((choice) => ({
        bits: choice.bits - got.layers[i]!.choice.bits,
        loss: layer.sensitivity * choice.error - got.layers[i]!.loss,
        i,
      })),
    );
    let better = 0;
    for (const saver of moves.filter(({ loss, bits }) => loss < 0 && bits > 0)) {
      for (const giver of moves) {
        if (giver.bits > 0 || giver.i === saver.i || saver.bits + giver.bits > left) continue;
        if (saver.loss + giver.loss < -1e-15) better++;
      }
    }
    expect(better).toBe(0);
  });

  const layer = (name: string, rest: Partial<AllocationLayer> = {}): AllocationLayer => ({
    name,
    weights: 10,
    sensitivity: 1,
    choices: [
      { name: 'small', bits: 20, error: 0.1 },
      { name: 'large', bits: 40, error: 0.01 },
    ],
    ...rest,
  });
  const names = async (layers: readonly AllocationLayer[], bits: number): Promise<string[]> =>
    (await allocateBits(layers, { bits })).layers.map(({ choice }) => choice.name);

  it('gives the layers of a group one choice', async () => {
    const grouped = [layer('q', { group: 'qkv' }), layer('k', { group: 'qkv', sensitivity: 9 }), layer('o', { sensitivity: 2 })];
    expect(await names([layer('q'), layer('k', { sensitivity: 9 }), layer('o', { sensitivity: 2 })], 100)).toEqual([
      'small',
      'large',
      'large',
    ]);
    expect(await names(grouped, 100)).toEqual(['large', 'large', 'small']);
    expect(await names(grouped, 80)).toEqual(['small', 'small', 'large']);
    // By name, not by place in the list.
    const turned = layer('k', { group: 'qkv', sensitivity: 9, choices: layer('k').choices.toReversed() });
    expect(await names([grouped[0]!, turned, grouped[2]!], 100)).toEqual(['large', 'large', 'small']);
    const other = layer('v', { group: 'qkv', choices: [{ name: 'small', bits: 20, error: 0 }] });
    await expect(allocateBits([...grouped, other], { bits: 200 })).rejects.toThrow(/q and v are both in group qkv/);
  });

  it('counts a sensitivity below 0 as 0: such a layer takes the fewest bits', async () => {
    const got = await allocateBits([layer('a', { sensitivity: -3 }), layer('b')], { bits: 80 });
    expect(got.layers.map(({ choice }) => choice.name)).toEqual(['small', 'large']);
    expect(got.loss).toBe(0.01);
  });

  it('reads an average as the decimal that it is written as', async () => {
    // 0.29 * 100 is 28.999999999999996
    const layers = [layer('a', { weights: 100, choices: [{ name: 'x', bits: 29, error: 0 }] })];
    expect((await allocateBits(layers, { bitsPerWeight: 0.29 })).bits).toBe(29);
    await expect(allocateBits(layers, { bitsPerWeight: 0.28999 })).rejects.toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });

  it('sums up any list of choices', () => {
    expect(allocationOf([layer('a'), layer('b', { sensitivity: 3 })], [1, 0])).toMatchObject({ bits: 60, weights: 20, bitsPerWeight: 3 });
    expect(allocationOf([layer('a'), layer('b', { sensitivity: 3 })], [1, 0]).loss).toBeCloseTo(0.31, 12);
    expect(() => allocationOf([layer('a')], [2])).toThrow(/layer a has no choice 2/);
  });

  it('refuses what is no problem', async () => {
    const refused = async (layers: readonly AllocationLayer[], budget: unknown, message: RegExp): Promise<void> => {
      const run = allocateBits(layers, budget as { bits: number });
      await expect(run).rejects.toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringMatching(message) }));
    };
    const choice = { name: 'x', bits: 1, error: 0 };
    await refused([], { bits: 1 }, /no layers/);
    await refused([layer('a', { choices: [] })], { bits: 1 }, /layer a has no choices/);
    await refused([layer('a', { weights: 0 })], { bits: 1 }, /layer a has 0 weights/);
    await refused([layer('a', { sensitivity: Number.NaN })], { bits: 1 }, /sensitivity of layer a is NaN/);
    await refused([layer('a', { choices: [{ ...choice, bits: 1.5 }] })], { bits: 1 }, /choice x of layer a takes 1.5 bits/);
    await refused([layer('a', { choices: [{ ...choice, bits: -1 }] })], { bits: 1 }, /takes -1 bits/);
    await refused([layer('a', { choices: [{ ...choice, error: -1 }] })], { bits: 1 }, /has the error -1/);
    await refused([layer('a', { choices: [{ ...choice, error: Number.NaN }] })], { bits: 1 }, /has the error NaN/);
    for (const budget of [{}, { bits: Number.NaN }, { bits: -1 }, { bits: 1, bitsPerWeight: 1 }, 3, undefined, { bits: '3' }]) {
      await refused([layer('a')], budget, /budget/);
    }
    await expect(allocateBits([layer('a')], { bits: 40 }, { maxStates: 0 })).rejects.toThrow(/maxStates/);
    const controller = new AbortController();
    controller.abort(new Error('enough'));
    await expect(allocateBits([layer('a')], { bits: 40 }, { signal: controller.signal })).rejects.toThrow('enough');
  });
});

describe('fitSensitivity', () => {
  it('refuses points that fit no line', () => {
    expect(() => fitSensitivity([])).toThrow(/a slope needs a point/);
    expect(() => fitSensitivity([{ error: 0, loss: 1 }])).toThrow(/a slope needs a point/);
    expect(() => fitSensitivity([{ error: 0.1, loss: Number.NaN }])).toThrow(/fits no line/);
  });
});
