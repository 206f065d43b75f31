// Weights that come back from disk: the same bytes, never stale or damaged ones, and nothing that fails because of the disk.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Backend, type Format, type LowbitError, type Matrix, type QuantizedTensor, toFloat32, type WeightOrigin } from '@lowbit/core';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { needs } from '../../../../fixtures/needs.ts';
import { type CpuCacheOptions, cpu } from '../cpu.ts';
import { listCache, removeCached } from './models.node.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

let dir: string;
let problems: LowbitError[];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-cache-'));
  problems = [];
});
afterEach(() => {
  chmodSync(dir, 0o700);
  rmSync(dir, { recursive: true, force: true });
});

const open = (options: CpuCacheOptions = {}): Promise<Backend> =>
  cpu({ threads: 2, cache: { dir, onProblem: (problem) => problems.push(problem), ...options } }).open();

const origin = (weight = 'q', model = 'state 1', label = '/models/tiny'): WeightOrigin => ({ label, model, weight });
const HQQ4: Format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };

/** Formats of every kind of layout, with shapes that fill no tile. */
const FORMATS: readonly (readonly [string, Format, Matrix])[] = [
  ['4 bits', HQQ4, [72, 128]],
  ['3 bits, scales f32', { ...HQQ4, levels: 8, scale: 'f32', zero: 'f32', packing: '3bit_32' }, [40, 96]],
  ['2 bits without zeros', { ...HQQ4, levels: 4, zero: 'none', packing: '2bit_u8' }, [48, 64]],
  ['1 bit', { ...HQQ4, levels: 2, packing: '1bit_u8' }, [64, 64]],
  ['8 bits in groups of 256', { ...HQQ4, levels: 256, group: 256, packing: '8bit_u8' }, [17, 256]],
  ['axis 0', { ...HQQ4, axis: 0 }, [128, 48]],
  ['groups across rows', { ...HQQ4, group: 24 }, [20, 36]],
  ['nf4', { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' }, [33, 128]],
  ['blocks across rows', { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' }, [5, 100]],
  ['int8', { kind: 'int8', threshold: 6 }, [30, 70]],
  ['bf16', { kind: 'dense', dtype: 'bf16' }, [9, 50]],
];

/** Result of a product with the only weight. */
async function product(backend: Backend, linear: Awaited<ReturnType<Backend['prepare']>>, rows = 3): Promise<Float32Array> {
  const [out, inp] = linear.shape;
  const x = seededTensor(4, [rows, inp]);
  const [input, output] = [backend.alloc(x), backend.alloc({ dtype: 'f32', shape: [rows, out] })];
  backend.write(input, x.data);
  linear.forward(input, output);
  const result = toFloat32(await backend.read(output));
  backend.free(input);
  backend.free(output);
  return result;
}

/** Prepares a weight so that it is kept; what a product with it gives. */
async function keep(weight: QuantizedTensor, from = origin(), options: CpuCacheOptions = {}): Promise<Float32Array> {
  await using backend = await open(options);
  using linear = await backend.prepare(weight, { origin: from });
  return await product(backend, linear);
}

/** Whether the weight comes back, and with which numbers. */
async function recalled(
  { format, shape }: QuantizedTensor,
  from = origin(),
  options: CpuCacheOptions = {},
): Promise<Float32Array | undefined> {
  await using backend = await open(options);
  const [found] = await backend.recall!([{ format, shape, use: 'linear', origin: from }]);
  if (!found) return undefined;
  using linear = found;
  expect(backend.allocated()).toBe(linear.bytes);
  return await product(backend, linear);
}

const files = (): string[] =>
  readdirSync(dir).flatMap((model) =>
    readdirSync(join(dir, model))
      .filter((file) => file.endsWith('.packed'))
      .map((file) => join(dir, model, file)),
  );

describe('a weight that was kept', () => {
  it.for(FORMATS)('%s: comes back in the same numbers, read and mapped', async ([, format, shape], context) => {
    addon(context);
    const weight = sampleWeight(format, shape);
    const expected = await keep(weight);
    for (const how of ['read', 'map'] as const) expect(await recalled(weight, origin(), { how }), how).toEqual(expected);
    expect(problems).toEqual([]);
  });

  it('takes the bias of the request, and counts its bytes as prepare does', async (context) => {
    addon(context);
    const weight = sampleWeight(HQQ4, [64, 64]);
    const bias = seededTensor(9, [64]);
    await using backend = await open();
    const prepared = await backend.prepare(weight, { origin: origin(), bias });
    const expected = await product(backend, prepared);
    prepared[Symbol.dispose]();
    await backend[Symbol.asyncDispose]();
    await using again = await open();
    const [linear] = await again.recall!([{ format: weight.format, shape: weight.shape, use: 'linear', origin: origin(), bias }]);
    expect(linear!.bytes).toBe(prepared.bytes);
    expect(linear!.bias).toBe(true);
    expect(await product(again, linear!)).toEqual(expected);
    linear![Symbol.dispose]();
    expect(again.allocated()).toBe(0);
  });

  it('is found by origin, format and shape, and by nothing less', async (context) => {
    addon(context);
    const weight = sampleWeight(HQQ4, [64, 64]);
    const expected = await keep(weight);
    expect(await recalled(weight, origin('k'))).toBeUndefined();
    expect(await recalled(weight, origin('q', 'state 2'))).toBeUndefined();
    expect(await recalled({ ...weight, format: { ...HQQ4, zero: 'none' } as Format })).toBeUndefined();
    expect(await recalled({ ...weight, shape: [32, 128] })).toBeUndefined();
    // The same model, reached by another name.
    expect(await recalled(weight, origin('q', 'state 1', '/models/../models/tiny'))).toEqual(expected);
  });

  it('comes back for some requests of many', async (context) => {
    addon(context);
    const weight = sampleWeight(HQQ4, [64, 64]);
    await keep(weight, origin('a'));
    await keep(weight, origin('c'));
    await using backend = await open();
    const { format, shape } = weight;
    const found = await backend.recall!(['a', 'b', 'c'].map((name) => ({ format, shape, use: 'linear' as const, origin: origin(name) })));
    expect(found.map((linear) => linear !== undefined)).toEqual([true, false, true]);
    expect(backend.allocated()).toBe(found[0]!.bytes * 2);
    await backend[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(0);
  });

  it('is not kept without an origin, nor with cache: false', async (context) => {
    addon(context);
    const weight = sampleWeight(HQQ4, [64, 64]);
    await using backend = await open();
    (await backend.prepare(weight))[Symbol.dispose]();
    await using without = await cpu({ cache: false }).open();
    (await without.prepare(weight, { origin: origin() }))[Symbol.dispose]();
    expect(await without.recall!([{ ...weight, use: 'linear', origin: origin() }])).toEqual([undefined]);
    expect(readdirSync(dir)).toEqual([]);
  });

  it('survives that its file is removed while it is in use', async (context) => {
    addon(context);
    const weight = sampleWeight(HQQ4, [512, 512]);
    const expected = await keep(weight);
    await using backend = await open({ how: 'map' });
    const [linear] = await backend.recall!([{ ...weight, use: 'linear', origin: origin() }]);
    expect((await removeCached('all', { dir })).length).toBe(1);
    expect(readdirSync(dir)).toEqual([]);
    expect(await product(backend, linear!)).toEqual(expected);
  });
});

describe('a file that is not what was written', () => {
  const weight = sampleWeight(HQQ4, [64, 64]);

  it.for([
    ['cut off', (path: string) => truncateSync(path, 4096 + 100)],
    ['empty', (path: string) => truncateSync(path, 0)],
    ['longer', (path: string) => writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.alloc(1)]))],
    ['of something else', (path: string) => writeFileSync(path, Buffer.alloc(readFileSync(path).length, 'x'))],
    ['of another weight', (path: string) => writeFileSync(path, readFileSync(files().find((other) => other !== path)!))],
  ] as const)('%s: is removed and made again, and said', async ([, damage], context) => {
    addon(context);
    await keep(sampleWeight({ ...HQQ4, zero: 'f32', scale: 'f32' }, [64, 64]), origin('other'));
    const [other] = files();
    const expected = await keep(weight);
    const path = files().find((file) => file !== other)!;
    damage(path);
    for (const how of ['read', 'map'] as const) {
      expect(await recalled(weight, origin(), { how })).toBeUndefined();
      expect(problems.splice(0)).toMatchObject(how === 'read' ? [{ code: 'ERR_IO', hint: expect.any(String), details: { path } }] : []);
    }
    expect(existsSync(path)).toBe(false);
    await keep(weight);
    expect(await recalled(weight)).toEqual(expected);
  });

  it('is never taken, whichever byte changed', async (context) => {
    addon(context);
    await keep(weight);
    const [path] = files() as [string];
    const whole = readFileSync(path);
    await fc.assert(
      fc.asyncProperty(
        fc.nat(whole.length - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.constantFrom('read', 'map'),
        async (at, change, how) => {
          const bytes = Buffer.from(whole);
          bytes[at]! ^= change;
          writeFileSync(path, bytes);
          expect(await recalled(weight, origin(), { how: how as 'read' })).toBeUndefined();
        },
      ),
      { numRuns: 60 },
    );
  });

  it('is left alone if it cannot be read', async (context) => {
    addon(context);
    await keep(weight);
    const [path] = files() as [string];
    rmSync(path);
    mkdirSync(path);
    expect(await recalled(weight)).toBeUndefined();
    expect(problems).toHaveLength(1);
  });
});

describe('a cache that cannot be written', () => {
  const weight = sampleWeight(HQQ4, [64, 64]);

  it('fails no load; says so once', async (context) => {
    addon(context);
    writeFileSync(join(dir, 'file'), '');
    await using backend = await open({ dir: join(dir, 'file', 'cache') });
    for (const name of ['a', 'b']) (await backend.prepare(weight, { origin: origin(name) }))[Symbol.dispose]();
    await backend[Symbol.asyncDispose]();
    expect(problems).toMatchObject([
      { code: 'ERR_IO', message: expect.stringContaining('cannot be kept'), hint: expect.stringContaining('LOWBIT_CACHE') },
    ]);
  });

  it('is told by a warning of the process where nobody listens', async (context) => {
    addon(context);
    writeFileSync(join(dir, 'file'), '');
    const warned = new Promise<Error & { code?: string }>((resolve) => process.once('warning', resolve));
    await using backend = await cpu({ cache: { dir: join(dir, 'file', 'cache') } }).open();
    (await backend.prepare(weight, { origin: origin() }))[Symbol.dispose]();
    await backend[Symbol.asyncDispose]();
    expect(await warned).toMatchObject({ name: 'LowbitWarning', code: 'ERR_IO' });
  });

  it('leaves no half-written file', async (context) => {
    addon(context);
    await keep(weight);
    expect(readdirSync(join(dir, readdirSync(dir)[0]!)).sort()).toEqual([expect.stringMatching(/^[0-9a-f]{32}\.packed$/), 'model.json']);
  });
});

describe('the size of the cache', () => {
  const weight = sampleWeight(HQQ4, [64, 64]);
  const size = 4096 + 64 * 32 + 64 * 4 * 1;

  it('makes room by removing what was used least recently', async (context) => {
    addon(context);
    for (const [i, model] of ['one', 'two', 'three'].entries()) {
      await keep(weight, origin('q', model, `/models/${model}`), { maxBytes: 1e9 });
      const found = (await listCache({ dir })).models.find(({ label }) => label === `/models/${model}`)!;
      const then = new Date(Date.now() - 1e6 + 1e4 * i);
      utimesSync(join(dir, found.name, 'model.json'), then, then);
    }
    await recalled(weight, origin('q', 'one', '/models/one')); // now the most recent
    await keep(weight, origin('q', 'four', '/models/four'), { maxBytes: 3 * size });
    const { models, bytes } = await listCache({ dir });
    expect(models.map(({ label }) => label).sort()).toEqual(['/models/four', '/models/one', '/models/three']);
    expect(bytes).toBe(3 * size);
    expect(problems).toEqual([]);
  });

  it('keeps nothing of a model that does not fit', async (context) => {
    addon(context);
    await using backend = await open({ maxBytes: 2.5 * size });
    for (const name of ['a', 'b', 'c', 'd']) (await backend.prepare(weight, { origin: origin(name) }))[Symbol.dispose]();
    await backend[Symbol.asyncDispose]();
    expect(problems).toMatchObject([{ code: 'ERR_LIMIT', hint: expect.stringContaining('maxBytes') }]);
    expect((await listCache({ dir })).models).toEqual([]);
  });
});

it('an aborted recall holds nothing', async (context) => {
  addon(context);
  const weight = sampleWeight(HQQ4, [64, 64]);
  await keep(weight);
  await using backend = await open();
  const controller = new AbortController();
  const recall = backend.recall!([{ ...weight, use: 'linear', origin: origin() }], { signal: controller.signal });
  controller.abort(new Error('enough'));
  await expect(recall).rejects.toThrow('enough');
  expect(backend.allocated()).toBe(0);
});

it('two backends write one model at the same time', async (context) => {
  addon(context);
  const weights = ['a', 'b', 'c', 'd', 'e', 'f'].map((name) => [origin(name), sampleWeight(HQQ4, [128, 128])] as const);
  const backends = await Promise.all([open(), open()]);
  await Promise.all(
    backends.map(async (backend) => {
      for (const [from, weight] of weights) (await backend.prepare(weight, { origin: from }))[Symbol.dispose]();
      await backend[Symbol.asyncDispose]();
    }),
  );
  expect(problems).toEqual([]);
  expect(files()).toHaveLength(weights.length);
  for (const [from, weight] of weights) expect(await recalled(weight, from)).toBeDefined();
});

it('a backend that is disposed while weights are being kept ends quietly', async (context) => {
  addon(context);
  const weight = sampleWeight(HQQ4, [64, 64]);
  for (let turns = 0; turns < 30; turns++) {
    const backend = await open();
    const preparing = ['a', 'b', 'c', 'd', 'e', 'f'].map((name) => backend.prepare(weight, { origin: origin(name, `model ${turns}`) }));
    for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate);
    await Promise.all([
      backend[Symbol.asyncDispose](),
      ...preparing.map((one) => one.catch((error: unknown) => expect(error).toMatchObject({ code: 'ERR_DISPOSED' }))),
    ]);
    expect(problems).toEqual([]);
  }
  const left = readdirSync(dir).flatMap((model) => readdirSync(join(dir, model)).filter((file) => file.includes('partial')));
  expect(left).toEqual([]);
});
