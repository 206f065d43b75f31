import type { Op, OpOf, Program, Rope } from '@lowbit/core';
import { float32Tensor, LowbitError, validateProgram } from '@lowbit/core';
import { decoderCase, programCases } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { ProgramBuilder } from './builder.ts';
import { cutProgram } from './cut.ts';

function caught(body: () => unknown): LowbitError {
  try {
    body();
  } catch (error) {
    if (error instanceof LowbitError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const decoder = (): Program => decoderCase().test.program;
const change = (program: Program, name: Op['op'], edit: (op: never) => object): Program => {
  const at = program.ops.findIndex(({ op }) => op === name);
  return { ...program, ops: program.ops.map((op, i) => (i === at ? ({ ...op, ...edit(op as never) } as Op) : op)) };
};

describe('validateProgram', () => {
  it('passes every program of the kit, and their clones', () => {
    for (const { test } of programCases()) validateProgram(structuredClone(test.program));
  });

  it.each<[string, RegExp, (program: Program) => Program]>([
    ['a tensor that is not there', /there is no tensor|read before/, (p) => change(p, 'norm', () => ({ x: 9999 }))],
    ['a linear that is not there', /there is no linear 99/, (p) => change(p, 'linear', () => ({ weight: 99 }))],
    ['a constant that is not there', /there is no constant 99/, (p) => change(p, 'norm', () => ({ weight: 99 }))],
    ['a rope that is not there', /there is no rope 7/, (p) => change(p, 'rope', () => ({ rope: 7 }))],
    ['a cache that is not there', /there is no cache 7/, (p) => change(p, 'attend', () => ({ cache: 7 }))],
    ['a negative index', /there is no linear -1/, (p) => change(p, 'linear', () => ({ weight: -1 }))],
    ['a fractional index', /there is no linear 0.5/, (p) => change(p, 'linear', () => ({ weight: 0.5 }))],
    ['layers out of order', /layer 1 after layer|layer 0 after layer 1/, (p) => change(p, 'norm', () => ({ layer: 1 }))],
    [
      'a layer beyond the last',
      /layer 9 after layer/,
      (p) => ({ ...p, ops: p.ops.map((op, i) => (i === p.ops.length - 1 ? { ...op, layer: 9 } : op)) }),
    ],
    ['a tensor made twice', /made twice/, (p) => ({ ...p, ops: p.ops.flatMap((op, i) => (i === 1 ? [op, op] : [op])) })],
    [
      'a width that does not fit',
      /takes 32 inputs, x has 5|declared/,
      (p) => ({ ...p, tensors: p.tensors.map((t, i) => (i === 1 ? { ...t, width: 5 } : t)) }),
    ],
    [
      'a wrong declared domain',
      /declared outputs/,
      (p) => ({ ...p, tensors: p.tensors.map((t, i) => (i === 1 ? { ...t, rows: 'outputs' as const } : t)) }),
    ],
    ['heads that do not divide', /heads/, (p) => change(p, 'rope', () => ({ heads: 5 }))],
    ['a rotation wider than a head', /cannot rotate/, (p) => change(p, 'rope', () => ({ dim: 64 }))],
    ['frequencies for another width', /frequencies/, (p) => change(p, 'rope', () => ({ dim: 4 }))],
    ['half a head', /heads 0.5 is no whole number from 1/, (p) => change(p, 'rope', () => ({ heads: 0.5 }))],
    ['groups below one', /groups -1 is no whole number from 1/, (p) => change(p, 'norm', () => ({ groups: -1 }))],
    ['no groups', /groups 0 is no/, (p) => change(p, 'norm', () => ({ groups: 0 }))],
    ['half a group', /groups 0.5 is no/, (p) => change(p, 'norm', () => ({ groups: 0.5 }))],
    ['negative heads', /heads -4 is no/, (p) => change(p, 'attend', (op: OpOf<'attend'>) => ({ heads: -op.heads, keyDim: -op.keyDim }))],
    ['broken key heads', /kvHeads 1.5 is no/, (p) => change(p, 'attend', () => ({ kvHeads: 1.5 }))],
    ['no values', /valueDim 0 is no/, (p) => change(p, 'attend', () => ({ valueDim: 0 }))],
    ['keys without values', /go together/, (p) => change(p, 'attend', () => ({ v: undefined }))],
    ['another cache shape', /cache holds/, (p) => ({ ...p, caches: p.caches.map((c) => ({ ...c, heads: 3 })) })],
    ['a cache that nothing fills', /never filled/, (p) => ({ ...p, caches: [...p.caches, p.caches[0]!] })],
    ['a cache filled twice', /is filled by op/, (p) => ({ ...p, ops: p.ops.map((op) => (op.op === 'attend' ? { ...op, cache: 0 } : op)) })],
    ['a window of nothing', /window 0/, (p) => change(p, 'attend', () => ({ window: 0 }))],
    ['more experts chosen than there are', /topK 9/, (p) => change(p, 'route', () => ({ topK: 9 }))],
    [
      'an expert too few',
      /4 experts for a router of 5/,
      (p) => change(p, 'expertLinear', (op: { linears: number[] }) => ({ linears: op.linears.slice(1) })),
    ],
    ['a linear that nothing uses', /never used/, (p) => ({ ...p, linears: [...p.linears, p.linears[0]!] })],
    [
      'an embedding used as a linear',
      /declared as linear and used as embedding/,
      (p) => ({ ...p, linears: p.linears.map((l) => ({ ...l, use: 'linear' as const })) }),
    ],
    ['an output that is never made', /never made/, (p) => ({ ...p, outputs: { logits: 9999 } })],
    [
      'a constant with missing bytes',
      /constant 0 has/,
      (p) => ({ ...p, constants: p.constants.map((c) => ({ ...c, data: c.data.subarray(1) })) }),
    ],
    [
      'a bias of another length',
      /bias is/,
      (p) => ({ ...p, linears: p.linears.map((l) => (l.bias === undefined ? l : { ...l, shape: [l.shape[0] + 1, l.shape[1]] as const })) }),
    ],
  ])('refuses %s', (_, message, edit) => {
    const error = caught(() => validateProgram(edit(decoder())));
    expect(error.code).toBe('ERR_BAD_ARGUMENT');
    expect(error.message).toMatch(message);
  });

  it('refuses places outside of a table or a row', () => {
    const b = new ProgramBuilder({ layers: 0 });
    const x = b.input('x', { width: 4 });
    const table = b.addConstant(float32Tensor([2, 4], [1, 2, 3, 4, 5, 6, 7, 8]));
    b.output('out', b.slice(b.positionEmbed(x, table), { groups: 2, offset: 0, width: 1 }));
    const program = b.build();
    validateProgram(program);
    for (const offset of [-1, 0.5, Number.NaN]) {
      for (const name of ['positionEmbed', 'slice'] as const) {
        const { code, message } = caught(() => validateProgram(change(program, name, () => ({ offset }))));
        expect(code).toBe('ERR_BAD_ARGUMENT');
        expect(message).toContain(`offset ${offset} is no whole number from 0`);
      }
    }
    for (const edit of [{ groups: -2 }, { groups: 0.5 }, { width: 0 }, { width: 1.5 }]) {
      expect(caught(() => validateProgram(change(program, 'slice', () => edit))).message).toContain('is no whole number from 1');
    }
  });

  it('refuses buckets and lengths that count nothing', () => {
    const b = new ProgramBuilder({ layers: 0 });
    const x = b.input('x', { width: 4 });
    const rope = b.addRope({ kind: 'long', short: [1, 1], long: [1, 1], original: 8, scale: 1 });
    const turned = b.rope(x, { rope, heads: 1, dim: 4, style: 'half' });
    const table = b.addConstant(float32Tensor([4, 1], [1, 2, 3, 4]));
    const bias = { kind: 'relative', table, buckets: 4, maxDistance: 16, bidirectional: false } as const;
    b.output('out', b.attend(turned, { k: x, v: x, heads: 1, keyDim: 4, scale: 1, bias }));
    const program = b.build();
    validateProgram(program);
    for (const edit of [{ buckets: -4 }, { buckets: 3.5 }, { maxDistance: Number.POSITIVE_INFINITY }]) {
      const changed = change(program, 'attend', () => ({ bias: { ...bias, ...edit } }));
      expect(caught(() => validateProgram(changed)).message).toContain('is no whole number from 1');
    }
    const ropes = [{ ...program.ropes[0]!, original: -1 } as Rope];
    expect(caught(() => validateProgram({ ...program, ropes })).message).toContain('original length -1 is no whole number from 1');
  });

  it('names the operation', () => {
    const error = caught(() => validateProgram(change(decoder(), 'attend', () => ({ window: 0 }))));
    const at = decoder().ops.findIndex(({ op }) => op === 'attend');
    expect(error.details).toMatchObject({ op: at, name: 'attend' });
    expect(error.message).toContain(`op ${at} (attend)`);
  });
});

describe('ProgramBuilder', () => {
  it('infers widths and domains', () => {
    const b = new ProgramBuilder({ layers: 1 });
    const x = b.embed(b.addLinear('e', [10, 8], { use: 'both' }));
    expect(b.tensor(x)).toEqual({ rows: 'tokens', width: 8, dtype: 'f32' });
    b.layer = 0;
    const y = b.linear(x, b.addLinear('up', [20, 8]));
    expect(b.tensor(b.slice(y, { groups: 2, offset: 5, width: 5 })).width).toBe(10);
    expect(b.tensor(b.select(y)).rows).toBe('outputs');
    const { ids, weights } = b.route(b.linear(x, b.addLinear('router', [4, 8])), { topK: 2, scoring: 'softmax', normalize: true });
    expect(b.tensor(ids)).toEqual({ rows: 'tokens', width: 2, dtype: 'i32' });
    const z = b.expertLinear(
      x,
      ids,
      [0, 1, 2, 3].map((i) => b.addLinear(`x.${i}`, [8, 8])),
    );
    expect(b.tensor(z)).toEqual({ rows: 'routed', width: 8, dtype: 'f32' });
    expect(b.tensor(b.combine(z, weights))).toEqual({ rows: 'tokens', width: 8, dtype: 'f32' });
    b.output('out', y);
    const program = b.build();
    expect(program.linears.map(({ layer }) => layer)).toEqual([-1, 0, 0, 0, 0, 0, 0]);
    expect(structuredClone(program)).toEqual(program);
  });

  it('refuses at once, with the index', () => {
    const b = new ProgramBuilder({ layers: 1 });
    const x = b.input('x', { width: 6 });
    expect(caught(() => b.slice(x, { offset: 4, width: 3 }))).toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      details: { op: 1, name: 'slice' },
    });
    expect(caught(() => b.linear(x, b.addLinear('w', [3, 7]))).message).toContain('w takes 7 inputs, x has 6');
    // a refused operation leaves the builder usable
    b.output('out', b.scale(x, 2));
    expect(caught(() => b.build()).message).toContain('never used');
  });

  it('leaves out what is undefined', () => {
    const b = new ProgramBuilder({ layers: 0 });
    b.norm(b.input('x', { width: 6 }), { kind: 'rms', eps: 0, weight: undefined });
    expect(Object.keys(b.build().ops[1]!)).not.toContain('weight');
  });
});

describe('cutProgram', () => {
  it('splits tables with index maps', () => {
    const program = decoder();
    const [first, second] = cutProgram(program, [1, 1]);
    expect(first!.program.layers).toBe(1);
    expect(first!.takes).toEqual([]);
    expect(second!.takes).toEqual(first!.gives);
    expect(first!.gives).toHaveLength(1);
    expect(first!.caches).toEqual([0]);
    expect(second!.caches).toEqual([1]);
    // the tied table is in both, as what each uses it for
    expect(first!.linears).toContain(0);
    expect(second!.linears).toContain(0);
    expect(first!.program.linears[first!.linears.indexOf(0)]).toMatchObject({ use: 'embedding', layer: -1 });
    expect(second!.program.linears[second!.linears.indexOf(0)]).toMatchObject({ use: 'linear', layer: -1 });
    for (const piece of [first!, second!]) {
      for (const [i, index] of piece.linears.entries()) {
        const { bias, ...own } = piece.program.linears[i]!;
        expect(own).toMatchObject({ path: program.linears[index]!.path, shape: program.linears[index]!.shape });
        if (bias !== undefined) expect(piece.program.constants[bias]).toBe(program.constants[program.linears[index]!.bias!]);
      }
    }
    expect(Object.keys(first!.program.outputs)).toEqual(['hidden.1', ...first!.gives]);
    expect(Object.keys(second!.program.outputs)).toEqual(['hidden.2', 'logits']);
    expect(new Set([...first!.linears, ...second!.linears]).size).toBe(program.linears.length);
  });

  it('with counts of 0 parts embedding and head from the layers', () => {
    const pieces = cutProgram(decoder(), [0, 1, 1, 0]);
    expect(
      pieces.map(({ program }) => program.ops.filter(({ op }) => op !== 'input').map(({ layer }) => layer)).map((l) => [l[0], l.at(-1)]),
    ).toEqual([
      [-1, -1],
      [0, 0],
      [0, 0],
      [0, 0],
    ]);
    expect(pieces[0]!.program.ops.map(({ op }) => op)).toEqual(['embed']);
    expect(pieces[3]!.program.ops.at(-1)!.op).toBe('softcap');
  });

  it('one piece is the whole', () => {
    const [piece, ...rest] = cutProgram(decoder(), [2]);
    expect(rest).toEqual([]);
    expect(piece!.program.ops).toHaveLength(decoder().ops.length);
  });

  it('refuses counts that do not add up, and cuts through what cannot travel', () => {
    for (const counts of [[1], [1, 2], [], [3, -1], [1.5, 0.5]])
      expect(caught(() => cutProgram(decoder(), counts)).code).toBe('ERR_BAD_ARGUMENT');
    const shared = new ProgramBuilder({ layers: 2 });
    const x = shared.input('x', { width: 4 });
    shared.layer = 0;
    const cache = shared.addCache({ heads: 1, keyDim: 4, valueDim: 4 });
    const y = shared.attend(x, { k: x, v: x, cache, heads: 1, keyDim: 4, scale: 1 });
    shared.layer = 1;
    shared.output('out', shared.attend(y, { cache, heads: 1, keyDim: 4, scale: 1 }));
    expect(caught(() => cutProgram(shared.build(), [1, 1])).message).toMatch(/part cache 0/);
    const routed = new ProgramBuilder({ layers: 2 });
    routed.layer = 0;
    const r = routed.input('x', { width: 4 });
    const { ids, weights } = routed.route(r, { topK: 1, scoring: 'softmax', normalize: false });
    routed.layer = 1;
    const experts = [0, 1, 2, 3].map((i) => routed.addLinear(`${i}`, [4, 4]));
    routed.output('out', routed.combine(routed.expertLinear(r, ids, experts), weights));
    expect(caught(() => cutProgram(routed.build(), [1, 1])).message).toMatch(/expert ids/);
  });

  it('keeps a tensor that skips a piece out of that piece', () => {
    const b = new ProgramBuilder({ layers: 3 });
    const x = b.input('x', { width: 2 });
    const table = b.addConstant(float32Tensor([2], [1, 2]));
    b.layer = 0;
    const y = b.scale(x, 2);
    b.layer = 1;
    const z = b.norm(y, { kind: 'rms', eps: 1, weight: table });
    b.layer = 2;
    b.output('out', b.add(z, x));
    const pieces = cutProgram(b.build(), [1, 1, 1]);
    expect(pieces.map(({ takes }) => takes)).toEqual([[], [`cut.${y}`], [`cut.${z}`, `cut.${x}`]]);
  });
});
