// What overlaps: calls of routines among themselves, and the coming of weights that are kept on the host with the launches of a step. Streams of the fake driver run early or late as the test says (native/fake/streams.h), so that a wait
// that is missing shows as other bytes.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Backend, type Format, float32Tensor, type HostTensor, type QuantizedLinear, writeFloat32 } from '@lowbit/core';
import { seeded } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import { type CudaOptions, cuda } from './cuda.ts';
import type { CudaExecutable } from './executable.ts';

const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
const dir = mkdtempSync(join(tmpdir(), 'lowbit-cuda-streams-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** Weights [groups, 64] that differ from call to call. */
function weightsOf(seed: number, groups: number): HostTensor {
  const next = seeded(seed);
  return float32Tensor(
    [groups, 64],
    Float32Array.from({ length: 64 * groups }, () => next() - 0.5),
  );
}

/** Scale and zero as packages/hqq/src/grid.ts has them. */
function expected(weights: HostTensor): { readonly inverse: Float32Array; readonly zero: Float32Array } {
  const values = new Float32Array(weights.data.buffer, weights.data.byteOffset, weights.data.byteLength / 4);
  const groups = weights.shape[0]!;
  const [inverse, zero] = [new Float32Array(groups), new Float32Array(groups)];
  for (let g = 0; g < groups; g++) {
    const group = values.subarray(64 * g, 64 * g + 64);
    const [low, high] = [Math.min(...group), Math.max(...group)];
    inverse[g] = Math.fround(Math.fround(1 / Math.fround(high - low)) * 15);
    zero[g] = -low * inverse[g]!;
  }
  return { inverse, zero };
}

const rules = { levels: 16, roundZero: false, smallRange: true };

describe('routines that are under way together', () => {
  it('leave a backend that can be disposed, whenever the device is lost', async (context) => {
    here(context);
    let opened = 0;
    // A context that was lost is refused: while it is opened, in the call, when its room is given back.
    for (let call = 2; call < 12; call++) {
      pretend({ fail: `cuCtxSetCurrent/700/${call}` });
      const backend = await cuda({ driver: FAKE_DRIVER })
        .open()
        .catch(() => undefined);
      if (!backend) continue;
      opened++;
      await backend.routines!.get('hqq.min-max')!([weightsOf(1, 20)], rules).catch(({ code }) => expect(code).toBe('ERR_DEVICE'));
      await expect(backend[Symbol.asyncDispose](), `call ${call}`).resolves.toBeUndefined();
      expect(backend.allocated()).toBe(0);
    }
    expect(opened).toBeGreaterThan(4);
  });

  it.for([0, 1, 0b100, 0b1000, 0b10100, 0b11100, 0xffff])(
    'each have their own results, also those of several slices, with streams %i early',
    async (eager, context) => {
      here(context);
      pretend({ eager });
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      const minMax = backend.routines!.get('hqq.min-max')!;
      // 5,000 groups are 1.2 slices.
      const given = [40, 5000, 3, 5000, 77, 1, 9000, 12].map((groups, i) => weightsOf(i + 1, groups));
      const results = await Promise.all(given.map((weights) => minMax([weights], rules)));
      for (const [i, [inverse, zero]] of results.entries()) {
        const want = expected(given[i]!);
        expect(Buffer.compare(inverse!.data, writeFloat32('f32', want.inverse)), `${i}`).toBe(0);
        expect(Buffer.compare(zero!.data, writeFloat32('f32', want.zero)), `${i}`).toBe(0);
      }
      // Three lanes at most, of what the largest calls take.
      expect(backend.allocated()).toBeLessThanOrEqual(3 * (3 << 20));
    },
  );

  it('are brought one beside the other: three streams, each up and down', async (context) => {
    here(context);
    const copies = join(dir, 'copies');
    pretend({ copies });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const minMax = backend.routines!.get('hqq.min-max')!;
    await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => minMax([weightsOf(seed, 4096)], rules)));
    const lines = readFileSync(copies, 'utf8').trim().split('\n');
    const streams = new Set(lines.map((line) => line.split(' ')[2]));
    expect(streams.size).toBeGreaterThan(1);
    expect(streams.size).toBeLessThanOrEqual(3);
    expect(lines.filter((line) => line.startsWith('up '))).toHaveLength(6);
    expect(lines.filter((line) => line.startsWith('down '))).toHaveLength(12);
  });

  it.for([
    ['cuMemcpyDtoH', 999, 2],
    ['cuMemcpyHtoD', 999, 3],
    ['cuLaunchKernel', 700, 2],
    ['cuEventRecord', 999, 5],
    ['cuStreamCreate', 2, 3],
    ['cuMemAlloc', 2, 1],
  ] as const)('give all back where %s fails, and the others go on', async ([name, result, call], context) => {
    here(context);
    pretend({ fail: `${name}/${result}/${call}` });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const minMax = backend.routines!.get('hqq.min-max')!;
    const given = [1, 2, 3, 4].map((seed) => weightsOf(seed, 20));
    const ends = await Promise.allSettled(given.map((weights) => minMax([weights], rules)));
    expect(ends.filter(({ status }) => status === 'rejected')).toHaveLength(1);
    for (const [i, end] of ends.entries()) {
      if (end.status === 'rejected') expect(end.reason.code).toMatch(/^ERR_(DEVICE|LIMIT)$/);
      else expect(Buffer.compare(end.value[0]!.data, writeFloat32('f32', expected(given[i]!).inverse))).toBe(0);
    }
    expect(await minMax([given[0]!], rules)).toHaveLength(2);
    await backend[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(0);
  });

  it('that fail do not break the recording of a step that another thread makes', async (context) => {
    here(context);
    const decoder = tinyDecoder(HQQ4);
    const expected = (await steps(decoder, {})).logits;
    // After weights were brought only lanes record events here. Where in the step's recording the failure falls is by chance, what comes of it is not.
    let tried = 0;
    for (let call = 2; call < 200 && tried < 4; call += 3) {
      pretend({ fail: `cuEventRecord/999/${call}` });
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      const linears: QuantizedLinear[] = [];
      try {
        for (const [i, { use }] of decoder.program.linears.entries()) linears.push(await backend.prepare(decoder.weights[i]!, { use }));
      } catch {
        continue; // it was an event of a weight
      }
      tried++;
      using executable = await backend.compile(decoder.program, linears, { contextLength: 16 });
      const id = executable.open();
      const minMax = backend.routines!.get('hqq.min-max')!;
      const routines = Promise.allSettled([1, 2, 3, 4, 5, 6].map((seed) => minMax([weightsOf(seed, 20)], rules)));
      const logits: Uint8Array[] = [];
      for (const tokens of [[3, 1, 4], [1], [5], [9], [2]])
        logits.push((await executable.step([{ id, tokens: Uint32Array.from(tokens) }])).logits!.data);
      expect((await routines).filter(({ status }) => status === 'rejected')).toHaveLength(1);
      expect(Buffer.compare(Buffer.concat(logits), expected), `call ${call}`).toBe(0);
    }
    expect(tried).toBe(4);
  });

  it('do without memory that the device reads by itself, where there is none', async (context) => {
    here(context);
    pretend({ fail: 'cuMemHostAlloc/2/1' });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const weights = weightsOf(7, 5000);
    const [inverse] = await backend.routines!.get('hqq.min-max')!([weights], rules);
    expect(Buffer.compare(inverse!.data, writeFloat32('f32', expected(weights).inverse))).toBe(0);
  });

  it('have no room when the device is full of idle room: that is given back first', async (context) => {
    here(context);
    pretend({ memory: 64 << 20 });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const hog = backend.alloc({ dtype: 'f32', shape: [15 << 20] }); // 4 MiB are left
    const minMax = backend.routines!.get('hqq.min-max')!;
    await Promise.all([1, 2, 3].map((seed) => minMax([weightsOf(seed, 20)], rules)));
    expect(backend.allocated()).toBe(63 << 20);
    // 2.9 MiB: more than is free beside the three.
    expect(await minMax([weightsOf(4, 11_500)], rules)).toHaveLength(2);
    expect(backend.allocated()).toBe(63 << 20); // of one lane
    const [inverse] = await minMax([weightsOf(5, 20)], rules);
    expect(Buffer.compare(inverse!.data, writeFloat32('f32', expected(weightsOf(5, 20)).inverse))).toBe(0);
    backend.free(hog);
  });
});

const HQQ4: Format = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const NF4: Format = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };
const INT8: Format = { kind: 'int8', threshold: 6 };
const DENSE: Format = { kind: 'dense', dtype: 'bf16' };

interface Run {
  readonly offloadMeta?: boolean;
  readonly settings?: Parameters<typeof pretend>[0];
  readonly options?: CudaOptions;
}

interface Ran {
  readonly logits: Buffer;
  readonly weights: number;
  readonly replays: number;
}

/** A prompt, and tokens one at a time: as they come, and from a recording. */
async function steps({ program, weights }: TinyDecoder, { offloadMeta = false, settings = {}, options = {} }: Run): Promise<Ran> {
  pretend(settings);
  await using backend: Backend = await cuda({ driver: FAKE_DRIVER, ...options }).open();
  const linears: QuantizedLinear[] = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use, offloadMeta }));
  const held = backend.allocated();
  using executable = await backend.compile(program, linears, { contextLength: 16 });
  const id = executable.open();
  const logits: Uint8Array[] = [];
  for (const tokens of [[3, 1, 4], [1], [5], [9], [2]]) {
    logits.push((await executable.step([{ id, tokens: Uint32Array.from(tokens) }])).logits!.data);
  }
  const { replays } = executable as CudaExecutable;
  for (const linear of linears) linear[Symbol.dispose]();
  return { logits: Buffer.concat(logits), weights: held, replays };
}

describe('weights that are kept on the host', () => {
  it.for([
    ['scales of HQQ', HQQ4, { offloadMeta: true }],
    ['scales and table of NF4', NF4, { offloadMeta: true }],
    ['all of HQQ', HQQ4, { options: { weightMemory: 0 } }],
    ['all of LLM.int8', INT8, { options: { weightMemory: 0 } }],
    ['all of a dense model', DENSE, { options: { weightMemory: 0 } }],
    ['some of HQQ', HQQ4, { offloadMeta: true, options: { weightMemory: 12_000 } }],
  ] as const)(
    'give the same bytes whichever stream is ahead, recorded or not: %s',
    { timeout: 60_000 },
    async ([, format, run], context) => {
      here(context);
      const decoder = tinyDecoder(format);
      const expected = await steps(decoder, {});
      expect(expected.logits.some((byte) => byte !== 0)).toBe(true);
      // Bit 0: launches run as soon as they can; bit 1: copies.
      for (const eager of [0b00, 0b01, 0b10, 0b11]) {
        const found = await steps(decoder, { ...run, settings: { eager } });
        expect(Buffer.compare(found.logits, expected.logits), `eager ${eager}`).toBe(0);
        expect(found.replays).toBe(expected.replays);
        expect(found.replays).toBeGreaterThan(0);
        expect(found.weights).toBeLessThan(expected.weights);
      }
    },
  );

  it('other bytes come of waits that are missing: the test above can fail', async (context) => {
    here(context);
    const decoder = tinyDecoder(HQQ4);
    const expected = await steps(decoder, {});
    for (const eager of [0b01, 0b10]) {
      const found = await steps(decoder, { offloadMeta: true, settings: { eager, deaf: 1 } });
      expect(Buffer.compare(found.logits, expected.logits), `eager ${eager}`).not.toBe(0);
    }
  });

  it('come once a step each, on a stream of their own, but for a table of embeddings', async (context) => {
    here(context);
    const copies = join(dir, 'step-copies');
    const decoder = tinyDecoder(HQQ4);
    pretend({ copies });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    const linears: QuantizedLinear[] = [];
    for (const [i, { use }] of decoder.program.linears.entries())
      linears.push(await backend.prepare(decoder.weights[i]!, { use, offloadMeta: true }));
    using executable = await backend.compile(decoder.program, linears, { contextLength: 16 });
    const id = executable.open();
    const before = readFileSync(copies, 'utf8').length;
    await executable.step([{ id, tokens: Uint32Array.of(1, 2, 3) }]);
    const lines = readFileSync(copies, 'utf8').slice(before).trim().split('\n');
    // f16 scales and zeros of groups of 32, each filled up to 16 bytes: q, k, v, o; gate, up, down. In the order in which they are needed.
    const small = (2 * 2 * 64 * 64) / 32;
    expect(lines.filter((line) => line.endsWith(' 1'))).toEqual([...Array(4).fill(`up ${small} 1`), ...Array(3).fill(`up ${2 * small} 1`)]);
  });

  it('are not brought for a step that has no use for them: the head where no outputs are asked for', async (context) => {
    here(context);
    const copies = join(dir, 'head-copies');
    const decoder = tinyDecoder(HQQ4, { head: true });
    const run = async (settings: Parameters<typeof pretend>[0], options: CudaOptions) => {
      pretend(settings);
      await using backend = await cuda({ driver: FAKE_DRIVER, ...options }).open();
      const linears: QuantizedLinear[] = [];
      for (const [i, { use }] of decoder.program.linears.entries()) linears.push(await backend.prepare(decoder.weights[i]!, { use }));
      using executable = await backend.compile(decoder.program, linears, { contextLength: 16 });
      const id = executable.open();
      const brought: number[] = [];
      const logits: Uint8Array[] = [];
      // As they come, and from recordings; with outputs and without.
      for (const wanted of [[0], [], [0], [], [0], []]) {
        const before = settings?.copies ? readFileSync(copies, 'utf8').length : 0;
        const { logits: rows } = await executable.step([{ id, tokens: Uint32Array.of(5), wanted: Uint32Array.from(wanted) }]);
        logits.push(rows!.data);
        const lines = settings?.copies ? readFileSync(copies, 'utf8').slice(before).trim().split('\n') : [];
        brought.push(lines.filter((line) => line.endsWith(' 1')).length);
      }
      return { brought, logits: Buffer.concat(logits), replays: (executable as CudaExecutable).replays };
    };
    const expected = await run({}, {});
    expect(expected.logits.byteLength).toBe(3 * 32 * 4);
    for (const eager of [0b01, 0b10]) {
      rmSync(copies, { force: true });
      const { brought, logits, replays } = await run({ eager, copies }, { weightMemory: 0 });
      // q, k, v, o, gate, up, down, and the head; what is recorded is enqueued once, and then no more.
      expect(brought).toEqual([8, 7, 8, 7, 0, 0]);
      expect(replays).toBe(4);
      expect(Buffer.compare(logits, expected.logits), `eager ${eager}`).toBe(0);
    }
  });

  it.for([0b00, 0b01, 0b10])(
    'that were on their way when a launch failed do no harm to the next step, with streams %i early',
    async (eager, context) => {
      here(context);
      const log = join(dir, `failing-launches-${eager}`);
      const launches = (): number => (existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').length : 0);
      const decoder = tinyDecoder(HQQ4);
      const run = async (settings: Parameters<typeof pretend>[0], options: CudaOptions, hasMore: boolean) => {
        pretend(settings);
        await using backend = await cuda({ driver: FAKE_DRIVER, ...options }).open();
        const linears: QuantizedLinear[] = [];
        for (const [i, { use }] of decoder.program.linears.entries()) linears.push(await backend.prepare(decoder.weights[i]!, { use }));
        using executable = await backend.compile(decoder.program, linears, { contextLength: 16 });
        const id = executable.open();
        const step = async (...tokens: number[]) => (await executable.step([{ id, tokens: Uint32Array.from(tokens) }])).logits!.data;
        // Of three tokens first, so that there is room for all; then twice of one, the second time recorded.
        for (const tokens of [[3, 1, 4], [1], [5]]) await step(...tokens);
        const before = launches();
        const error = hasMore ? await step(9, 2).catch(({ code }: { code: string }) => code) : undefined;
        const count = launches() - before;
        if (error !== undefined && typeof error !== 'string') executable.truncate(id, 5);
        return { logits: await step(6), before, count, error };
      };
      const { logits: expected } = await run({}, {}, false);
      // As many calls as launches: nothing was played again yet.
      const { before, count } = await run({ eager, log }, { weightMemory: 0 }, true);
      expect(count).toBeGreaterThan(4);
      for (const call of [before + 2, before + count]) {
        const { logits, error } = await run({ eager, fail: `cuLaunchKernel/700/${call}` }, { weightMemory: 0 }, true);
        expect(error).toBe('ERR_DEVICE');
        expect(Buffer.compare(logits, expected), `call ${call}`).toBe(0);
      }
    },
  );

  it('take two slots of the largest that is needed at once, which `measure` knows', async (context) => {
    here(context);
    const { program, weights } = tinyDecoder(HQQ4);
    const requests = program.linears.map(({ shape, use }, i) => ({ format: weights[i]!.format, shape, use }));
    const size = { contextLength: 16, sequences: 1, tokens: 3, outputs: 1, encoder: 0 };
    for (const [offloadMeta, options] of [
      [true, {}],
      [false, { weightMemory: 0 }],
      [true, { weightMemory: 12_000 }],
    ] as const) {
      pretend();
      await using backend = await cuda({ driver: FAKE_DRIVER, ...options }).open();
      const said = backend.measure!(
        program,
        requests.map((request) => ({ ...request, offloadMeta })),
        size,
      );
      const linears: QuantizedLinear[] = [];
      for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use, offloadMeta }));
      const held = backend.allocated();
      using _executable = await backend.compile(program, linears, { contextLength: 16 });
      expect(backend.allocated() - held).toBe(said.constants);
      for (const linear of linears) linear[Symbol.dispose]();
    }
  });

  it('are refused a limit that is no number', () => {
    for (const weightMemory of [-1, Number.NaN, '6GB' as never]) {
      expect(() => cuda({ weightMemory })).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    }
  });
});
