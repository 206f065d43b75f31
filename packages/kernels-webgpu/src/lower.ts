// A program becomes a list of launches. Tensors keep their numbers; what launches need beside them gets numbers after those.

import { type ArenaTensor, LowbitError, type OpOf, type Program, type TensorId } from '@lowbit/core';
import { fuse, type Work } from './fuse.ts';
import {
  DOMAIN,
  type ExpertBank,
  each,
  expertProduct,
  FEW,
  fewRows,
  type HeldWeight,
  int8Product,
  int8Rows,
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
import { type AttentionSite, append, attend, rotate } from './lower-attention.ts';
import { ProgramData } from './program-data.ts';
import { fromRows, stagedLaunch, stagedPieces, stageOf } from './staged.ts';
import type { StepShape } from './step-block.ts';
import { normKernel } from './wgsl/norm.ts';
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
  readonly #data: ProgramData;
  /** What was made of a tensor for products: several read the same. */
  readonly #rotated = new Map<string, Operand>();
  readonly #scratch: Scratch = (domain, width) => tensor(this.#tensors.push({ rows: domain, width }) - 1);

  constructor(program: Program, weights: readonly HeldWeight[], settings: LowerSettings) {
    this.#program = program;
    this.#weights = weights;
    this.#settings = settings;
    this.#tensors = program.tensors.map(({ rows, width }) => ({ rows: DOMAIN[rows], width }));
    this.#data = new ProgramData(program);
  }

  finish(): LoweredProgram {
    return { tensors: this.#tensors, launches: this.#launches, ...this.#data.finish() };
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
        this.#launches.push(...attend(this.#site(), work.op, work));
        break;
      case 'normAdd':
        this.#norm(work.norm, work.add);
        break;
    }
  }

  #site(): AttentionSite {
    const { kvDtype } = this.#settings;
    return { program: this.#program, data: this.#data, tensors: this.#tensors, kvDtype, scratch: this.#scratch };
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

  #constantWidth(id: number | undefined): number {
    return id === undefined ? 0 : this.#program.constants[id]!.shape.reduce((a, b) => a * b, 1);
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
        push(ROWS.input(), { named: this.#data.section(op) });
        break;
      case 'inject':
        push(ROWS.inject(), { x: tensor(op.x), named: this.#data.section(op) });
        break;
      case 'positionEmbed':
        push(ROWS.positionEmbed(), { x: tensor(op.x), table: this.#data.constant(op.table), offset: op.offset });
        break;
      case 'norm':
        this.#norm(op);
        break;
      case 'linear':
        this.#linear(op);
        break;
      case 'rope':
        this.#launches.push(rotate(this.#site(), op));
        break;
      case 'attend':
        this.#launches.push(...attend(this.#site(), op, {}));
        break;
      case 'remember':
        this.#launches.push(append(this.#site(), op));
        break;
      case 'activate':
        push(ROWS.activate(op.kind), { x: tensor(op.x) });
        break;
      case 'gate':
        this.#launches.push(this.#gate(op));
        break;
      case 'add':
        this.#launches.push(this.#add(op));
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
      weight: weight === undefined ? 0 : this.#data.constant(weight),
      bias: bias === undefined ? 0 : this.#data.constant(bias),
      ...(add ? this.#residual(add, out) : {}),
    };
    const kernel = normKernel({ kind, weight: place(weight), bias: place(bias), add: add !== undefined });
    this.#launches.push({ kernel, values, x: groups, y: { rows: this.#domain(x), per: 1 }, ...(where ? { where } : {}) });
  }

  /** x in the basis of a weight, in steps of at least so many rows. */
  #turned(x: TensorId, { layout }: HeldWeight, least: number): Operand {
    if (layout.run === undefined) return this.#operand(x);
    const key = `${x} ${layout.run} ${layout.inp} ${least}`;
    const known = this.#rotated.get(key);
    if (known) return known;
    const made = rotated(layout, this.#operand(x), this.#scratch);
    this.#launches.push(...fromRows(this.#domain(x), least, made.launches));
    this.#rotated.set(key, made.x);
    return made.x;
  }

  #linear({ x, weight, out }: OpOf<'linear'>): void {
    const held = this.#weights[weight]!;
    const staged = stageOf(held.layout) !== undefined;
    if (staged) this.#launches.push(...stagedPieces(held, this.#operand(x), { ref: tensor(out), width: this.#width(out) }));
    this.#several(held, x, tensor(out), staged ? FEW.one + 1 : 0);
  }

  /** A product by itself, in steps of at least so many rows. */
  #several(held: HeldWeight, x: TensorId, out: TensorRef, least: number): void {
    const made = plainProduct(held, this.#turned(x, held, least), out, this.#scratch);
    this.#launches.push(...fromRows(this.#domain(x), least, made));
  }

  #products({ x, norm, linears, gate, add }: Extract<Work, { kind: 'products' }>): void {
    const weights = linears.map(({ weight }) => this.#weights[weight]!);
    const { layout } = weights[0]!;
    const result = gate?.out ?? add?.out;
    const outOf = (id: TensorId): { readonly ref: TensorRef; readonly width: number } => ({ ref: tensor(id), width: this.#width(id) });
    const outs = result === undefined ? linears.map(({ out }) => outOf(out)) : [outOf(result)];
    const residual = add && this.#residual(add, linears[0]!.out);
    const ends = { ...(gate ? { gate: gate.kind } : {}), ...(residual ? { add: residual } : {}) };
    const fused = { x: this.#operand(norm?.x ?? x), weights, outs, ...(norm ? { norm: this.#fusedNorm(norm) } : {}), ...ends };
    const domain = this.#domain(x);
    const staged = stageOf(layout) !== undefined;
    this.#launches.push(...(staged ? [stagedLaunch(fused, { most: FEW.one })] : fewRows(fused)));
    const alone = { domain, least: (staged ? FEW.one : FEW.several) + 1 };
    if (norm) this.#norm(norm, undefined, alone);
    if (layout.kind === 'int8') {
      const made = int8Rows(layout, this.#operand(x), this.#scratch, { shared: true });
      const products = linears.map(({ out }, i) =>
        int8Product(weights[i]!, made, this.#operand(x), { ...weights[i]!.pieces[0]!, out: tensor(out) }),
      );
      this.#launches.push(...fromRows(domain, alone.least, [...made.launches, ...products]));
    } else {
      const from = staged ? this.#turned(x, weights[0]!, alone.least) : this.#operand(x);
      if (staged) this.#launches.push(...fewRows({ x: from, weights, outs, ...ends }, { least: alone.least }));
      for (const [i, linear] of linears.entries()) {
        this.#launches.push(...manyRows(weights[i]!, from, outOf(add?.out ?? linear.out), residual));
      }
    }
    const apart = layout.kind === 'int8' ? alone.least : FEW.several + 1;
    if (gate) this.#launches.push(...fromRows(domain, apart, [this.#gate(gate)]));
    if (add && layout.kind === 'int8') this.#launches.push(...fromRows(domain, apart, [this.#add(add)]));
  }

  #gate({ kind, gate, x, out }: OpOf<'gate'>): Launch {
    const width = this.#width(out);
    const kernel = ROWS.gate(kind, { broadcast: this.#width(gate) === 1 && width > 1 });
    return each(kernel, this.#domain(out), width, { out: tensor(out), gate: tensor(gate), x: tensor(x) });
  }

  #add({ a, b, factor, out }: OpOf<'add'>): Launch {
    return each(ROWS.add(), this.#domain(out), this.#width(out), { out: tensor(out), a: tensor(a), b: tensor(b), factor });
  }

  #fusedNorm({ kind, eps, weight, weightOffset, bias }: OpOf<'norm'>): NonNullable<ProductParts['norm']> {
    return {
      fused: { kind, weight: weight !== undefined, bias: bias !== undefined },
      values: {
        ...{ eps, norm_offset: weightOffset },
        norm_weight: weight === undefined ? 0 : this.#data.constant(weight),
        norm_bias: bias === undefined ? 0 : this.#data.constant(bias),
      },
    };
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
      const slots = this.#data.floats(`slots ${linears} ${i}`, () => bank.slots);
      if (bank.weight.layout.out !== this.#width(out)) throw new LowbitError('ERR_BAD_ARGUMENT', 'kernels-webgpu: experts of other widths');
      const operands = { x: this.#operand(x), ids: tensor(ids), out: tensor(out), topK, scratch: this.#scratch };
      const many = expertProduct({ ...bank, slots }, operands);
      if (!stageOf(bank.weight.layout)) {
        this.#launches.push(...many);
        continue;
      }
      const weights = [{ ...bank.weight, pieces: [bank] }];
      const parts = { x: operands.x, weights, outs: [{ ref: operands.out, width: this.#width(out) }] };
      const experts = { ids: operands.ids, slots, stride: bank.stride, top_k: operands.x.domain === DOMAIN.tokens ? topK : 0 };
      this.#launches.push(stagedLaunch(parts, { most: FEW.several, at: bank.piece.from, experts }));
      this.#launches.push(...fromRows(DOMAIN.routed, FEW.several + 1, many));
    }
  }
}
