// Small programs that use each operation in each of its ways, with seeded weights and sequences.

import type { Activation, ConstantId, LinearUse, Matrix, QuantizedTensor, Shape } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import type { Tolerances } from './compare.ts';
import type { Script, TestProgram } from './play.ts';
import { seeded, seededTensor } from './random.ts';

/** A program about one operation. */
export interface ProgramCase {
  readonly name: string;
  readonly tolerance: keyof Tolerances;
  /** Rows depend on the other rows of their step (attention without a cache): a sequence must come in one step. */
  readonly whole?: boolean;
  readonly test: TestProgram;
  readonly scripts: readonly Script[];
}

const VOCAB = 19;
const WIDTH = 24;

/** A builder that makes seeded weights and constants. */
class CaseBuilder extends ProgramBuilder {
  readonly weights = new Map<string, QuantizedTensor>();
  #seed: number;

  constructor(seed: number, layers = 1) {
    super({ layers });
    this.#seed = seed * 1000;
  }

  constant(shape: Shape, span = 1): ConstantId {
    return this.addConstant(seededTensor(this.#seed++, shape, span));
  }

  weight(path: string, shape: Matrix, options: { readonly use?: LinearUse['use']; readonly bias?: boolean } = {}): number {
    this.weights.set(path, {
      format: { kind: 'dense', dtype: 'f32' },
      shape,
      parts: { weight: seededTensor(this.#seed++, shape, 1 / Math.sqrt(shape[1])) },
    });
    return this.addLinear(path, shape, { use: options.use ?? 'linear', bias: options.bias ? this.constant([shape[0]]) : undefined });
  }

  /** Rows handed in as `x`. */
  rows(width = WIDTH): number {
    return this.input('x', { width });
  }
}

/** Sequences of 6, 3 and 9 tokens with rows for `x`. */
function makeScripts(width: number, lengths: readonly number[] = [6, 3, 9]): readonly Script[] {
  return lengths.map((length, i) => {
    const next = seeded(i + 7);
    const tokens = Uint32Array.from({ length }, () => Math.floor(next() * VOCAB));
    return { tokens, inputs: { x: seededTensor(100 + i, [length, width], 2) } };
  });
}

type Definition = readonly [
  name: string,
  tolerance: keyof Tolerances,
  build: (b: CaseBuilder) => number,
  options?: { readonly width?: number; readonly whole?: boolean; readonly scripts?: readonly Script[] },
];

const tokensOnly = makeScripts(1).map(({ tokens }): Script => ({ tokens }));
const ACTIVATION_KINDS: readonly Activation[] = ['silu', 'gelu', 'gelu_tanh', 'quick_gelu', 'relu', 'relu2', 'sigmoid', 'tanh', 'identity'];
const frequencies = [1, 0.3, 0.1, 0.01];

/** Attention of q, k and v that are slices of the rows handed in. */
function attention(
  b: CaseBuilder,
  heads: number,
  kvHeads: number,
  options: { readonly cached?: boolean; readonly valueDim?: number; readonly select?: boolean } & Partial<
    Parameters<ProgramBuilder['attend']>[1]
  >,
): number {
  const { cached = true, valueDim = 8, select = false, ...rest } = options;
  const keyDim = 8;
  const x = b.rows(64);
  const q = b.slice(x, { offset: 0, width: heads * keyDim });
  const k = b.slice(x, { offset: heads * keyDim - 8, width: kvHeads * keyDim });
  const v = b.slice(x, { offset: 64 - kvHeads * valueDim, width: kvHeads * valueDim });
  const cache = cached ? b.addCache({ heads: kvHeads, keyDim, valueDim }) : undefined;
  return b.attend(select ? b.select(q) : q, { k, v, cache, heads, kvHeads, keyDim, valueDim, scale: 0.6, ...rest });
}

/** A router of 5 experts with 2 chosen, and the experts' gated MLP. */
function experts(b: CaseBuilder, x: number, width: number, scoring: 'softmax' | 'sigmoid', path = 'moe'): number {
  const { ids, weights } = b.route(b.linear(x, b.weight(`${path}.router`, [5, width])), {
    topK: 2,
    scoring,
    normalize: scoring === 'softmax',
    scale: 1.5,
  });
  const list = (name: string, shape: Matrix): number[] => Array.from({ length: 5 }, (_, i) => b.weight(`${path}.${i}.${name}`, shape));
  const gate = b.expertLinear(x, ids, list('gate', [16, width]));
  const up = b.expertLinear(x, ids, list('up', [16, width]));
  return b.combine(b.expertLinear(b.gate(gate, up, 'silu'), ids, list('down', [width, 16])), weights);
}

const DEFINITIONS: readonly Definition[] = [
  ['embed', 'element', (b) => b.embed(b.weight('table', [VOCAB, WIDTH], { use: 'embedding' }), { scale: 3 }), { scripts: tokensOnly }],
  [
    'embed and linear of one tied table',
    'linear',
    (b) => b.linear(b.embed(b.weight('table', [VOCAB, WIDTH], { use: 'both' })), 0),
    { scripts: tokensOnly },
  ],
  ['input and select', 'element', (b) => b.select(b.rows())],
  [
    'inject',
    'element',
    (b) => b.inject(b.rows(), 'image'),
    {
      scripts: makeScripts(WIDTH).map(
        (script, i): Script => ({
          ...script,
          injections: i === 1 ? {} : { image: { at: Uint32Array.of(0, 2, 4), rows: seededTensor(40 + i, [3, WIDTH]) } },
        }),
      ),
    },
  ],
  ['positionEmbed with an offset', 'element', (b) => b.positionEmbed(b.rows(), b.constant([12, WIDTH]), { offset: 2 })],
  ['norm rms', 'element', (b) => b.norm(b.rows(), { kind: 'rms', eps: 0.05, weight: b.constant([WIDTH]) })],
  ['norm rms without a weight', 'element', (b) => b.norm(b.rows(), { kind: 'rms', eps: 0.05 })],
  ['norm rms of 1 + weight', 'element', (b) => b.norm(b.rows(), { kind: 'rms', eps: 0.05, weight: b.constant([WIDTH]), weightOffset: 1 })],
  [
    'norm layer with a bias',
    'element',
    (b) => b.norm(b.rows(), { kind: 'layer', eps: 0.05, weight: b.constant([WIDTH]), bias: b.constant([WIDTH]) }),
  ],
  [
    'norm of heads that share a weight',
    'element',
    (b) => b.norm(b.rows(), { kind: 'rms', eps: 0.05, groups: 3, weight: b.constant([WIDTH / 3]) }),
  ],
  [
    'norm of heads with weights of their own',
    'element',
    (b) => b.norm(b.rows(), { kind: 'layer', eps: 0.05, groups: 3, weight: b.constant([WIDTH]) }),
  ],
  ['linear', 'linear', (b) => b.linear(b.rows(), b.weight('w', [17, WIDTH]))],
  ['linear with a bias', 'linear', (b) => b.linear(b.rows(), b.weight('w', [17, WIDTH], { bias: true }))],
  [
    'rope half',
    'element',
    (b) => b.rope(b.rows(), { heads: 3, dim: 8, style: 'half', rope: b.addRope({ kind: 'fixed', frequencies, scale: 1 }) }),
  ],
  [
    'rope interleaved, scaled',
    'element',
    (b) => b.rope(b.rows(), { heads: 3, dim: 8, style: 'interleaved', rope: b.addRope({ kind: 'fixed', frequencies, scale: 1.2 }) }),
  ],
  [
    'rope of a part of each head',
    'element',
    (b) => b.rope(b.rows(), { heads: 2, dim: 8, style: 'half', rope: b.addRope({ kind: 'fixed', frequencies, scale: 1 }) }),
  ],
  [
    'rope of selected rows',
    'element',
    (b) => b.rope(b.select(b.rows()), { heads: 3, dim: 8, style: 'half', rope: b.addRope({ kind: 'fixed', frequencies, scale: 1 }) }),
  ],
  [
    'rope dynamic',
    'element',
    (b) =>
      b.rope(b.rows(), {
        heads: 3,
        dim: 8,
        style: 'half',
        rope: b.addRope({ kind: 'dynamic', base: 100, dim: 8, factor: 2, original: 5 }),
      }),
  ],
  [
    'rope long',
    'element',
    (b) =>
      b.rope(b.rows(), {
        heads: 3,
        dim: 8,
        style: 'half',
        rope: b.addRope({ kind: 'long', short: frequencies, long: [0.9, 0.2, 0.05, 0.001], original: 6, scale: 1.1 }),
      }),
  ],
  ['attend', 'attend', (b) => attention(b, 4, 4, {}), { width: 64 }],
  ['attend with grouped heads', 'attend', (b) => attention(b, 6, 2, {}), { width: 64 }],
  ['attend with one key head', 'attend', (b) => attention(b, 4, 1, {}), { width: 64 }],
  ['attend with values of another width', 'attend', (b) => attention(b, 4, 2, { valueDim: 12 }), { width: 64 }],
  ['attend in a window', 'attend', (b) => attention(b, 4, 2, { window: 3 }), { width: 64 }],
  ['attend with softcap', 'attend', (b) => attention(b, 4, 2, { softcap: 0.7 }), { width: 64 }],
  ['attend with alibi', 'attend', (b) => attention(b, 4, 4, { bias: { kind: 'alibi', slopes: [0.5, 0.25, 0.125, 0.06] } }), { width: 64 }],
  [
    'attend with relative bias',
    'attend',
    (b) =>
      attention(b, 4, 4, { bias: { kind: 'relative', table: b.constant([6, 4], 2), buckets: 6, maxDistance: 8, bidirectional: false } }),
    { width: 64 },
  ],
  ['attend from selected rows', 'attend', (b) => attention(b, 4, 2, { select: true }), { width: 64 }],
  ['attend both ways, without a cache', 'attend', (b) => attention(b, 4, 4, { cached: false, causal: false }), { width: 64, whole: true }],
  [
    'attend both ways with relative bias',
    'attend',
    (b) =>
      attention(b, 4, 4, {
        cached: false,
        causal: false,
        bias: { kind: 'relative', table: b.constant([8, 4], 2), buckets: 8, maxDistance: 6, bidirectional: true },
      }),
    { width: 64, whole: true },
  ],
  [
    'remember and attend to encoder rows',
    'attend',
    (b) => {
      const encoded = b.input('encoded', { rows: 'encoder', width: 32 });
      const cache = b.addCache({ rows: 'encoder', heads: 2, keyDim: 8, valueDim: 8 });
      b.remember(b.slice(encoded, { offset: 0, width: 16 }), b.slice(encoded, { offset: 16, width: 16 }), cache);
      return b.attend(b.slice(b.rows(), { offset: 0, width: 16 }), { cache, heads: 2, keyDim: 8, scale: 0.5, causal: false });
    },
    { scripts: makeScripts(WIDTH).map((script, i): Script => ({ ...script, encoder: { encoded: seededTensor(60 + i, [4 + i, 32], 2) } })) },
  ],
  [
    'an encoder over rows of its own',
    'attend',
    (b) => {
      const encoded = b.input('encoded', { rows: 'encoder', width: 16 });
      const rope = b.addRope({ kind: 'fixed', frequencies, scale: 1 });
      const q = b.rope(encoded, { heads: 2, dim: 8, style: 'half', rope });
      const own = b.attend(q, { k: q, v: encoded, heads: 2, keyDim: 8, scale: 0.5, causal: false });
      const cache = b.addCache({ rows: 'encoder', heads: 2, keyDim: 8, valueDim: 8 });
      b.remember(own, own, cache);
      b.output('encoded', own);
      return b.attend(b.slice(b.rows(), { offset: 0, width: 16 }), { cache, heads: 2, keyDim: 8, scale: 0.5, causal: false });
    },
    { scripts: makeScripts(WIDTH).map((script, i): Script => ({ ...script, encoder: { encoded: seededTensor(80 + i, [4 + i, 16], 2) } })) },
  ],
  ...ACTIVATION_KINDS.map((kind): Definition => [`activate ${kind}`, 'element', (b) => b.activate(b.rows(), kind)]),
  [
    'gate silu',
    'element',
    (b) => {
      const x = b.rows();
      return b.gate(b.slice(x, { offset: 0, width: 12 }), b.slice(x, { offset: 12, width: 12 }), 'silu');
    },
  ],
  [
    'gate of width 1',
    'element',
    (b) => {
      const x = b.rows();
      return b.gate(b.slice(x, { offset: 3, width: 1 }), x, 'sigmoid');
    },
  ],
  [
    'add with a factor',
    'element',
    (b) => {
      const x = b.rows();
      return b.add(x, b.activate(x, 'tanh'), -0.3);
    },
  ],
  ['scale', 'element', (b) => b.scale(b.rows(), 0.37)],
  ['softcap', 'element', (b) => b.softcap(b.rows(), 1.3)],
  ['slice of groups', 'element', (b) => b.slice(b.rows(), { groups: 4, offset: 2, width: 3 })],
  [
    'route softmax',
    'route',
    (b) => {
      const { ids, weights } = b.route(b.rows(7), { topK: 3, scoring: 'softmax', normalize: true, scale: 2 });
      b.output('ids', ids);
      return weights;
    },
    { width: 7 },
  ],
  [
    'route sigmoid',
    'route',
    (b) => {
      const { ids, weights } = b.route(b.rows(7), { topK: 2, scoring: 'sigmoid', normalize: false });
      b.output('ids', ids);
      return weights;
    },
    { width: 7 },
  ],
  [
    'route with ties',
    'route',
    (b) => {
      const { ids, weights } = b.route(b.activate(b.rows(7), 'relu'), { topK: 5, scoring: 'softmax', normalize: false });
      b.output('ids', ids);
      return weights;
    },
    { width: 7 },
  ],
  ['experts', 'linear', (b) => experts(b, b.rows(), WIDTH, 'softmax')],
];

/** A two-layer decoder: grouped heads, a window, rotations, a gated MLP, a mixture of experts, tied embeddings. */
function decoder(): ProgramCase {
  const b = new CaseBuilder(900, 2);
  const width = 32;
  const table = b.weight('embed', [VOCAB, width], { use: 'both' });
  const rope = b.addRope({ kind: 'fixed', frequencies, scale: 1 });
  let x = b.embed(table, { scale: 2 });
  for (let layer = 0; layer < 2; layer++) {
    b.layer = layer;
    const path = `layers.${layer}`;
    const h = b.norm(x, { kind: 'rms', eps: 1e-3, weight: b.constant([width]), weightOffset: 1 });
    const rotate = (id: number, heads: number): number => b.rope(id, { heads, dim: 8, style: 'half', rope });
    const q = rotate(b.linear(h, b.weight(`${path}.q`, [32, width], { bias: true })), 4);
    const k = rotate(b.linear(h, b.weight(`${path}.k`, [16, width])), 2);
    const v = b.linear(h, b.weight(`${path}.v`, [16, width]));
    const cache = b.addCache({ heads: 2, keyDim: 8, valueDim: 8 });
    const window = layer === 0 ? 4 : undefined;
    x = b.add(
      x,
      b.linear(b.attend(q, { k, v, cache, heads: 4, kvHeads: 2, keyDim: 8, scale: 0.35, window }), b.weight(`${path}.o`, [width, 32])),
    );
    const m = b.norm(x, { kind: 'rms', eps: 1e-3, weight: b.constant([width]) });
    if (layer === 1) x = b.add(x, experts(b, m, width, 'softmax', `${path}.moe`));
    else {
      const gate = b.linear(m, b.weight(`${path}.gate`, [48, width]));
      const up = b.linear(m, b.weight(`${path}.up`, [48, width]));
      x = b.add(x, b.linear(b.gate(gate, up, 'gelu_tanh'), b.weight(`${path}.down`, [width, 48])));
    }
    b.output(`hidden.${layer + 1}`, x);
  }
  b.layer = 2;
  const last = b.norm(b.select(x), { kind: 'rms', eps: 1e-3, weight: b.constant([width]) });
  b.output('logits', b.softcap(b.linear(last, table), 5));
  return { name: 'a two-layer decoder', tolerance: 'model', test: { program: b.build(), weights: b.weights }, scripts: tokensOnly };
}

/** All of them; the last is the decoder. */
export function programCases(): readonly ProgramCase[] {
  const cases = DEFINITIONS.map(([name, tolerance, build, options = {}], i): ProgramCase => {
    const b = new CaseBuilder(i + 1);
    b.layer = 0;
    b.output('out', build(b));
    const { width = WIDTH, whole = false, scripts = makeScripts(width) } = options;
    return { name, tolerance, whole, test: { program: b.build(), weights: b.weights }, scripts };
  });
  return [...cases, decoder()];
}

/** The decoder alone. */
export function decoderCase(): ProgramCase {
  return decoder();
}
