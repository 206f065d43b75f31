// Products of a program as launches: one by one, several together where rows are few, and those of experts.

import { type Activation, LowbitError, type OpOf } from '@lowbit/core';
import type { Argument, Launch } from './binding.ts';
import type { Fused, StepAttention } from './fuse.ts';
import { addedLaunch, gatedLaunch, NO_NORM, normedLaunch, type PlacedWeight, type Planes } from './fused-launches.ts';
import {
  blocks,
  DOMAIN,
  hasGemv,
  int,
  int8Launches,
  type Preparation,
  planeOrder,
  planesLaunch,
  planeWidths,
  preparation,
  productLaunches,
  type RowCount,
  type Scratch,
} from './launches.ts';
import type { WeightLayout } from './layout.ts';
import { type LoweredLinear, type LoweringContext, manyRows, remembered, tensor } from './lower-context.ts';

export const ACTIVATIONS: readonly Activation[] = [
  'silu',
  'gelu',
  'gelu_tanh',
  'quick_gelu',
  'relu',
  'relu2',
  'sigmoid',
  'tanh',
  'identity',
];

/** Keeps what was made of tensors for products. */
export class ProductLowering {
  readonly #context: LoweringContext;
  /** What was made of a tensor for products: several read the same. */
  readonly #rotated = new Map<string, Argument>();
  readonly #planes = new Map<string, Planes>();
  readonly #pairs = new Map<string, Planes>();

  constructor(context: LoweringContext) {
    this.#context = context;
  }

  fused(fused: Exclude<Fused, StepAttention>): void {
    const { planes } = this.#context.fusion;
    switch (fused.kind) {
      case 'normed': {
        const { x, norm, linears } = fused;
        const weights = linears.map((linear) => ({ ...this.#placed(linear), out: tensor(linear.out) }));
        this.#context.launches.push(
          normedLaunch(this.#context.domain(x), tensor(x), norm ? this.#context.normArguments(norm) : NO_NORM, weights),
        );
        break;
      }
      case 'gated': {
        const { x, norm, gate, up, op } = fused;
        const weights = { gate: this.#placed(gate), up: this.#placed(up), activation: ACTIVATIONS.indexOf(op.kind) };
        const to = planes.has(op.out) ? this.planesFor(op.out) : { out: tensor(op.out) };
        this.#context.launches.push(
          gatedLaunch(this.#context.domain(x), tensor(x), norm ? this.#context.normArguments(norm) : NO_NORM, weights, to),
        );
        break;
      }
      case 'added': {
        const { linear, op } = fused;
        const { layout, at } = this.#placed(linear);
        const quantized = this.#preparation(linear.x, this.#context.rows(linear.x)).planes(tensor(linear.x), layout);
        const productIsB = op.b === linear.out;
        const added = { other: tensor(productIsB ? op.a : op.b), factor: op.factor, productIsB, out: tensor(op.out) };
        this.#context.launches.push(addedLaunch(this.#context.domain(op.out), { layout, at }, quantized, added));
        break;
      }
    }
  }

  /** Of tensor `id`: what is made of it once serves all products that read it in the same way. */
  #preparation(id: number, rows: RowCount): Preparation {
    const made = preparation(rows, tensor(id), this.#context.scratch(this.#context.domain(id)), this.#context.launches);
    return {
      rotated: (layout) => remembered(this.#rotated, `${id} ${layout.run} ${layout.inp}`, () => made.rotated(layout)),
      planes: (x, layout) =>
        remembered(this.#planes, `${JSON.stringify(x)} ${planeOrder(layout)}`, () =>
          this.#planesOf(id, planeOrder(layout), () => made.planes(x, layout)),
        ),
      pairs: (x, layout) => remembered(this.#pairs, JSON.stringify(x), () => made.pairs(x, layout)),
    };
  }

  /** Planes as launches that run where somebody takes them. */
  #planesOf(id: number, order: ReturnType<typeof planeOrder>, make: () => Planes): Planes {
    const from = this.#context.launches.length;
    const planes = make();
    const taken = this.#context.program.ops.some(
      (op) =>
        op.op === 'linear' &&
        op.x === id &&
        planeOrder(this.#context.linears[op.weight]!.layout) === order &&
        this.#context.fusion.readsPlanes(op),
    );
    if (!taken) this.#context.launches.push(...manyRows(this.#context.launches.splice(from), this.#context.domain(id)));
    return planes;
  }

  /** What a producer leaves quantized where rows are few is quantized by itself where there are more. */
  quantize(id: number): void {
    const reader = this.#context.program.ops.find((op) => op.op === 'linear' && op.x === id) as OpOf<'linear'>;
    const { layout } = this.#context.linears[reader.weight]!;
    const [launches, { planes, numbers }] = [[] as Launch[], this.planesFor(id)];
    let at = 0;
    const scratch: Scratch = { ...this.#context.scratch(this.#context.domain(id)), perRow: () => [planes, numbers][at++]! };
    preparation(this.#context.rows(id), tensor(id), scratch, launches).planes(tensor(id), layout);
    this.#context.launches.push(...manyRows(launches, this.#context.domain(id)));
  }

  /** Room for the planes of a tensor that its producer makes. */
  planesFor(id: number): Planes & { readonly order: ReturnType<typeof planeOrder> } {
    const reader = this.#context.program.ops.find((op) => op.op === 'linear' && op.x === id) as OpOf<'linear'>;
    const order = planeOrder(this.#context.linears[reader.weight]!.layout);
    const { width } = this.#context.program.tensors[id]!;
    const made = remembered(this.#planes, `${JSON.stringify(tensor(id))} ${order}`, () => {
      const { planes, numbers } = planeWidths(width);
      const domain = this.#context.domain(id);
      return { planes: this.#context.temporary(domain, planes), numbers: this.#context.temporary(domain, numbers) };
    });
    return { ...made, order };
  }

  #placed({ weight }: OpOf<'linear'>): PlacedWeight {
    const { layout, buffer } = this.#context.linears[weight]!;
    return { layout, at: this.#context.buffers.add(buffer) };
  }

  linear(op: OpOf<'linear'>, rows: RowCount): void {
    const { x, weight, out } = op;
    const { layout, buffer } = this.#context.linears[weight]!;
    const operands = { rows, x: tensor(x), out: tensor(out) };
    const prepare = this.#preparation(x, rows);
    const launches = productLaunches(
      layout,
      this.#context.buffers.add(buffer),
      operands,
      prepare,
      this.#context.scratch(this.#context.domain(x)),
    );
    this.#context.launches.push(...(this.#context.fusion.covered.has(op) ? manyRows(launches, this.#context.domain(out)) : launches));
  }

  experts({ x, ids, linears, out }: OpOf<'expertLinear'>, rows: RowCount, width: number): void {
    const experts = linears.map((id) => this.#context.linears[id]!);
    const [{ layout }] = experts as [LoweredLinear];
    const alike = (other: WeightLayout): boolean =>
      (other.kind === 'int8') === (layout.kind === 'int8') &&
      other.run === layout.run &&
      other.inp === layout.inp &&
      other.threshold === layout.threshold;
    if (!experts.every((expert) => alike(expert.layout))) {
      throw new LowbitError('ERR_UNSUPPORTED_FORMAT', 'kernels-cuda: experts of one operation differ in rotation or outlier threshold', {
        hint: 'Quantize all experts of a layer with one method.',
        details: { linears },
      });
    }
    for (const { buffer } of experts) this.#context.buffers.add(buffer); // the table below points to them: they must stay
    const table = this.#context.buffer(`experts ${linears}`, () => {
      const addresses = BigUint64Array.from(experts, ({ buffer }) => this.#context.settings.addressOf(buffer));
      return new Uint8Array(addresses.buffer);
    });
    const topK = this.#context.program.tensors[ids]!.width;
    const shared = this.#context.domain(x) === DOMAIN.tokens;
    const grid = [Math.ceil(width / 4), blocks(rows), 1] as const;
    const tail = [tensor(out), int(width), int(topK), int(shared ? 1 : 0)];
    const head = [table, int(experts.length), tensor(ids)];
    const scratch = this.#context.scratch(this.#context.domain(x));
    const xRows = this.#context.rows(x);
    if (layout.kind === 'int8') {
      const made = int8Launches(layout, { rows: xRows, x: tensor(x) }, scratch, { shared: false });
      const list = [...head, made.codes, made.scale, tensor(x), ...tail];
      this.#context.launches.push(...made.launches, { kernel: 'int8_expert_product', grid, block: 128, arguments: list });
      return;
    }
    const layouts = experts.map((expert) => expert.layout);
    const from = this.#preparation(x, xRows).rotated(layout);
    if (layouts.every((other) => hasGemv(other) && planeOrder(other) === planeOrder(layout))) {
      const { planes, numbers } = this.#expertPlanes(from, x, layout);
      const eight = [Math.ceil(width / 8), blocks(rows), 1] as const;
      this.#context.launches.push({ kernel: 'gemv_experts', grid: eight, block: 128, arguments: [...head, planes, numbers, ...tail] });
      return;
    }
    const codebooks = layouts.every(({ codebook }) => codebook);
    const each = codebooks
      ? { kernel: 'codebook_experts', grid: [Math.ceil(width / 16), blocks(rows), 1] as const }
      : { kernel: 'expert_product', grid };
    this.#context.launches.push({ ...each, block: 128, arguments: [...head, from, ...tail] });
  }

  /** Planes of x (`from`: in the basis of the weights) as products of few rows want them, whatever the rows: those of experts are of one row each. */
  #expertPlanes(from: Argument, x: number, layout: WeightLayout): Planes {
    const { inp } = layout;
    return remembered(this.#planes, `experts ${JSON.stringify(from)} ${planeOrder(layout)}`, () => {
      const scratch = this.#context.scratch(this.#context.domain(x));
      const made = { planes: scratch.perRow((inp / 32) * 24), numbers: scratch.perRow((inp / 32) * 2) };
      this.#context.launches.push(planesLaunch(this.#context.rows(x), from, layout, made, { natural: planeOrder(layout) === 'natural' }));
      return made;
    });
  }
}
