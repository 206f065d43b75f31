// A program becomes a list of launches. Tensors keep their numbers; what launches need beside them gets numbers after those.

import {
  type ArenaTensor,
  LowbitError,
  type OpOf,
  type PositionBias,
  type Program,
  relativeBiasTable,
  type TensorId,
  toFloat32,
} from '@lowbit/core';
import { fuse, type Work } from './fuse.ts';
import {
  DOMAIN,
  type ExpertBank,
  each,
  expertProduct,
  FEW,
  fewRows,
  type HeldWeight,
  type Launch,
  lookUp,
  manyRows,
  type Operand,
  type ProductParts,
  plainProduct,
  rotated,
  type Scratch,
  type TensorRef,
} from './launches.ts';
import type { StoredFloat } from './layout.ts';
import { type NamedRows, type Rotation, type StepShape, sectionsOf } from './step-block.ts';
import { attentionKernel } from './wgsl/attention.ts';
import { normKernel } from './wgsl/norm.ts';
import { appendKernel, ropeKernel } from './wgsl/rope.ts';
import { routeKernel } from './wgsl/route.ts';
import { ROWS } from './wgsl/rows.ts';

export interface LoweredProgram {
  readonly tensors: readonly ArenaTensor[];
  readonly launches: readonly Launch[];
  readonly constants: Float32Array;
  readonly shape: StepShape;
}

/** What the lowering needs of the device. */
export interface LowerSettings {
  readonly kvDtype: StoredFloat;
  /** Experts of one operation side by side; `-1` in `slots`: not in this bank. */
  banks(linears: readonly number[]): readonly (Omit<ExpertBank, 'slots'> & { readonly slots: Float32Array })[];
}

/** The program must be valid and the weights fit it. */
export function lowerProgram(program: Program, weights: readonly HeldWeight[], settings: LowerSettings): LoweredProgram {
  const lowering = new Lowering(program, weights, settings);
  for (const work of fuse(program, weights)) lowering.lower(work);
  return lowering.finish();
}

const tensor = (id: TensorId): TensorRef => ({ tensor: id });

class Lowering {
  readonly #program: Program;
  readonly #weights: readonly HeldWeight[];
  readonly #settings: LowerSettings;
  readonly #launches: Launch[] = [];
  readonly #tensors: ArenaTensor[];
  readonly #named: NamedRows[] = [];
  readonly #rotations: Rotation[] = [];
  /** Launches whose section of a rotation is known when all named rows are. */
  readonly #constants: Float32Array[] = [];
  #constantNumbers = 0;
  readonly #constantPlaces = new Map<string, number>();
  /** What was made of a tensor for products: several read the same. */
  readonly #rotated = new Map<string, Operand>();
  readonly #scratch: Scratch = (domain, width) => tensor(this.#tensors.push({ rows: domain, width }) - 1);

  constructor(program: Program, weights: readonly HeldWeight[], settings: LowerSettings) {
    this.#program = program;
    this.#weights = weights;
    this.#settings = settings;
    this.#tensors = program.tensors.map(({ rows, width }) => ({ rows: DOMAIN[rows], width }));
    // Sections of rotations come after those of all named rows.
    for (const op of program.ops) {
      if (op.op !== 'input' && op.op !== 'inject') continue;
      const { rows, width } = program.tensors[op.out]!;
      this.#named.push({ op: op.op, name: op.name, rows, width });
    }
  }

  finish(): LoweredProgram {
    const constants = new Float32Array(Math.max(4, this.#constantNumbers));
    let at = 0;
    for (const values of this.#constants) {
      constants.set(values, at);
      at += values.length;
    }
    const shape = { named: this.#named, rotations: this.#rotations };
    return { tensors: this.#tensors, launches: this.#launches, constants, shape };
  }

  lower(work: Work): void {
    switch (work.kind) {
      case 'op':
        this.#op(work.op);
        break;
      case 'products':
        this.#products(work);
        break;
      case 'attend':
        this.#attend(work.op, work);
        break;
      case 'normAdd':
        this.#norm(work.norm, work.add);
        break;
    }
  }

  #domain(id: TensorId): number {
    return this.#tensors[id]!.rows;
  }

  #width(id: TensorId): number {
    return this.#tensors[id]!.width;
  }

  #operand(id: TensorId): Operand {
    return { ref: tensor(id), domain: this.#domain(id) };
  }

  #floats(key: string, values: () => Float32Array): number {
    let place = this.#constantPlaces.get(key);
    if (place === undefined) {
      const made = values();
      place = this.#constantNumbers;
      this.#constants.push(made);
      this.#constantNumbers += made.length;
      this.#constantPlaces.set(key, place);
    }
    return place;
  }

  #constant(id: number): number {
    return this.#floats(`constant ${id}`, () => toFloat32(this.#program.constants[id]!));
  }

  #constantWidth(id: number | undefined): number {
    return id === undefined ? 0 : this.#program.constants[id]!.shape.reduce((a, b) => a * b, 1);
  }

  /** Section of named rows, by the place of their operation. */
  #section(op: OpOf<'input' | 'inject'>): number {
    return sectionsOf(
      this.#named.slice(
        0,
        this.#named.findIndex(({ op: kind, name }) => kind === op.op && name === op.name),
      ),
    );
  }

  #angles(rope: number, id: TensorId): number {
    const { rows } = this.#program.tensors[id]!;
    const settings = this.#program.ropes[rope]!;
    const domain = rows as Rotation['rows'];
    let index = this.#rotations.findIndex((other) => other.rope === settings && other.rows === domain);
    if (index < 0) index = this.#rotations.push({ rope: settings, rows: domain }) - 1;
    return sectionsOf(this.#named) + index;
  }

  #op(op: Program['ops'][number]): void {
    const out = tensor(op.out);
    const [width, domain] = [this.#width(op.out), this.#domain(op.out)];
    const push = (kernel: Launch['kernel'], values: Launch['values']): void =>
      void this.#launches.push(each(kernel, domain, width, { out, ...values }));
    switch (op.op) {
      case 'embed':
        this.#launches.push(...lookUp(this.#weights[op.table]!, out, { factor: op.scale, scratch: this.#scratch, features: width }));
        return;
      case 'input':
        push(ROWS.input(), { named: this.#section(op) });
        break;
      case 'inject':
        push(ROWS.inject(), { x: tensor(op.x), named: this.#section(op) });
        break;
      case 'positionEmbed':
        push(ROWS.positionEmbed(), { x: tensor(op.x), table: this.#constant(op.table), offset: op.offset });
        break;
      case 'norm':
        this.#norm(op);
        break;
      case 'linear':
        this.#linear(op);
        break;
      case 'rope':
        this.#rope(op);
        break;
      case 'attend':
        this.#attend(op, {});
        break;
      case 'remember':
        this.#append({ k: op.k, v: op.v, cache: op.cache });
        break;
      case 'activate':
        push(ROWS.activate(op.kind), { x: tensor(op.x) });
        break;
      case 'gate':
        push(ROWS.gate(op.kind, { broadcast: this.#width(op.gate) === 1 && width > 1 }), { gate: tensor(op.gate), x: tensor(op.x) });
        break;
      case 'add':
        push(ROWS.add(), { a: tensor(op.a), b: tensor(op.b), factor: op.factor });
        break;
      case 'scale':
        push(ROWS.scale(), { x: tensor(op.x), factor: op.factor });
        break;
      case 'softcap':
        push(ROWS.softcap(), { x: tensor(op.x), cap: op.cap });
        break;
      case 'slice':
        push(ROWS.slice(), { x: tensor(op.x), x_width: this.#width(op.x), groups: op.groups, offset: op.offset });
        break;
      case 'select':
        push(ROWS.select(), { x: tensor(op.x) });
        break;
      case 'route':
        this.#route(op);
        break;
      case 'expertLinear':
        this.#experts(op);
        break;
      case 'combine':
        push(ROWS.combine(), { x: tensor(op.x), weights: tensor(op.weights), top_k: this.#width(op.weights) });
        break;
    }
  }

  /** Of an add, what is not `of`, and the factors of both. */
  #residual(add: OpOf<'add'>, of: TensorId): NonNullable<ProductParts['add']> {
    return add.b === of
      ? { residual: tensor(add.a), residual_factor: 1, factor: add.factor }
      : { residual: tensor(add.b), residual_factor: add.factor, factor: 1 };
  }

  #norm(op: OpOf<'norm'>, add?: OpOf<'add'>, where?: Launch['where']): void {
    const { x, out, groups, eps, kind, weight, weightOffset, bias } = op;
    const width = this.#width(x);
    const place = (id: number | undefined): 'part' | 'row' | undefined => {
      if (id === undefined) return undefined;
      return this.#constantWidth(id) === width ? 'row' : 'part';
    };
    const values = {
      ...{ x: tensor(x), out: tensor(add?.out ?? out), width, groups, eps, offset: weightOffset },
      weight: weight === undefined ? 0 : this.#constant(weight),
      bias: bias === undefined ? 0 : this.#constant(bias),
      ...(add ? this.#residual(add, out) : {}),
    };
    const kernel = normKernel({ kind, weight: place(weight), bias: place(bias), add: add !== undefined });
    this.#launches.push({ kernel, values, x: groups, y: { rows: this.#domain(x), per: 1 }, ...(where ? { where } : {}) });
  }

  /** x in the basis of a weight. */
  #turned(x: TensorId, { layout }: HeldWeight): Operand {
    if (layout.run === undefined) return this.#operand(x);
    const key = `${x} ${layout.run} ${layout.inp}`;
    const known = this.#rotated.get(key);
    if (known) return known;
    const made = rotated(layout, this.#operand(x), this.#scratch);
    this.#launches.push(...made.launches);
    this.#rotated.set(key, made.x);
    return made.x;
  }

  #linear({ x, weight, out }: OpOf<'linear'>): void {
    const held = this.#weights[weight]!;
    this.#launches.push(...plainProduct(held, this.#turned(x, held), tensor(out), this.#scratch));
  }

  #products({ x, norm, linears, gate, add }: Extract<Work, { kind: 'products' }>): void {
    const weights = linears.map(({ weight }) => this.#weights[weight]!);
    const result = gate?.out ?? add?.out;
    const outOf = (id: TensorId): { readonly ref: TensorRef; readonly width: number } => ({ ref: tensor(id), width: this.#width(id) });
    const outs = result === undefined ? linears.map(({ out }) => outOf(out)) : [outOf(result)];
    const residual = add && this.#residual(add, linears[0]!.out);
    const many = { domain: this.#domain(x), least: FEW.several + 1 };
    this.#launches.push(
      ...fewRows({
        x: this.#operand(norm?.x ?? x),
        weights,
        outs,
        ...(norm ? { norm: this.#fusedNorm(norm) } : {}),
        ...(gate ? { gate: gate.kind } : {}),
        ...(residual ? { add: residual } : {}),
      }),
    );
    if (norm) this.#norm(norm, undefined, many);
    for (const [i, linear] of linears.entries()) {
      this.#launches.push(...manyRows(weights[i]!, this.#operand(x), outOf(add?.out ?? linear.out), residual));
    }
    if (!gate) return;
    const kernel = ROWS.gate(gate.kind, { broadcast: false });
    const values = { out: tensor(gate.out), gate: tensor(gate.gate), x: tensor(gate.x) };
    this.#launches.push({ ...each(kernel, many.domain, this.#width(gate.out), values), where: many });
  }

  #fusedNorm({ kind, eps, weight, weightOffset, bias }: OpOf<'norm'>): NonNullable<ProductParts['norm']> {
    return {
      fused: { kind, weight: weight !== undefined, bias: bias !== undefined },
      values: {
        ...{ eps, norm_offset: weightOffset },
        norm_weight: weight === undefined ? 0 : this.#constant(weight),
        norm_bias: bias === undefined ? 0 : this.#constant(bias),
      },
    };
  }

  #ropeValues(name: string, { rope, heads, dim, x }: OpOf<'rope'>): Record<string, number> {
    return { [`${name}_part`]: this.#width(x) / heads, [`${name}_dim`]: dim, [`${name}_angles`]: this.#angles(rope, x) };
  }

  #rope(op: OpOf<'rope'>): void {
    const values = { x: tensor(op.x), out: tensor(op.out), ...this.#ropeValues('x', op) };
    this.#launches.push(each(ropeKernel(op.style), this.#domain(op.out), this.#width(op.out), values));
  }

  /** Rows into a cache, keys rotated on the way; queries beside them. */
  #append({
    k,
    v,
    cache,
    qRope,
    kRope,
  }: {
    readonly k: TensorId;
    readonly v: TensorId;
    readonly cache: number;
    readonly qRope?: OpOf<'rope'> | undefined;
    readonly kRope?: OpOf<'rope'> | undefined;
  }): void {
    const pairs = (width: number): number => Math.ceil(width / 2);
    const [kWidth, vWidth] = [this.#width(k), this.#width(v)];
    const qWidth = qRope ? this.#width(qRope.x) : 0;
    const domain = this.#domain(k);
    this.#launches.push({
      kernel: appendKernel({ dtype: this.#settings.kvDtype, q: qRope?.style, k: kRope?.style }),
      values: {
        ...{ k: tensor(kRope?.x ?? k), v: tensor(v), k_width: kWidth, v_width: vWidth, cache, q_pairs: pairs(qWidth) },
        ...(qRope ? { q: tensor(qRope.x), q_out: tensor(qRope.out), q_width: qWidth, ...this.#ropeValues('q', qRope) } : {}),
        ...(kRope ? this.#ropeValues('k', kRope) : {}),
      },
      x: Math.ceil((pairs(qWidth) + pairs(kWidth) + pairs(vWidth)) / 64),
      y: 1,
      share: { domain, cache },
    });
  }

  #attend(
    op: OpOf<'attend'>,
    { q: qRope, k: kRope }: { readonly q?: OpOf<'rope'> | undefined; readonly k?: OpOf<'rope'> | undefined },
  ): void {
    const { q, k, v, cache, heads, kvHeads, keyDim, valueDim, scale, causal, window = 0, softcap = 0, bias, out } = op;
    if (cache !== undefined && k !== undefined && v !== undefined) this.#append({ k, v, cache, qRope, kRope });
    const added = this.#positionBias(bias, heads);
    const kernel = attentionKernel({
      ...{ keyDim, valueDim, causal, window: window > 0, softcap: softcap > 0, bias: added.kind },
      cache: cache === undefined ? 'none' : this.#settings.kvDtype,
    });
    this.#launches.push({
      kernel,
      values: {
        ...{ q: tensor(q), out: tensor(out), heads, kv_heads: kvHeads, scale, window, cap: softcap, bias: added.table, reach: added.reach },
        ...(cache === undefined ? { k: tensor(k!), v: tensor(v!) } : { cache }),
      },
      x: heads,
      y: 1,
      share: { domain: this.#domain(q), cache },
    });
  }

  #positionBias(bias: PositionBias | undefined, heads: number): { kind: 'none' | 'alibi' | 'relative'; table: number; reach: number } {
    if (bias === undefined) return { kind: 'none', table: 0, reach: 0 };
    if (bias.kind === 'alibi') {
      return { kind: 'alibi', table: this.#floats(`slopes ${bias.slopes}`, () => Float32Array.from(bias.slopes)), reach: 0 };
    }
    const { table, buckets, maxDistance, bidirectional } = bias;
    const key = `relative ${table} ${buckets} ${maxDistance} ${bidirectional}`;
    const values = (): Float32Array => relativeBiasTable(toFloat32(this.#program.constants[table]!), bias, heads);
    return { kind: 'relative', table: this.#floats(key, values), reach: maxDistance };
  }

  #route({ x, out, weights, topK, scoring, normalize, scale }: OpOf<'route'>): void {
    this.#launches.push({
      kernel: routeKernel({ scoring, normalize }),
      values: { x: tensor(x), ids: tensor(out), weights: tensor(weights), experts: this.#width(x), top_k: topK, scale },
      x: { rows: this.#domain(x), per: 64 },
      y: 1,
    });
  }

  #experts({ x, ids, linears, out }: OpOf<'expertLinear'>): void {
    const topK = this.#width(ids);
    for (const [i, bank] of this.#settings.banks(linears).entries()) {
      const slots = this.#floats(`slots ${linears} ${i}`, () => bank.slots);
      if (bank.weight.layout.out !== this.#width(out)) throw new LowbitError('ERR_BAD_ARGUMENT', 'kernels-webgpu: experts of other widths');
      const operands = { x: this.#operand(x), ids: tensor(ids), out: tensor(out), topK, scratch: this.#scratch };
      this.#launches.push(...expertProduct({ ...bank, slots }, operands));
    }
  }
}
