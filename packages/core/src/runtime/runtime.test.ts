import { decoderCase, sampleWeight, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { denseCodec } from '../codecs/index.ts';
import { referenceBackend } from '../reference/index.ts';
import { createRuntime, formatExplanation, formatLabel } from '../runtime.ts';
import type { Backend, BackendProvider } from '../spec/backend.ts';
import { isLowbitError, type LowbitError } from '../spec/errors.ts';
import type { Format, FormatCodec } from '../spec/format.ts';

const DENSE: Format = { kind: 'dense', dtype: 'f32' };
const NF4: Format = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };

async function caught(body: () => unknown): Promise<LowbitError> {
  try {
    await body();
  } catch (error) {
    if (isLowbitError(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

/** The reference under another name, with some methods replaced; counts how often it is opened, and keeps what it opened. */
function named(name: string, change: (backend: Backend) => Partial<Backend> = () => ({})): BackendProvider & { opened: Backend[] } {
  const provider = referenceBackend({ name });
  const opened: Backend[] = [];
  return {
    ...provider,
    opened,
    open: async () => {
      const backend = await provider.open();
      opened.push(backend);
      const changes = change(backend);
      return new Proxy(backend, {
        get(target, key) {
          const own = changes[key as keyof Backend];
          const value = own ?? target[key as keyof Backend];
          return typeof value === 'function' && own === undefined ? value.bind(target) : value;
        },
      });
    },
  };
}

const denseOnly = (name: string): ReturnType<typeof named> =>
  named(name, (backend) => ({
    supports: (request) => (request.format.kind === 'dense' ? backend.supports(request) : { level: 'none', reason: 'dense weights only' }),
  }));
const absent: BackendProvider = {
  ...referenceBackend({ name: 'absent' }),
  probe: async () => ({ ok: false, reason: 'no such device', hint: 'Buy one.' }),
};

const one = decoderCase();
describe('createRuntime', () => {
  it('opens the first that is available, others when asked', async () => {
    const [a, b] = [named('a'), named('b')];
    await using runtime = await createRuntime({ backends: [absent, a, b] });
    expect([a.opened.length, b.opened.length]).toEqual([1, 0]);
    expect((await runtime.backend()).name).toBe('a');
    expect((await runtime.backend('b')).name).toBe('b');
    await runtime.backend('b');
    expect([a.opened.length, b.opened.length]).toEqual([1, 1]);
    expect(runtime.backends).toEqual(['absent', 'a', 'b']);
  });

  it('says why nothing is available', async () => {
    const throwing: BackendProvider = { ...named('throwing'), probe: () => Promise.reject(new Error('driver is too old')) };
    const closed: BackendProvider = { ...named('closed'), open: () => Promise.reject(new Error('out of memory')) };
    const error = await caught(() => createRuntime({ backends: [absent, throwing, closed] }));
    expect(error.code).toBe('ERR_BACKEND_UNAVAILABLE');
    for (const words of ['no such device', 'Buy one.', 'driver is too old', 'out of memory']) expect(error.message).toContain(words);
    expect(error.hint).toBe('Buy one.');
    expect((await caught(() => createRuntime({ backends: [] }))).code).toBe('ERR_BACKEND_UNAVAILABLE');
    expect((await caught(() => createRuntime({ backends: [named('a'), named('a')] }))).code).toBe('ERR_BAD_ARGUMENT');
  });

  it('disposes what it opened', async () => {
    const a = named('a');
    const runtime = await createRuntime({ backends: [a] });
    const linear = await runtime.linear(sampleWeight(DENSE, [4, 4]));
    await runtime[Symbol.asyncDispose]();
    expect(a.opened[0]!.allocated()).toBe(0);
    expect((await caught(() => linear.dequantize())).code).toBe('ERR_DISPOSED');
    expect((await caught(() => runtime.backend())).code).toBe('ERR_DISPOSED');
  });
});

describe('explain and select', () => {
  it('takes the first that supports everything', async () => {
    await using runtime = await createRuntime({ backends: [absent, denseOnly('dense'), named('all')] });
    expect((await runtime.select([{ format: DENSE, shape: [8, 64] }])).name).toBe('dense');
    expect(
      (
        await runtime.select([
          { format: DENSE, shape: [8, 64] },
          { format: NF4, shape: [8, 64] },
        ])
      ).name,
    ).toBe('all');
    const table = await runtime.explain(
      [
        { format: DENSE, shape: [8, 64] },
        { format: NF4, shape: [8, 64] },
        { format: NF4, shape: [8, 64] },
      ],
      one.test.program,
    );
    expect(table.map(({ backend, available }) => [backend, available])).toEqual([
      ['absent', false],
      ['dense', true],
      ['all', true],
    ]);
    expect(table[1]!.linears.map(({ support }) => support.level)).toEqual(['native', 'none', 'none']);
    expect(table[2]!.linears[1]!.support).toMatchObject({ level: 'repack', bytes: 8 * 32 + 8 * 4 + 64 });
    const text = formatExplanation(table);
    expect(text).toContain('absent: not available: no such device (Buy one.)');
    expect(text).toContain('2 x nf4 g64 [8, 64] linear: none: dense weights only');
  });

  it('has a few words for every format', () => {
    const affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
    expect(
      [
        affine,
        { ...affine, axis: 0 } as const,
        { ...affine, levels: 3, group: null } as const,
        { ...affine, levels: 256, group: null, axis: 0 } as const,
        { ...affine, scale: affine },
        NF4,
        { ...NF4, scale: affine } as Format,
        DENSE,
        { kind: 'acme:ones', params: {} } as const,
      ].map(formatLabel),
    ).toEqual([
      '4-bit g64',
      '4-bit g64 axis 0',
      '1.58-bit per row',
      '8-bit per column',
      '4-bit g64 nested',
      'nf4 g64',
      'nf4 g64 nested',
      'f32',
      'acme:ones',
    ]);
  });

  it('counts missing operations', async () => {
    const weights = named('weights', () => ({ ops: new Set(['linear'] as const) }));
    await using runtime = await createRuntime({ backends: [weights, named('all')] });
    expect((await runtime.select([], one.test.program)).name).toBe('all');
    expect((await runtime.explain([], one.test.program))[0]!.missingOps).toContain('attend');
    await using alone = await createRuntime({ backends: [weights] });
    expect((await caught(() => alone.select([], one.test.program))).code).toBe('ERR_BACKEND_UNAVAILABLE');
  });

  it('expands to floats only if allowed', async () => {
    const expanding = named('expanding', () => ({
      supports: ({ format }) => (format.kind === 'dense' ? { level: 'native', bytes: 1 } : { level: 'dequant', bytes: 9 }),
    }));
    await using strict = await createRuntime({ backends: [expanding] });
    const error = await caught(() => strict.select([{ format: NF4, shape: [8, 64] }]));
    expect(error.code).toBe('ERR_UNSUPPORTED_FORMAT');
    expect(error.hint).toContain('allowDequant');
    expect(error.message).toContain('nf4 g64 [8, 64] linear: none: only by expanding');
    expect(error.details.explanation).toBeInstanceOf(Array);
    await using lenient = await createRuntime({ backends: [expanding], allowDequant: true });
    expect((await lenient.select([{ format: NF4, shape: [8, 64] }])).name).toBe('expanding');
    expect((await strict.select([{ format: NF4, shape: [8, 64], allowDequant: true }])).name).toBe('expanding');
    const [report] = await strict.explain([{ format: NF4, shape: [8, 64] }]);
    expect(report!.linears).toEqual([
      { request: { format: NF4, shape: [8, 64], use: 'linear' }, support: { level: 'dequant', bytes: 9 }, usable: false },
    ]);
    expect(formatExplanation([report!])).toContain('not allowed (allowDequant)');
  });

  it('hands custom codecs to backends, and finds routines', async () => {
    const custom: Format = { kind: 'half:sum', params: {} };
    const codec: FormatCodec = {
      kind: 'half:sum',
      parts: () => ({ weight: { dtype: 'f32', shape: [2, 2] } }),
      unpackRows: () => seededTensor(1, [2, 2]),
      numbers: () => undefined,
      dequantize: (t, options) =>
        denseCodec.dequantize({ format: { kind: 'dense', dtype: 'f32' }, shape: t.shape, parts: t.parts }, options),
    };
    await using runtime = await createRuntime({ backends: [referenceBackend()], codecs: [codec] });
    using linear = await runtime.linear({ format: custom, shape: [2, 2], parts: { weight: seededTensor(1, [2, 2]) } });
    expect(await linear.dequantize()).toEqual(seededTensor(1, [2, 2]));
    await using plain = await createRuntime({ backends: [referenceBackend()] });
    expect((await caught(() => plain.select([{ format: custom, shape: [2, 2] }]))).message).toContain('half:sum');
    const routine = async (): Promise<readonly []> => [];
    await using fast = await createRuntime({ backends: [named('a', () => ({ routines: new Map([['x', routine]]) }))] });
    expect(fast.routine('x')).toBe(routine);
    expect(fast.routine('y')).toBeUndefined();
  });
});

describe('what is none', () => {
  it.each([
    ['no options', null],
    ['a misspelt name', { backend: [] }],
    ['another', { backends: [referenceBackend()], allowDequantize: true }],
    ['backends that are no list', { backends: 5 }],
    ['two backends of one name', { backends: [referenceBackend(), referenceBackend()] }],
  ])('%s: an error with a hint', async (_, options) => {
    await expect(createRuntime(options as never)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint: expect.stringMatching(/\w/) });
  });

  it('refuses a backend of another version of the contract by its name', async () => {
    const next = { ...referenceBackend({ name: 'next' }), spec: 2 };
    await expect(createRuntime({ backends: [referenceBackend(), next as never] })).rejects.toMatchObject({
      code: 'ERR_BACKEND_UNAVAILABLE',
      message: "backend 'next' keeps version 2 of the contract (spec), this core knows version 1",
      hint: expect.stringMatching(/\w/),
    });
  });

  it('an option of the reference backend that there is not', () => {
    expect(() => referenceBackend({ Threads: 2 } as never)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
    expect(() => referenceBackend(null as never)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});
