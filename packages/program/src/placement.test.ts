import type { Format } from '@lowbit/core';
import {
  createRuntime,
  devicePlaces,
  glob,
  isLowbitError,
  type LowbitError,
  linearTag,
  type Runtime,
  referenceBackend,
} from '@lowbit/core';
import { decoderCase, play, together } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ProgramBuilder } from './builder.ts';
import { formatPlacement } from './format-placement.ts';
import { type LoadedProgram, type LoadOptions, loadProgram } from './load.ts';

const one = decoderCase();
const { program } = one.test;
const formats: Format[] = program.linears.map(({ path }) => one.test.weights.get(path)!.format);
const load = (runtime: Runtime, options: Partial<LoadOptions> = {}): Promise<LoadedProgram> =>
  loadProgram(runtime, program, async ({ path }) => ({ weight: one.test.weights.get(path)! }), { contextLength: 64, ...options });
const two = (): Promise<Runtime> => createRuntime({ backends: [referenceBackend({ name: 'a' }), referenceBackend({ name: 'b' })] });
const run = (loaded: LoadedProgram) => play(loaded as never, program, one.scripts, together(one.scripts));

async function caught(body: () => Promise<unknown>): Promise<LowbitError> {
  const error = await body().then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (isLowbitError(error)) return error;
  throw error ?? new Error('nothing was thrown');
}

const paths = program.linears.map(({ path }) => path);
/** Linears that are placed together: the experts of a layer, since routed rows do not travel. */
const units = [...new Set(paths.map((path) => path.replace(/moe\.\d.*/, 'moe.{0,1,2,3,4}.*')))];
const weightBytes = async (runtime: Runtime): Promise<number> => {
  await using loaded = await load(runtime);
  return loaded.memory().weights;
};

describe('a device map', () => {
  it('gives the same bytes wherever the linears are', async () => {
    await using runtime = await two();
    await using whole = await load(runtime);
    const expected = await run(whole);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom('a', 'b'), { minLength: units.length, maxLength: units.length }), async (names) => {
        const deviceMap = Object.fromEntries(units.map((unit, i) => [unit, names[i]!]));
        await using loaded = await load(runtime, { deviceMap });
        expect(await run(loaded)).toEqual(expected);
        for (const { backend, linears } of loaded.placement)
          for (const path of linears) expect(deviceMap[path.replace(/moe\.\d.*/, 'moe.{0,1,2,3,4}.*')]).toBe(backend);
        expect(new Set(loaded.placement.flatMap(({ linears }) => linears))).toEqual(new Set(paths));
      }),
      { numRuns: 25 },
    );
  });

  it('takes modules, tags and globs, the last match winning, and says who runs what', async () => {
    await using runtime = await two();
    const down = paths.find((path) => path.endsWith('.o'))!;
    await using loaded = await load(runtime, { deviceMap: { '': 'a', [down]: 'b' } });
    expect(loaded.placement.filter(({ backend }) => backend === 'b').map(({ linears }) => linears)).toEqual([[down]]);
    expect(formatPlacement(loaded.placement)).toMatch(/^a: .*\nb: .* \(\d+\.\d MiB\)\na: /s);
    await using byGlob = await load(runtime, { deviceMap: { '**': 'a', '**.{k,v}': 'b' } });
    for (const { backend, linears } of byGlob.placement) for (const path of linears) expect(backend === 'b').toBe(/\.[kv]$/.test(path));
  });

  it('names what it leaves out, and backends that there are not', async () => {
    await using runtime = await two();
    const missing = await caught(() => load(runtime, { deviceMap: { [paths[0]!]: 'a' } }));
    expect(missing).toMatchObject({ code: 'ERR_BAD_ARGUMENT', details: { path: paths[1] } });
    expect((await caught(() => load(runtime, { deviceMap: { '': 'disk' } }))).code).toBe('ERR_BACKEND_UNAVAILABLE');
    const both = { deviceMap: { '': 'a' }, cut: [{ backend: 'a', layers: 2 }] };
    expect((await caught(() => load(runtime, both))).message).toContain('cut and deviceMap');
    expect((await caught(() => load(runtime, { backendMemory: { a: 1 } }))).message).toContain('auto');
    expect((await caught(() => load(runtime, { deviceMap: { '{': 'a' } }))).message).toContain('unusable pattern');
  });

  it.each(['balanced', [], new Map([['', 'a']]), { '': 0 }])('refuses %o', async (deviceMap) => {
    await using runtime = await two();
    expect((await caught(() => load(runtime, { deviceMap: deviceMap as never }))).message).toContain('a device map is');
  });

  it('does not part the experts of a layer', async () => {
    const b = new ProgramBuilder({ layers: 1 });
    b.layer = 0;
    const x = b.input('x', { width: 4 });
    const { ids, weights } = b.route(x, { topK: 1, scoring: 'softmax', normalize: false });
    const experts = [0, 1, 2, 3].map((i) => b.addLinear(`experts.${i}.w1`, [4, 4]));
    b.output('out', b.combine(b.expertLinear(x, ids, experts), weights));
    await using runtime = await two();
    const never = () => Promise.reject(new Error('no weight is read'));
    const error = await caught(() =>
      loadProgram(runtime, b.build(), never, { contextLength: 8, deviceMap: { '': 'a', 'experts.2': 'b' } }),
    );
    expect(error).toMatchObject({ code: 'ERR_BAD_ARGUMENT', details: { layer: 0 } });
  });
});

describe("deviceMap: 'auto'", () => {
  it('fills backends in order as far as their memory goes, the same bytes coming out', async () => {
    await using runtime = await two();
    await using whole = await load(runtime);
    const expected = await run(whole);
    const total = await weightBytes(runtime);
    const shares = new Set<number>();
    for (const share of [0, 0.3, 0.6, 0.9, 1]) {
      const backendMemory = { a: Math.ceil(share * total), b: 2 * total };
      await using loaded = await load(runtime, { deviceMap: 'auto', formats, backendMemory });
      const held = (name: string) => loaded.placement.filter(({ backend }) => backend === name).reduce((sum, { bytes }) => sum + bytes, 0);
      expect(held('a')).toBeLessThanOrEqual(backendMemory.a);
      shares.add(held('a'));
      expect(await run(loaded)).toEqual(expected);
    }
    expect(shares.size).toBeGreaterThan(2);
    expect(Math.max(...shares)).toBe(total);
    await using plenty = await load(runtime, { deviceMap: 'auto', formats });
    expect(plenty.backends).toEqual(['a']);
  });

  it('says what does not fit, and holds nothing then', async () => {
    await using runtime = await two();
    const error = await caught(() => load(runtime, { deviceMap: 'auto', formats, backendMemory: { a: 1000, b: 1000 } }));
    expect(error.code).toBe('ERR_LIMIT');
    expect(error.message).toMatch(/a 1000 bytes, b 1000 bytes/);
    expect((await runtime.backend('a')).allocated()).toBe(0);
    for (const a of ['4MB', Number.NaN, -1, null]) {
      const wrong = await caught(() => load(runtime, { deviceMap: 'auto', formats, backendMemory: { a: a as never } }));
      expect(wrong.message).toContain('backendMemory of a');
    }
    expect((await caught(() => load(runtime, { deviceMap: 'auto' }))).message).toContain('formats');
    expect((await caught(() => load(runtime, { deviceMap: 'auto', formats, backendMemory: { c: 1 } }))).message).toContain("'c'");
  });
});

it('writes stretches of layers as one', () => {
  const linears = [
    'model.embed_tokens',
    'model.layers.0.mlp.up',
    'model.layers.0.mlp.down',
    'model.layers.1.mlp.up',
    'model.layers.1.mlp.down',
  ];
  expect(formatPlacement([{ backend: 'a', linears, bytes: 2 ** 20 }])).toBe(
    'a: model.embed_tokens, model.layers.0-1 (2 linears each) (1.0 MiB)',
  );
});

describe('devicePlaces', () => {
  it('gives what going through the keys one by one gives', () => {
    const component = fc.constantFrom('model', 'layers', '0', '1', 'a', 'b');
    const path = fc.array(component, { minLength: 1, maxLength: 5 }).map((parts) => parts.join('.'));
    const key = fc.oneof(path, fc.constant(''), fc.constantFrom('*', '**', 'model.**', '**.{a,b}', '{a,b}', 'model.layers.?', 'a.*'));
    fc.assert(
      fc.property(fc.uniqueArray(key, { maxLength: 8 }), path, (keys, text) => {
        const map = Object.fromEntries(keys.map((name, i) => [name, `backend ${i}`]));
        const covers = (name: string) =>
          name === '' || text === name || text.startsWith(`${name}.`) || glob(name)(text) || glob(name)(linearTag(text));
        const expected = Object.keys(map).findLast(covers);
        if (expected === undefined) expect(() => devicePlaces(map)(text)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
        else expect(devicePlaces(map)(text)).toBe(map[expected]);
      }),
      { numRuns: 2000 },
    );
  });
});
