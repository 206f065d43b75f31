// What runs together in a step of few rows: exactly how many launches, and the same bytes as one by one.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Format, type Program, type QuantizedTensor, referenceBackend, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { sampleWeight, seededTensor } from '@lowbit/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { CudaBackend, type CudaSettings } from './backend.ts';
import { addon } from './load.node.ts';

const HQQ4: Format = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const HIGGS: Format = {
  ...{ kind: 'codebook', bits: 4, dim: 2, group: 64, table: 't', scale: 'f16', packing: 'u8' },
  rotate: { kind: 'hadamard', block: 64 },
};
/** Codes of so many bits for `dim` numbers each, rotated in runs of `block`. */
const higgs = (bits: number, dim: 1 | 2, block: number, scale: 'f32' | 'f16' | 'bf16', group = 64): Format => ({
  ...{ kind: 'codebook', bits: bits / dim, dim, group, table: 't', scale, packing: bits === 8 ? 'u8' : `row_bits${bits}` },
  rotate: { kind: 'hadamard', block },
});
/** One format, but for the linear of that name. */
const plain =
  (name: string, format: Format) =>
  (of: string): Format =>
    of === name ? HQQ4 : format;
const NF4: Format = { kind: 'codebook', bits: 4, dim: 1, group: 32, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };

interface Shape {
  /** Of all linears, or of each by name. */
  readonly format: Format | ((name: string) => Format);
  readonly attention?: 'rope' | 'normed heads' | 'alibi';
  readonly mlp?: 'gated' | 'plain';
  /** Norms before what they feed, after it, or one for attention and MLP. */
  readonly norms?: 'pre' | 'post' | 'parallel';
  readonly norm?: 'rms' | 'layer';
}

interface Decoder {
  readonly program: Program;
  readonly weights: readonly QuantizedTensor[];
}

/** Two layers of width 64, four heads over two of 32 numbers, an MLP of 96. */
function decoder({ format, attention = 'rope', mlp = 'gated', norms = 'pre', norm = 'rms' }: Shape): Decoder {
  const b = new ProgramBuilder({ layers: 2 });
  const weights: QuantizedTensor[] = [];
  const weight = (name: string, shape: readonly [number, number], use: 'linear' | 'both' = 'linear'): number => {
    weights.push(sampleWeight(typeof format === 'function' ? format(name) : format, shape, 7 + weights.length));
    return b.addLinear(`${weights.length}.${name}`, shape, { use });
  };
  const scales = [64, 32].map((width) => b.addConstant(seededTensor(3, [width], 1)));
  const shift = b.addConstant(seededTensor(4, [64], 0.1));
  const rope = b.addRope({ kind: 'fixed', frequencies: Array.from({ length: 16 }, (_, i) => 100 ** (-i / 16)), scale: 1 });
  const table = weight('embed', [32, 64], 'both');
  const normed = (x: number): number =>
    norm === 'rms'
      ? b.norm(x, { kind: 'rms', eps: 1e-5, weight: scales[0]!, weightOffset: 1 })
      : b.norm(x, { kind: 'layer', eps: 1e-5, weight: scales[0]!, bias: shift });
  const heads = (x: number, count: number): number => {
    if (attention === 'alibi') return x;
    const by = attention === 'normed heads' ? b.norm(x, { kind: 'rms', eps: 1e-6, weight: scales[1]!, groups: count }) : x;
    return b.rope(by, { heads: count, dim: 32, style: 'half', rope });
  };
  let x = b.embed(table);
  for (let layer = 0; layer < 2; layer++) {
    b.layer = layer;
    const h = norms === 'post' ? x : normed(x);
    const [q, k, v] = (['q', 'k', 'v'] as const).map((name) => b.linear(h, weight(name, [name === 'q' ? 128 : 64, 64]))) as [
      number,
      number,
      number,
    ];
    const cache = b.addCache({ heads: 2, keyDim: 32, valueDim: 32 });
    const bias = attention === 'alibi' ? { bias: { kind: 'alibi', slopes: [0.5, 0.2, 0.1, 0.05] } as const } : {};
    const attended = b.attend(heads(q, 4), { k: heads(k, 2), v, cache, heads: 4, kvHeads: 2, keyDim: 32, scale: 0.18, ...bias });
    const o = b.linear(attended, weight('o', [64, 128]));
    const between = norms === 'parallel' ? x : b.add(x, norms === 'post' ? normed(o) : o);
    const m = norms === 'parallel' ? h : norms === 'post' ? between : normed(between);
    const up = b.linear(m, weight('up', [96, 64]));
    const inner = mlp === 'plain' ? b.activate(up, 'gelu') : b.gate(b.linear(m, weight('gate', [96, 64])), up, 'silu');
    const down = b.linear(inner, weight('down', [64, 96]));
    if (norms === 'parallel') x = b.add(b.add(x, o), down, 0.5);
    else x = b.add(between, norms === 'post' ? normed(down) : down);
  }
  b.layer = 2;
  b.output('logits', b.linear(b.select(normed(x)), table));
  return { program: b.build(), weights };
}

const dir = mkdtempSync(join(tmpdir(), 'lowbit-fuse-'));
const log = join(dir, 'launches');
const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');

/** Logits of steps of so many tokens, and the kernels of the last one. */
async function run(
  { program, weights }: Decoder,
  steps: readonly number[],
  settings: Partial<CudaSettings> = {},
): Promise<{ bytes: Buffer; kernels: readonly string[] }> {
  rmSync(log, { force: true });
  pretend({ log });
  const native = addon.load();
  const device = await native.openDevice(FAKE_DRIVER, 0);
  await using backend = new CudaBackend(native, device, {
    name: 'cuda',
    precision: 'exact',
    kvDtype: 'f32',
    fuse: true,
    codecs: [],
    ...settings,
  });
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
  using executable = await backend.compile(program, linears, { contextLength: 64 });
  const id = executable.open();
  const logits: Uint8Array[] = [];
  let before = 0;
  for (const count of steps) {
    before = readFileSync(log, 'utf8').split('\n').length;
    const tokens = Uint32Array.from({ length: count }, (_, i) => (7 * (logits.length + i) + 3) % 32);
    const wanted = Uint32Array.from({ length: count }, (_, i) => i);
    const got = await executable.step([{ id, tokens, wanted }], { outputs: ['logits'] });
    logits.push(got.logits!.data);
  }
  const lines = readFileSync(log, 'utf8')
    .split('\n')
    .slice(before - 1, -1);
  return { bytes: Buffer.concat(logits), kernels: lines.map((line) => line.split(' ')[0]!) };
}

const LAYER = ['gemv_normed', 'attend_few', 'gemv_added', 'gemv_gated', 'gemv_added'];
const FLOATS = (kind: 'table' | 'wide'): readonly string[] => [
  `${kind}_normed`,
  'attend_few',
  `${kind}_added`,
  `${kind}_gated`,
  `${kind}_added`,
];
const HEAD = ['normalize', 'select_rows', 'activation_planes'];
const llama = (gemv: string): readonly string[] => ['look_up', ...LAYER, ...LAYER, ...HEAD, gemv];

describe('a step of few rows', () => {
  beforeAll(() => pretend());
  afterAll(() => rmSync(dir, { recursive: true }));

  it.for([
    ['HQQ', HQQ4, 'gemv_affine4'],
    ['NF4', NF4, 'gemv_table4'],
  ] as const)('takes five launches a layer in a Llama of %s, and three and one after them', async ([, format, gemv], context) => {
    here(context);
    const fused = decoder({ format });
    for (const steps of [
      [4, 1],
      [4, 1, 2],
    ]) {
      const together = await run(fused, steps);
      expect(together.kernels).toEqual(llama(gemv));
      const single = await run(fused, steps, { fuse: false });
      expect(single.kernels.length).toBeGreaterThan(40);
      expect(together.bytes.equals(single.bytes)).toBe(true);
    }
  });

  it('takes more where there are more rows: what was there before', async (context) => {
    here(context);
    const { kernels } = await run(decoder({ format: HQQ4 }), [3]);
    const layer = ['normalize', 'activation_planes', ...Array(3).fill('mma_affine'), 'rope', 'rope', 'append', 'attend'];
    const rest = ['activation_planes', 'mma_affine', 'add', 'normalize', 'activation_planes', 'mma_affine', 'mma_affine', 'gate'];
    const down = ['activation_planes', 'mma_affine', 'add'];
    const sorted = (list: readonly string[]): readonly string[] => [...list].sort();
    expect(sorted(kernels)).toEqual(sorted(['look_up', ...layer, ...rest, ...down, ...layer, ...rest, ...down, ...HEAD, 'mma_affine']));
  });

  it.for<readonly [string, Shape, readonly string[]]>([
    [
      'keys and queries are normalised',
      { format: HQQ4, attention: 'normed heads' },
      ['gemv_normed', 'normalize', 'normalize', 'attend_few', 'gemv_added', 'gemv_gated', 'gemv_added'],
    ],
    ['there is no rotation', { format: NF4, attention: 'alibi' }, LAYER],
    ['norms are layer norms', { format: HQQ4, norm: 'layer' }, LAYER],
    [
      'attention and MLP read one norm',
      { format: HQQ4, norms: 'parallel' },
      ['gemv_normed', 'attend_few', 'gemv_gated', 'gemv_added', 'gemv_added'],
    ],
    [
      'norms come after',
      { format: HQQ4, norms: 'post' },
      ['gemv_normed', 'attend_few', 'gemv_affine4', 'normalize', 'add', 'gemv_gated', 'gemv_affine4', 'normalize', 'add'],
    ],
    [
      'the MLP has no gate',
      { format: HQQ4, mlp: 'plain' },
      ['gemv_normed', 'attend_few', 'gemv_added', 'gemv_normed', 'activate', 'activation_planes', 'gemv_added'],
    ],
    [
      'formats differ',
      { format: (name) => (name === 'k' ? NF4 : HQQ4) },
      ['normalize', 'gemv_normed', 'activation_planes', 'gemv_table4', 'attend_few', 'gemv_added', 'gemv_gated', 'gemv_added'],
    ],
    ['weights are of 3 bits', { format: (name) => (name === 'embed' ? HQQ4 : { ...HQQ4, levels: 8, packing: '3bit_32' }) }, LAYER],
    ['weights are of 8 bits', { format: (name) => (name === 'embed' ? HQQ4 : { ...HQQ4, levels: 256, packing: '8bit_u8' }) }, LAYER],
    ['weights are in a rotated basis', { format: (name) => (name === 'embed' ? HQQ4 : HIGGS) }, FLOATS('table')],
    ['pairs are of 3 bits, in runs of 32', { format: plain('embed', higgs(6, 2, 32, 'bf16', 32)) }, FLOATS('table')],
    ['pairs are of 2 bits', { format: plain('embed', higgs(4, 2, 64, 'f16', 32)) }, FLOATS('table')],
    ['single codes are of 4 bits', { format: plain('embed', higgs(4, 1, 16, 'f16', 32)) }, FLOATS('table')],
    ['single codes are of 4 bits in f32', { format: plain('embed', higgs(4, 1, 64, 'f32')) }, FLOATS('table')],
    ['single codes are of 3 bits', { format: plain('embed', higgs(3, 1, 256, 'f16', 128)) }, FLOATS('table')],
    [
      'single codes are of 2 bits, and norms are layer norms',
      { format: plain('embed', higgs(2, 1, 64, 'bf16')), norm: 'layer' },
      FLOATS('table'),
    ],
    ['weights are dense', { format: plain('embed', { kind: 'dense', dtype: 'bf16' }) }, FLOATS('wide')],
    ['groups are along columns', { format: plain('embed', { ...HQQ4, axis: 0 }) }, FLOATS('wide')],
    [
      'weights are LLM.int8 with outliers',
      { format: plain('embed', { kind: 'int8', threshold: 1.5 }) },
      ['int8_few', 'int8_normed', 'attend_few', 'int8_few', 'int8_added', 'int8_few', 'int8_gated', 'int8_few', 'int8_added'],
    ],
    [
      'weights are LLM.int8, and attention and MLP read one norm',
      { format: plain('embed', { kind: 'int8', threshold: 0 }), norms: 'parallel', norm: 'layer' },
      ['int8_few', 'int8_normed', 'attend_few', 'int8_gated', 'int8_few', 'int8_added', 'int8_few', 'int8_added'],
    ],
    [
      'the MLP leaves floats to codes, and attention codes to tables',
      { format: (name) => (name === 'q' || name === 'k' || name === 'v' || name === 'down' || name === 'embed' ? HQQ4 : HIGGS) },
      ['gemv_normed', 'attend_few', 'table_added', 'table_gated', 'activation_planes', 'gemv_added'],
    ],
    [
      'attention and MLP leave floats to tables, which are rotated in runs longer than rows',
      { format: (name) => (name === 'o' || name === 'down' ? higgs(4, 2, 1024, 'f16', 256) : HQQ4) },
      ['gemv_normed', 'attend_few', 'table_added', 'gemv_gated', 'table_added'],
    ],
    [
      'rotations differ',
      { format: (name) => (name === 'embed' ? HQQ4 : name === 'v' ? higgs(8, 2, 32, 'f16', 32) : HIGGS) },
      ['normalize', 'table_normed', 'hadamard', 'gemv_codebook', 'attend_few', 'table_added', 'table_gated', 'table_added'],
    ],
  ])('where %s: what fits, and the same bytes', async ([, shape, layer], context) => {
    here(context);
    const built = decoder(shape);
    const together = await run(built, [3, 2, 1]);
    expect(together.kernels.slice(1, 1 + layer.length)).toEqual(layer);
    expect(together.kernels.length).toBe(1 + 2 * layer.length + 4);
    const single = await run(built, [3, 2, 1], { fuse: false });
    expect(together.bytes.equals(single.bytes)).toBe(true);
    // And they are those of the reference.
    await using reference = await referenceBackend().open();
    const linears = [];
    for (const [i, { use }] of built.program.linears.entries()) linears.push(await reference.prepare(built.weights[i]!, { use }));
    using executable = await reference.compile(built.program, linears, { contextLength: 64 });
    const id = executable.open();
    const expected: number[] = [];
    for (const [at, count] of [3, 2, 1].entries()) {
      const tokens = Uint32Array.from({ length: count }, (_, i) => (7 * (at + i) + 3) % 32);
      const { logits } = await executable.step([{ id, tokens, wanted: Uint32Array.from({ length: count }, (_, i) => i) }]);
      expected.push(...toFloat32(logits!));
    }
    const got = toFloat32({ dtype: 'f32', shape: [6, 32], data: together.bytes });
    const largest = Math.max(...expected.map(Math.abs));
    for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value), `${i}`).toBeLessThan(3e-4 * largest);
  });

  it.for(['f16', 'bf16'] as const)('rounds keys and values to %s as one by one', async (kvDtype, context) => {
    here(context);
    const built = decoder({ format: HQQ4 });
    const together = await run(built, [3, 1, 2, 1], { kvDtype });
    const single = await run(built, [3, 1, 2, 1], { kvDtype, fuse: false });
    expect(together.bytes.equals(single.bytes)).toBe(true);
  });

  it.for<readonly [string, Format, string]>([
    ['a codebook', higgs(4, 2, 64, 'f16'), 'table_added'],
    ['a dense weight', { kind: 'dense', dtype: 'bf16' }, 'wide_added'],
  ])('multiplies more inputs by %s than shared memory holds in pieces, with the same sums', async ([, format, kernel], context) => {
    here(context);
    const [inp, out] = [8192 + 192, 20];
    const b = new ProgramBuilder({ layers: 1 });
    b.layer = 0;
    const x = b.input('x', { width: inp + out });
    const weight = b.addLinear('w', [out, inp], { use: 'linear' });
    b.output('out', b.add(b.slice(x, { offset: inp, width: out }), b.linear(b.slice(x, { offset: 0, width: inp }), weight), 0.5));
    const program = b.build();
    const results: Buffer[] = [];
    for (const fuse of [true, false]) {
      rmSync(log, { force: true });
      pretend({ log });
      const native = addon.load();
      const device = await native.openDevice(FAKE_DRIVER, 0);
      await using backend = new CudaBackend(native, device, { name: 'cuda', precision: 'exact', kvDtype: 'f32', fuse, codecs: [] });
      using linear = await backend.prepare(sampleWeight(format, [out, inp], 5));
      using executable = await backend.compile(program, [linear], { contextLength: 16 });
      const inputs = { x: seededTensor(6, [2, inp + out], 1) };
      const got = await executable.step([{ id: executable.open(), tokens: new Uint32Array(2), inputs }]);
      results.push(Buffer.from(got.out!.data));
      expect(readFileSync(log, 'utf8').includes(`${kernel} `)).toBe(fuse);
    }
    expect(results[0]!.equals(results[1]!)).toBe(true);
  });
});
