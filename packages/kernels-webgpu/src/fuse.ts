// Which operations of a program are done together for few rows: products of one x with the norm before them, and the gate or the residual after; rotations
// of keys on their way into the cache; a norm with its residual. A program says only what depends on what, so operations may move as long as that holds.

import { type OpOf, opInputs, type Program, type TensorId } from '@lowbit/core';
import type { HeldWeight } from './launches.ts';
import { formOf, stageOf } from './staged.ts';

export type Work =
  | { readonly kind: 'op'; readonly op: Program['ops'][number] }
  | {
      readonly kind: 'products';
      readonly x: TensorId;
      readonly norm?: OpOf<'norm'> | undefined;
      /** Of a gate, that of the gate first. */
      readonly linears: readonly OpOf<'linear'>[];
      readonly gate?: OpOf<'gate'> | undefined;
      readonly add?: OpOf<'add'> | undefined;
    }
  | { readonly kind: 'attend'; readonly op: OpOf<'attend'>; readonly q?: OpOf<'rope'> | undefined; readonly k?: OpOf<'rope'> | undefined }
  | { readonly kind: 'normAdd'; readonly norm: OpOf<'norm'>; readonly add: OpOf<'add'> };

/** Weights that one launch binds. */
const MOST_WEIGHTS = 3;

/** Whether the kernels for few rows take it beside others. */
function fusable({ layout, pieces }: HeldWeight): boolean {
  return pieces.length === 1 && (formOf(layout) === 'plain' || stageOf(layout) !== undefined);
}

export function fuse(program: Program, weights: readonly HeldWeight[]): readonly Work[] {
  return new Fusing(program, weights).run();
}

class Fusing {
  readonly #program: Program;
  readonly #weights: readonly HeldWeight[];
  /** Operations that read a tensor. */
  readonly #readers = new Map<TensorId, Program['ops'][number][]>();
  readonly #made = new Map<TensorId, Program['ops'][number]>();
  readonly #outputs: ReadonlySet<TensorId>;
  /** What becomes of operations that are not done by themselves: done with another (undefined), or that work. */
  readonly #work = new Map<Program['ops'][number], Work | undefined>();

  constructor(program: Program, weights: readonly HeldWeight[]) {
    this.#program = program;
    this.#weights = weights;
    this.#outputs = new Set(Object.values(program.outputs));
    for (const op of program.ops) {
      this.#made.set(op.out, op);
      for (const input of new Set(opInputs(op))) this.#readers.set(input, [...(this.#readers.get(input) ?? []), op]);
    }
  }

  run(): readonly Work[] {
    const { ops } = this.#program;
    for (const op of ops) if (op.op === 'attend') this.#attend(op);
    for (const op of ops) if (op.op === 'linear' && !this.#work.has(op)) this.#products(op.x);
    for (const op of ops) if (op.op === 'norm' && !this.#work.has(op)) this.#normAdd(op);
    return ops.flatMap((op) => {
      if (!this.#work.has(op)) return [{ kind: 'op', op } as const];
      const work = this.#work.get(op);
      return work ? [work] : [];
    });
  }

  /** The one reader of a tensor that nobody else needs. */
  #only(id: TensorId): Program['ops'][number] | undefined {
    const readers = this.#readers.get(id) ?? [];
    return readers.length === 1 && !this.#outputs.has(id) ? readers[0] : undefined;
  }

  #attend(op: OpOf<'attend'>): void {
    const { q, k, v, cache } = op;
    if (cache === undefined || k === undefined || v === undefined) return;
    const ropeOf = (id: TensorId): OpOf<'rope'> | undefined => {
      const made = this.#made.get(id);
      return made?.op === 'rope' && this.#only(id) === op && !this.#work.has(made) ? made : undefined;
    };
    const kRope = ropeOf(k);
    // Queries of wanted rows alone are others than those of keys.
    const qRope = this.#program.tensors[q]!.rows === this.#program.tensors[k]!.rows ? ropeOf(q) : undefined;
    for (const rope of [qRope, kRope]) if (rope) this.#work.set(rope, undefined);
    this.#work.set(op, { kind: 'attend', op, q: qRope, k: kRope });
  }

  /** Products that read x, or the norm that makes x. */
  #products(x: TensorId): void {
    const readers = (this.#readers.get(x) ?? []).filter((op): op is OpOf<'linear'> => op.op === 'linear');
    const free = readers.filter((op) => !this.#work.has(op) && fusable(this.#weights[op.weight]!));
    const norm = this.#normOf(x, free);
    for (let from = 0; from < free.length; ) {
      const pair = this.#gated(free, from);
      const group = pair?.linears ?? this.#alike(free, from);
      from += group.length;
      const add = group.length === 1 ? this.#added(group[0]!) : undefined;
      const whole = group.length === free.length ? norm : undefined;
      const work: Work = { kind: 'products', x, norm: whole, linears: group, gate: pair?.gate, add };
      for (const op of [...group, whole, pair?.gate, add]) if (op) this.#work.set(op, undefined);
      // Where the first of them was; with a residual, where that is added: it may have come since.
      this.#work.set(add ?? group.reduce((a, b) => (this.#program.ops.indexOf(a) < this.#program.ops.indexOf(b) ? a : b)), work);
    }
  }

  /** As many from `from` on as one launch multiplies by. */
  #alike(linears: readonly OpOf<'linear'>[], from: number): readonly OpOf<'linear'>[] {
    const form = this.#formOf(linears[from]!);
    const end = linears.findIndex((op, i) => i > from && this.#formOf(op) !== form);
    return linears.slice(from, Math.min(from + MOST_WEIGHTS, end < 0 ? linears.length : end));
  }

  #formOf({ weight }: OpOf<'linear'>): string {
    return formOf(this.#weights[weight]!.layout);
  }

  /** The norm that makes x, if it is for these products alone. */
  #normOf(x: TensorId, linears: readonly OpOf<'linear'>[]): OpOf<'norm'> | undefined {
    const norm = this.#made.get(x);
    const readers = this.#readers.get(x) ?? [];
    if (norm?.op !== 'norm' || norm.groups !== 1 || this.#outputs.has(x) || this.#work.has(norm)) return undefined;
    return readers.length === linears.length ? norm : undefined;
  }

  /** The two at `from` and after it, if one gates the other and nothing else reads them. */
  #gated(
    linears: readonly OpOf<'linear'>[],
    from: number,
  ): { readonly gate: OpOf<'gate'>; readonly linears: readonly OpOf<'linear'>[] } | undefined {
    const [a, b] = linears.slice(from, from + 2);
    if (!a || !b || this.#formOf(a) !== this.#formOf(b)) return undefined;
    const gate = this.#only(a.out);
    if (gate?.op !== 'gate' || this.#only(b.out) !== gate) return undefined;
    if (this.#program.tensors[a.out]!.width !== this.#program.tensors[b.out]!.width) return undefined;
    return { gate, linears: gate.gate === a.out ? [a, b] : [b, a] };
  }

  #added(linear: OpOf<'linear'>): OpOf<'add'> | undefined {
    const add = this.#only(linear.out);
    return add?.op === 'add' && add.a !== add.b ? add : undefined;
  }

  #normAdd(norm: OpOf<'norm'>): void {
    const add = this.#only(norm.out);
    if (add?.op !== 'add' || add.a === add.b || this.#work.has(add)) return;
    this.#work.set(norm, undefined);
    this.#work.set(add, { kind: 'normAdd', norm, add });
  }
}
