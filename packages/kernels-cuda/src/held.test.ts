// Weights that stay on the GPU between routines: what is refused, and whose memory it is. e2e/kernels-cuda-held.test.ts quantizes with them.
import { float32Tensor, type HostTensor, type JsonObject, type Routine } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { cuda } from './cuda.ts';

const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');

const MIB = 1 << 20;
const rules = { levels: 16, roundZero: false, smallRange: true };

/** Weights [groups, 16], and the same without bytes. */
function weightsOf(groups: number): { readonly whole: HostTensor; readonly known: HostTensor } {
  const whole = float32Tensor(
    [groups, 16],
    Float32Array.from({ length: 16 * groups }, (_, i) => Math.sin(i)),
  );
  return { whole, known: { ...whole, data: new Uint8Array(0) } };
}

async function holder(settings: Parameters<typeof pretend>[0] = {}) {
  pretend(settings);
  const backend = await cuda({ driver: FAKE_DRIVER }).open();
  const minMax = backend.routines!.get('hqq.min-max') as Routine & { readonly held: Routine };
  const { held } = minMax;
  return {
    backend,
    minMax,
    hold: async (groups: number, dtype = 'f32') => {
      const [number] = await held([], { hold: { dtype, count: 16 * groups } });
      return number && new Float64Array(number.data.buffer)[0]!;
    },
    call: (layer: number, first: number, weights: HostTensor, routine = 'hqq.min-max', params: JsonObject = rules) =>
      held([weights], { held: layer, first: 16 * first, routine, params }),
    release: (layer: number) => held([], { release: layer }),
  };
}

describe('weights that are held', () => {
  it('come once, and give what they give otherwise', async (context) => {
    here(context);
    const { backend, minMax, hold, call, release } = await holder();
    const layer = (await hold(12))!;
    const { whole, known } = weightsOf(8);
    const expected = await minMax([whole], rules);
    expect(await call(layer, 4, whole)).toEqual(expected);
    expect(await call(layer, 4, known)).toEqual(expected);
    await release(layer);
    await expect(call(layer, 4, known)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await backend[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(0);
  });

  it('are refused where they cannot be', async (context) => {
    here(context);
    const { backend, hold, call } = await holder();
    const layer = (await hold(12))!;
    const { whole, known } = weightsOf(8);
    const bad = { code: 'ERR_BAD_ARGUMENT' };
    await expect(call(layer, 4, known), 'nothing was brought').rejects.toMatchObject(bad);
    await call(layer, 4, whole);
    for (const [number, first, weights] of [
      [layer, 5, whole], // beyond the end
      [layer, 0, known], // another tile
      [layer, 4, { ...known, shape: [7, 16] }],
      [layer, 4, { ...known, shape: [8, 15] }],
      [layer, 4, { ...known, shape: [-8, -16] }],
      [layer, 4, { ...known, dtype: 'bf16' }],
      [layer, 4, { ...whole, data: whole.data.subarray(4) }],
      [layer, -1, whole],
      [layer, 0.03, whole],
      [layer + 1, 4, whole],
    ] as const) {
      await expect(call(number, first, weights as HostTensor), `${number} ${first} ${weights.shape}`).rejects.toMatchObject(bad);
    }
    // More than kernels count to, which a layer may have.
    const many = await call(layer, 0, { ...known, shape: [1 << 20, 1 << 12] }).catch((error: unknown) => error);
    expect(many).toMatchObject(bad);
    expect((many as Error).message).toContain('a tile cannot be [1048576, 4096]');
    for (const routine of ['held', 'bnb.int8', 'higgs.code', 'toString'])
      await expect(call(layer, 4, whole, routine)).rejects.toMatchObject(bad);
    await expect(hold(0)).rejects.toMatchObject(bad);
    await expect(hold(0.1)).rejects.toMatchObject(bad);
    await expect(hold(4, 'i32')).rejects.toMatchObject(bad);
    // What failed on its way is not there.
    await expect(
      call(layer, 0, { ...whole, shape: [4, 16], data: whole.data.subarray(0, 256) }, 'hqq.min-max', { levels: 0 }),
    ).rejects.toMatchObject(bad);
    await expect(call(layer, 0, { ...known, shape: [4, 16] })).rejects.toMatchObject(bad);
    await backend[Symbol.asyncDispose]();
    await expect(hold(4)).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
  });

  it('take room that is counted, kept for two layers, and given back to a weight', async (context) => {
    here(context);
    const { backend, hold, release } = await holder();
    const layers = [await hold(MIB / 64), await hold(2 * (MIB / 64)), await hold(3 * (MIB / 64))];
    expect(backend.allocated()).toBe(6 * MIB);
    for (const layer of layers) await release(layer!);
    expect(backend.allocated()).toBe(5 * MIB); // the smallest has gone
    await release((await hold(100))!); // in the smaller of the two
    expect(backend.allocated()).toBe(5 * MIB);
    const big = (await hold(300 * (MIB / 64)))!;
    await release(big); // too large to keep
    expect(backend.allocated()).toBe(5 * MIB);
    const linear = await backend.prepare({
      format: { kind: 'dense', dtype: 'f32' },
      shape: [8, 16],
      parts: { weight: weightsOf(8).whole },
    });
    expect(backend.allocated()).toBe(linear.bytes);
    const open = await hold(100); // and never released
    expect(open).toBeGreaterThan(0);
    linear[Symbol.dispose]();
    await backend[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(0);
  });

  it('find no room where there is none, after what is kept was given back', async (context) => {
    here(context);
    const { backend, hold, release } = await holder({ memory: (192 + 64) * MIB }); // 192 are left to calls
    const [one, two] = [await hold(20 * (MIB / 64)), await hold(20 * (MIB / 64))];
    expect(await hold(40 * (MIB / 64))).toBeUndefined();
    await release(one!);
    await release(two!);
    expect(backend.allocated()).toBe(40 * MIB);
    const larger = await hold(60 * (MIB / 64));
    expect(larger).toBeGreaterThan(0);
    expect(backend.allocated()).toBe(60 * MIB);
    await backend[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(0);
  });
});
