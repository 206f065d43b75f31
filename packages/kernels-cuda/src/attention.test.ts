// Attention over more keys than a block of threads takes at once, and of more rows than one: the conformance kit's sequences are shorter.
import { type Backend, type OpOf, referenceBackend, toFloat32, writeFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { type CudaOptions, cuda } from './cuda.ts';

interface Shape extends Partial<OpOf<'attend'>> {
  /** Without a cache: keys are those of the step alone. */
  readonly own?: boolean;
}

const SMALL = { heads: 2, kvHeads: 1, keyDim: 40, valueDim: 24 };

/** Rows of a sequence: `heads` queries, then keys, then values. `change` of a row is multiplied into it. */
function rowsOf(shape: typeof SMALL, seed: number, rows: number): Float32Array {
  const width = shape.heads * shape.keyDim + shape.kvHeads * (shape.keyDim + shape.valueDim);
  return toFloat32(seededTensor(seed, [rows, width], 1.5)).slice();
}

/** What sequences attend to, each given in chunks of so many rows; chunks of a place are one step. */
async function attended(
  backend: Backend,
  { own = false, ...change }: Shape,
  sequences: readonly { readonly values: Float32Array; readonly chunks: readonly number[] }[],
): Promise<number[][]> {
  const shape = { ...SMALL, ...change };
  const { heads, kvHeads, keyDim, valueDim } = shape;
  const widths = [heads * keyDim, kvHeads * keyDim, kvHeads * valueDim] as const;
  const width = widths.reduce((sum, one) => sum + one, 0);
  const b = new ProgramBuilder({ layers: 1 });
  b.layer = 0;
  const x = b.input('x', { width });
  const [q, k, v] = widths.map((one, i) => b.slice(x, { offset: widths.slice(0, i).reduce((sum, w) => sum + w, 0), width: one })) as [
    number,
    number,
    number,
  ];
  const cache = own ? undefined : b.addCache({ heads: kvHeads, keyDim, valueDim });
  b.output('out', b.attend(q, { k, v, scale: 0.3, ...(cache === undefined ? {} : { cache }), ...shape } as never));
  using executable = await backend.compile(b.build(), [], { contextLength: 512 });
  const ids = sequences.map(() => executable.open());
  const got: number[][] = sequences.map(() => []);
  const at = sequences.map(() => 0);
  for (let step = 0; step < sequences[0]!.chunks.length; step++) {
    const batch = sequences.map(({ values, chunks }, s) => {
      const count = chunks[step]!;
      const data = writeFloat32('f32', values.subarray(at[s]! * width, (at[s]! + count) * width));
      at[s]! += count;
      const wanted = Uint32Array.from({ length: count }, (_, i) => i);
      const inputs = { x: { dtype: 'f32', shape: [count, width], data } } as const;
      return { id: ids[s]!, tokens: new Uint32Array(count), wanted, inputs };
    });
    const out = toFloat32((await executable.step(batch)).out!);
    let row = 0;
    for (const [s, { chunks }] of sequences.entries()) {
      got[s]!.push(...out.subarray(row * heads * valueDim, (row + chunks[step]!) * heads * valueDim));
      row += chunks[step]!;
    }
  }
  return got;
}

function close(what: string, got: readonly number[], expected: readonly number[], tolerance: number): void {
  const largest = Math.max(...expected.map(Math.abs));
  for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value), `${what}, ${i}`).toBeLessThan(tolerance * largest);
}

async function emulated<T>(
  context: { skip(reason: string): void },
  run: (backend: Backend) => Promise<T>,
  { seed = 1, ...options }: CudaOptions & { readonly seed?: number } = {},
): Promise<T> {
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
  pretend({ seed });
  await using backend = await cuda({ driver: FAKE_DRIVER, ...options }).open();
  return await run(backend);
}

async function expectedOf(change: Shape, sequences: Parameters<typeof attended>[2]): Promise<number[][]> {
  await using reference = await referenceBackend().open();
  return await attended(reference, change, sequences);
}

describe('attention over 170 keys', () => {
  it.for<readonly [string, Shape]>([
    ['plain', {}],
    ['in a window of 140', { window: 140 }],
    ['with softcap and slopes', { softcap: 2, bias: { kind: 'alibi', slopes: [0.05, 0.01] } }],
  ])('%s', async ([name, change], context) => {
    const values = rowsOf(SMALL, 9, 170);
    const [expected] = await expectedOf(change, [{ values, chunks: [170] }]);
    const run = async (seed: number, chunks: readonly number[]): Promise<number[]> => {
      const [got] = await emulated(context, (backend) => attended(backend, change, [{ values, chunks }]), { seed });
      close(`${chunks}`, got!, expected!, 5e-6);
      return got!;
    };
    // The last rows one by one: a block for each part, or one for all of them.
    const single = await run(1, [128, 15, 15, 12]);
    if (name === 'plain') expect(await run(2, [128, 14, 2, 1, 15, 10])).toEqual(single);
    // Rows together, from 16 on: in tiles that begin elsewhere.
    expect(await run(2, [37, 133])).toEqual(await run(1, [170]));
  });
});

describe('attention of many rows on tensor cores', () => {
  it.for<readonly [string, Shape, CudaOptions, number]>([
    ['heads of 64, four over two', { heads: 4, kvHeads: 2, keyDim: 64, valueDim: 64 }, {}, 5e-6],
    ['heads of 128 and 120', { keyDim: 128, valueDim: 120 }, {}, 5e-6],
    ['heads of 256, in a window of 20', { keyDim: 256, valueDim: 256, window: 20 }, {}, 5e-6],
    ['heads of 20, which they do not take', { keyDim: 20, valueDim: 20 }, {}, 5e-6],
    ['without a cache', { own: true, causal: false }, {}, 5e-6],
    ['keys and values in f16', {}, { kvDtype: 'f16' }, 2e-3],
    ['keys and values in bf16', { softcap: 3 }, { kvDtype: 'bf16' }, 2e-2],
  ])('%s: three sequences at once, the first as it is alone', async ([, change, options, tolerance], context) => {
    const shape = { ...SMALL, ...change } as typeof SMALL;
    const sequences = [70, 3, 33].map((rows, i) => ({ values: rowsOf(shape, 5 + i, rows), chunks: [rows] }));
    const expected = await expectedOf(change, sequences);
    const got = await emulated(context, (backend) => attended(backend, change, sequences), options);
    for (const [s, rows] of expected.entries()) {
      close(`sequence ${s}`, got[s]!, rows, tolerance);
      if (s > 0) continue;
      const alone = await emulated(context, (backend) => attended(backend, change, [sequences[0]!]), { seed: 3, ...options });
      expect(alone[0]).toEqual(got[0]);
    }
  });

  it('16-bit keys and values are those of rows one by one', async (context) => {
    const values = rowsOf(SMALL, 4, 60);
    for (const kvDtype of ['f16', 'bf16'] as const) {
      const run = (chunks: readonly number[]): Promise<number[][]> =>
        emulated(context, (backend) => attended(backend, {}, [{ values, chunks }]), { kvDtype });
      const [[many], [few]] = [await run([60]), await run([15, 15, 15, 15])];
      close(kvDtype, many!, few!, 5e-6);
    }
  });

  it('keys whose scores are minus infinity, a tile or a part of them, leave those after them as they are', {
    timeout: 60_000,
  }, async (context) => {
    const values = rowsOf(SMALL, 3, 150);
    for (let row = 0; row < 150; row++) {
      // The first number of both queries, and of the key: for the last rows the first 128 scores are less than a float holds.
      for (const head of [0, 40]) values[144 * row + head] = row < 128 ? 0 : 2 ** 100;
      values[144 * row + 80] = row < 128 ? -(2 ** 100) : 0;
    }
    const [expected] = await expectedOf({}, [{ values, chunks: [150] }]);
    for (const chunks of [[150], [134, 15, 1]]) {
      const [got] = await emulated(context, (backend) => attended(backend, {}, [{ values, chunks }]));
      close(`${chunks}`, got!, expected!, 5e-6);
    }
  });

  it('what is not finite in a value reaches the rows that see it, and no others', async (context) => {
    const values = rowsOf(SMALL, 8, 48);
    const [plain] = await emulated(context, (backend) => attended(backend, { window: 8 }, [{ values, chunks: [48] }]));
    const width = 144;
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const worse = values.slice();
      worse[30 * width + 120 + 5] = bad; // channel 5 of the value of row 30
      const [got] = await emulated(context, (backend) => attended(backend, { window: 8 }, [{ values: worse, chunks: [48] }]));
      for (const [i, value] of got!.entries()) {
        const [row, channel] = [Math.floor(i / 48), i % 24];
        const sees = row >= 30 && row < 38;
        if (sees && channel === 5) expect(value).toBe(bad);
        else expect(Math.abs(value - plain![i]!), `${row}, ${channel}`).toBeLessThan(1e-5);
      }
      worse[30 * width + 120 + 5] = values[30 * width + 120 + 5]!;
      worse[30 * width + 80] = Number.NaN; // its key
      const [keys] = await emulated(context, (backend) => attended(backend, { window: 8 }, [{ values: worse, chunks: [48] }]));
      for (const [i, value] of keys!.entries()) {
        const row = Math.floor(i / 48);
        if (row >= 30 && row < 38) expect(value).toBeNaN();
        else expect(value).toBe(plain![i]);
      }
    }
  });
});
