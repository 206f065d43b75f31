// What of a program runs together where a step has few rows: which operations, found in the program alone and in how its weights lie. Numbers are the same
// either way; what does not fit stays as it is.

import { type Op, type OpOf, opInputs, opResults, type Program, type TensorId } from '@lowbit/core';
import { hasGemv, planeOrder } from './launches.ts';
import type { WeightLayout } from './layout.ts';

/** Inputs of a product whose activations fit a block's shared memory: quantized (gemv_normed), and as floats beside two tables (table_gated). */
const MOST_SHARED_INPUTS = 12288;
const MOST_SHARED_FLOATS = 9728;
/** Numbers that an attention's shared memory has room for. */
const MOST_ATTEND_NUMBERS = 11000;
const WEIGHTS = 3;
const BLOCK = 32;

export type Linear = OpOf<'linear'>;

/** How a product of few rows reads x where it runs together with others: those alike share what is made of x. undefined: it runs by itself. */
function reading(layout: WeightLayout): string | undefined {
  if (hasGemv(layout)) return `planes ${planeOrder(layout)}`;
  if (layout.kind === 'int8') return `int8 ${layout.threshold}`;
  return floatKernels(layout) && `${floatKernels(layout)} ${layout.run ?? 1} ${layout.features}`;
}

/** Inputs of a row that a block of a product prepares for itself; int8 has it prepared. */
function mostInputs(layout: WeightLayout): number {
  if (layout.kind === 'int8') return Number.POSITIVE_INFINITY;
  return hasGemv(layout) ? MOST_SHARED_INPUTS : MOST_SHARED_FLOATS;
}

/** Which kernels of native/kernels/fused-floats.cuh take a weight. */
export function floatKernels({ kind, quick, codebook, wide }: WeightLayout): 'table' | 'wide' | undefined {
  if (kind === 'int8' || quick || !wide) return undefined;
  return codebook ? 'table' : 'wide';
}

/** Up to three products of one x, which is normalised (`norm`) and quantized on the way in. */
export interface NormedProducts {
  readonly kind: 'normed';
  readonly norm: OpOf<'norm'> | undefined;
  readonly x: TensorId;
  readonly linears: readonly Linear[];
}

/** act(gate) * up; `planes`: the result goes to products alone, which take it quantized. */
export interface GatedProducts {
  readonly kind: 'gated';
  readonly norm: OpOf<'norm'> | undefined;
  readonly x: TensorId;
  readonly gate: Linear;
  readonly up: Linear;
  readonly op: OpOf<'gate'>;
}

/** A product and the residual. */
export interface AddedProduct {
  readonly kind: 'added';
  readonly linear: Linear;
  readonly op: OpOf<'add'>;
}

/** Rotations, appending to the cache and attention. */
export interface StepAttention {
  readonly kind: 'attend';
  readonly op: OpOf<'attend'>;
  readonly ropes: { readonly q: OpOf<'rope'>; readonly k: OpOf<'rope'> } | undefined;
}

export type Fused = NormedProducts | GatedProducts | AddedProduct | StepAttention;

export interface Fusion {
  /** What runs where an operation stands, in place of all that it covers. */
  readonly at: ReadonlyMap<Op, Fused>;
  /** Operations that run in another's launch. */
  readonly covered: ReadonlySet<Op>;
  /** Tensors that their producer leaves quantized, and no other way. */
  readonly planes: ReadonlySet<TensorId>;
  /** Products that take x from memory as they want it, quantized or rotated: it is not made on the way in. */
  readonly readsPrepared: (linear: Linear) => boolean;
}

/** Nothing runs together: what the rest is compared with. */
export const NO_FUSION: Fusion = { at: new Map(), covered: new Set(), planes: new Set(), readsPrepared: () => true };

export function findFusion(program: Program, layouts: readonly WeightLayout[]): Fusion {
  return new Finder(program, layouts).find();
}

class Finder {
  readonly #program: Program;
  readonly #layouts: readonly WeightLayout[];
  readonly #makers = new Map<TensorId, Op>();
  readonly #readers = new Map<TensorId, Op[]>();
  readonly #outputs: ReadonlySet<TensorId>;
  readonly #at = new Map<Op, Fused>();
  readonly #covered = new Set<Op>();
  readonly #planes = new Set<TensorId>();
  /** Linears whose activations are quantized or rotated on the way in. */
  readonly #inside = new Set<Linear>();

  constructor(program: Program, layouts: readonly WeightLayout[]) {
    this.#program = program;
    this.#layouts = layouts;
    this.#outputs = new Set(Object.values(program.outputs));
    for (const op of program.ops) {
      for (const id of opResults(op)) this.#makers.set(id, op);
      for (const id of new Set(opInputs(op))) this.#readers.set(id, [...(this.#readers.get(id) ?? []), op]);
    }
  }

  find(): Fusion {
    const { ops } = this.#program;
    for (const op of ops) if (op.op === 'attend') this.#attention(op);
    const gates = ops.flatMap((op) => (op.op === 'gate' ? (this.#gated(op) ?? []) : []));
    for (const { op, gate } of gates) {
      if (hasGemv(this.#layout(gate)) && this.#quantizedFor(op.out, this.#width(op.out))) this.#planes.add(op.out);
    }
    for (const x of this.#readers.keys())
      this.#products(
        x,
        gates.filter((gate) => gate.x === x),
      );
    for (const op of ops) if (op.op === 'add') this.#added(op);
    const inside = this.#inside;
    return { at: this.#at, covered: this.#covered, planes: this.#planes, readsPrepared: (linear) => !inside.has(linear) };
  }

  #width(id: TensorId): number {
    return this.#program.tensors[id]!.width;
  }

  #layout(linear: Linear): WeightLayout {
    return this.#layouts[linear.weight]!;
  }

  /** The operation of that kind which makes a tensor that is read once and is no output. */
  #only<K extends Op['op']>(id: TensorId, kind: K): OpOf<K> | undefined {
    const maker = this.#makers.get(id);
    return maker?.op === kind && this.#readers.get(id)?.length === 1 && !this.#outputs.has(id) ? (maker as OpOf<K>) : undefined;
  }

  #quick(op: Op | undefined): op is Linear {
    return op?.op === 'linear' && reading(this.#layout(op)) !== undefined;
  }

  #reading(linear: Linear): string | undefined {
    return reading(this.#layout(linear));
  }

  /** Products that are all that reads a tensor, and read it alike; undefined: something else does. */
  #readingProducts(id: TensorId): readonly Linear[] | undefined {
    const linears = this.#alikeProducts(id);
    const all = linears.length > 0 && linears.length === this.#readers.get(id)!.length;
    return all && !this.#outputs.has(id) ? linears : undefined;
  }

  /** Products that read a tensor as the first does, whatever else reads it. */
  #alikeProducts(id: TensorId): readonly Linear[] {
    const linears = (this.#readers.get(id) ?? []).filter((op) => this.#quick(op)) as Linear[];
    return linears.filter((linear) => this.#reading(linear) === this.#reading(linears[0]!));
  }

  #quantizedFor(id: TensorId, part: number): boolean {
    const [reader] = this.#readingProducts(id) ?? [];
    return reader !== undefined && hasGemv(this.#layout(reader)) && part % BLOCK === 0;
  }

  #cover(fused: Fused, where: Op, ops: readonly Op[]): void {
    this.#at.set(where, fused);
    for (const op of ops) this.#covered.add(op);
  }

  #attention(op: OpOf<'attend'>): void {
    const { q, k, v, cache, heads, kvHeads, keyDim, valueDim, out } = op;
    const ofTokens = (id: TensorId | undefined): boolean => id === undefined || this.#program.tensors[id]!.rows === 'tokens';
    if (cache === undefined || ![q, k, v, out].every(ofTokens) || 3 * keyDim + 4 * valueDim > MOST_ATTEND_NUMBERS) return;
    if (k !== undefined && this.#program.caches[cache]!.rows !== 'tokens') return;
    const rope = (id: TensorId | undefined, parts: number): OpOf<'rope'> | undefined => {
      const found = id === undefined ? undefined : this.#only(id, 'rope');
      return found && found.heads === parts && this.#width(found.out) === parts * keyDim ? found : undefined;
    };
    const [turnedQ, turnedK] = [rope(q, heads), rope(k, kvHeads)];
    const alike = turnedQ && turnedK && turnedQ.rope === turnedK.rope && turnedQ.dim === turnedK.dim && turnedQ.style === turnedK.style;
    const ropes = alike ? { q: turnedQ, k: turnedK } : undefined;
    this.#cover({ kind: 'attend', op, ropes }, op, ropes ? [op, ropes.q, ropes.k] : [op]);
    if (this.#quantizedFor(out, valueDim)) this.#planes.add(out);
  }

  #gated(op: OpOf<'gate'>): Omit<GatedProducts, 'kind' | 'norm'> | undefined {
    const [gate, up] = [this.#only(op.gate, 'linear'), this.#only(op.x, 'linear')];
    if (!this.#quick(gate) || !this.#quick(up) || gate.x !== up.x || this.#width(op.gate) !== this.#width(op.out)) return undefined;
    return this.#reading(gate) === this.#reading(up) ? { x: gate.x, gate, up, op } : undefined;
  }

  /** Products of one x. */
  #products(x: TensorId, gates: readonly Omit<GatedProducts, 'kind' | 'norm'>[]): void {
    const [first] = this.#alikeProducts(x);
    if (first === undefined || this.#planes.has(x)) return;
    const layout = this.#layout(first);
    if (layout.inp > mostInputs(layout)) return;
    const all = this.#readingProducts(x);
    const maker = this.#makers.get(x);
    const norm = all && maker?.op === 'norm' && maker.groups === 1 ? maker : undefined;
    const from = norm ? norm.x : x;
    if (norm) this.#covered.add(norm);
    const taken = new Set<Op>();
    for (const gate of gates) {
      this.#cover({ kind: 'gated', ...gate, norm, x: from }, gate.op, [gate.op, gate.gate, gate.up]);
      for (const linear of [gate.gate, gate.up]) {
        this.#inside.add(linear);
        taken.add(linear);
      }
    }
    const rest = this.#alikeProducts(x).filter((linear) => !taken.has(linear));
    // Without a norm one product is as well off with activations that were quantized once.
    if (!norm && rest.length < 2) return;
    for (let i = 0; i < rest.length; i += WEIGHTS) {
      const linears = rest.slice(i, i + WEIGHTS);
      this.#cover({ kind: 'normed', norm, x: from, linears }, linears[0]!, linears);
      for (const linear of linears) this.#inside.add(linear);
    }
  }

  #added(op: OpOf<'add'>): void {
    const found = [op.b, op.a].map((id) => this.#only(id, 'linear')).find((linear) => this.#quick(linear) && !this.#covered.has(linear));
    if (!found || op.a === op.b) return;
    this.#cover({ kind: 'added', linear: found, op }, op, [found, op]);
    if (!hasGemv(this.#layout(found))) this.#inside.add(found);
  }
}
