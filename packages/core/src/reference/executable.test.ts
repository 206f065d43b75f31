import { ProgramBuilder } from '@lowbit/program';
import { decoderCase, prepareWeights, sampleWeight, seededTensor } from '@lowbit/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SequenceId } from '../spec/backend.ts';
import { isLowbitError } from '../spec/errors.ts';
import { referenceBackend } from './index.ts';

const one = decoderCase();

describe('a step that does not end', () => {
  it('leaves the caches as they were when it is aborted half-way, and takes nothing', async () => {
    await using backend = await referenceBackend().open();
    // Enough work for several breaths: 60 attentions over 512 tokens.
    const b = new ProgramBuilder({ layers: 1 });
    let x = b.input('x', { width: 64 });
    b.layer = 0;
    for (let i = 0; i < 60; i++) {
      const cache = b.addCache({ heads: 4, keyDim: 16, valueDim: 16 });
      x = b.attend(x, { k: x, v: x, cache, heads: 4, keyDim: 16, scale: 0.25 });
    }
    b.output('out', x);
    using executable = await backend.compile(b.build(), [], { contextLength: 1024 });
    const id = executable.open();
    const rows = (count: number): object => ({ id, tokens: new Uint32Array(count), inputs: { x: seededTensor(1, [count, 64]) } });
    await executable.step([rows(3) as never]);
    const before = { allocated: backend.allocated(), ...executable.memory() };
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 5);
    await expect(executable.step([rows(512) as never], { signal: controller.signal })).rejects.toThrow('enough');
    expect({ allocated: backend.allocated(), ...executable.memory() }).toEqual(before);
    expect(executable.length(id)).toBe(3);
    const after = await executable.step([rows(2) as never]);
    const fresh = executable.open();
    await executable.step([{ ...rows(3), id: fresh } as never]);
    expect(await executable.step([{ ...rows(2), id: fresh } as never])).toEqual(after);
    // disposing while it runs
    const stopped = executable.step([rows(512) as never]);
    executable[Symbol.dispose]();
    await expect(stopped).rejects.toMatchObject({ code: 'ERR_DISPOSED' });
    expect(backend.allocated()).toBe(0);
  });

  it('refuses anything else meanwhile', async () => {
    await using backend = await referenceBackend().open();
    const linears = await prepareWeights(backend, one.test);
    const executable = await backend.compile(one.test.program, linears, { contextLength: 16 });
    const id = executable.open();
    const running = executable.step([{ id, tokens: Uint32Array.of(1) }]);
    for (const call of [() => executable.close(id), () => executable.truncate(id, 0), () => executable.fork(id)]) {
      expect(call).toThrow('a step is running');
    }
    await expect(executable.step([{ id, tokens: Uint32Array.of(1) }])).rejects.toThrow('a step is running');
    await running;
    executable.close(id);
  });
});

describe('sequences', () => {
  it('behave as plain lists of tokens, whatever is done with them', async () => {
    await using backend = await referenceBackend().open();
    const linears = await prepareWeights(backend, one.test);
    using executable = await backend.compile(one.test.program, linears, { contextLength: 64, maxSequences: 32 });
    const idle = backend.allocated();
    const logits = async (id: SequenceId, tokens: readonly number[]): Promise<Uint8Array> =>
      (await executable.step([{ id, tokens: Uint32Array.from(tokens) }])).logits!.data;
    const move = fc.record({
      kind: fc.constantFrom('feed', 'feed', 'fork', 'truncate', 'close'),
      pick: fc.nat(9),
      size: fc.integer({ min: 1, max: 5 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(move, { maxLength: 14 }), async (moves) => {
        const model = new Map<SequenceId, number[]>([[executable.open(), []]]);
        for (const { kind, pick, size } of moves) {
          const [id, tokens] = [...model][pick % model.size]!;
          if (kind === 'feed' && tokens.length < 40) {
            const fed = Array.from({ length: size }, (_, i) => (pick * 7 + i * 5) % 19);
            tokens.push(...fed);
            const fresh = executable.open();
            expect(await logits(id, fed)).toEqual(await logits(fresh, tokens));
            executable.close(fresh);
          } else if (kind === 'fork' && model.size < 5) model.set(executable.fork(id), [...tokens]);
          else if (kind === 'truncate') {
            tokens.length = Math.floor(tokens.length / size);
            executable.truncate(id, tokens.length);
          } else if (kind === 'close' && model.size > 1) {
            executable.close(id);
            model.delete(id);
          }
          for (const [each, list] of model) expect(executable.length(each)).toBe(list.length);
        }
        for (const id of model.keys()) executable.close(id);
        expect(backend.allocated()).toBe(idle);
      }),
      { numRuns: 25 },
    );
  });
});

describe('the lists of a step', () => {
  it('are indices: what is negative, broken or no number is refused, and nothing has changed', async () => {
    await using backend = await referenceBackend().open();
    const b = new ProgramBuilder({ layers: 0 });
    const x = b.inject(b.embed(b.addLinear('e', [19, 8], { use: 'embedding' })), 'image');
    b.output('out', b.select(x));
    using linear = await backend.prepare(sampleWeight({ kind: 'dense', dtype: 'f32' }, [19, 8]));
    using executable = await backend.compile(b.build(), [linear], { contextLength: 16 });
    const id = executable.open();
    const tokens = Uint32Array.of(1, 2, 3);
    const bad: readonly (readonly number[])[] = [[-1], [0.5], [Number.NaN], [-2, 1], [19], ['1' as never]];
    for (const list of bad) {
      const rows = seededTensor(1, [list.length, 8]);
      for (const array of [list, ...(typeof list[0] === 'number' && list.every(Number.isInteger) ? [Int32Array.from(list)] : [])]) {
        const given = array as never;
        for (const [what, step] of [
          ['token', { id, tokens: given }],
          ['wanted', { id, tokens, wanted: given }],
          ['injection', { id, tokens, injections: { image: { at: given, rows } } }],
        ] as const) {
          const message = `${what} of ${String(list)}`;
          await expect(executable.step([step]), message).rejects.toMatchObject({
            code: 'ERR_BAD_ARGUMENT',
            message: expect.stringContaining(what),
          });
        }
      }
    }
    expect(executable.length(id)).toBe(0);
    await executable.step([{ id, tokens }]);
  });

  it('hold for programs without a vocabulary, too', async () => {
    await using backend = await referenceBackend().open();
    const b = new ProgramBuilder({ layers: 0 });
    b.output('out', b.scale(b.input('x', { width: 4 }), 2));
    using executable = await backend.compile(b.build(), [], { contextLength: 16 });
    const step = { id: executable.open(), tokens: Int32Array.of(-1) as never, inputs: { x: seededTensor(1, [1, 4]) } };
    await expect(executable.step([step])).rejects.toThrow('token -1 is no whole number from 0');
  });
});

describe('compile', () => {
  it('refuses linears that do not fit the program', async () => {
    await using backend = await referenceBackend().open();
    await using other = await referenceBackend().open();
    const linears = await prepareWeights(backend, one.test);
    const foreign = await prepareWeights(other, one.test);
    const compile = (list: typeof linears): Promise<unknown> => backend.compile(one.test.program, list, { contextLength: 8 });
    await expect(compile(foreign)).rejects.toThrow('does not hold');
    await expect(compile([...linears].reverse())).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    const biased = one.test.program.linears.findIndex(({ bias }) => bias !== undefined);
    const { path, use } = one.test.program.linears[biased]!;
    const without = await backend.prepare(one.test.weights.get(path)!, { use });
    await expect(compile(linears.with(biased, without))).rejects.toThrow('prepared without');
    linears[3]![Symbol.dispose]();
    await expect(compile(linears)).rejects.toThrow('does not hold');
  });

  it('a disposed linear stops the step that needs it', async () => {
    await using backend = await referenceBackend().open();
    const linears = await prepareWeights(backend, one.test);
    const executable = await backend.compile(one.test.program, linears, { contextLength: 8 });
    linears[4]![Symbol.dispose]();
    const error: unknown = await executable.step([{ id: executable.open(), tokens: Uint32Array.of(1) }]).catch((reason: unknown) => reason);
    expect(isLowbitError(error, 'ERR_DISPOSED') && error.message).toContain("backend 'reference'");
  });
});

describe('prepare', () => {
  it('copies: the caller may reuse its bytes', async () => {
    await using backend = await referenceBackend().open();
    for (const format of [
      { kind: 'dense', dtype: 'bf16' } as const,
      { kind: 'affine', levels: 256, group: null, axis: 0, scale: 'f16', zero: 'f16', packing: '8bit_u8' } as const,
      { kind: 'affine', levels: 16, group: 8, axis: 1, scale: 'f32', zero: 'f32', packing: '4bit_u8' } as const,
      { kind: 'codebook', bits: 4, dim: 1, group: 8, table: 't', scale: 'f32', packing: 'bnb_nibble' } as const,
    ]) {
      const weight = sampleWeight(format, [8, 16]);
      const linear = await backend.prepare(weight);
      const before = await linear.dequantize();
      for (const { data } of Object.values(weight.parts)) data.fill(0);
      expect(await linear.dequantize()).toEqual(before);
    }
  });
});
