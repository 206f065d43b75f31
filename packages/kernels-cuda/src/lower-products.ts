// Products of a program as launches: one by one, and several together where rows are few.

import type { Activation, OpOf } from '@lowbit/core';
import type { Argument, Launch } from './binding.ts';
import { type Fused, floatKernels, type StepAttention } from './fuse.ts';
import { type Int8Inputs, int8AddedLaunch, int8FewLaunch, int8GatedLaunch, int8NormedLaunch } from './fused-int8.ts';
import { addedFloatsLaunch, addedLaunch, gatedLaunch, NO_NORM, normedLaunch, type PlacedWeight, type Planes } from './fused-launches.ts';
import {
  DOMAIN,
  type Preparation,
  planeOrder,
  planeWidths,
  preparation,
  productLaunches,
  type RowCount,
  type Scratch,
} from './launches.ts';
import type { WeightLayout } from './layout.ts';
import { type LoweringContext, manyRows, remembered, tensor } from './lower-context.ts';

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
  readonly #int8 = new Map<string, Int8Inputs>();
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
        if (weights[0]!.layout.kind === 'int8') {
          this.#context.launches.push(int8NormedLaunch(this.#context.domain(x), this.#int8Inputs(x, norm, weights[0]!.layout), weights));
          break;
        }
        this.#context.launches.push(
          normedLaunch(this.#context.domain(x), tensor(x), norm ? this.#context.normArguments(norm) : NO_NORM, weights),
        );
        break;
      }
      case 'gated': {
        const { x, norm, gate, up, op } = fused;
        const weights = { gate: this.#placed(gate), up: this.#placed(up), activation: ACTIVATIONS.indexOf(op.kind) };
        if (weights.gate.layout.kind === 'int8') {
          const inputs = this.#int8Inputs(x, norm, weights.gate.layout);
          this.#context.launches.push(int8GatedLaunch(this.#context.domain(x), inputs, { ...weights, out: tensor(op.out) }));
          break;
        }
        const to = planes.has(op.out) ? this.planesFor(op.out) : { out: tensor(op.out) };
        this.#context.launches.push(
          gatedLaunch(this.#context.domain(x), tensor(x), norm ? this.#context.normArguments(norm) : NO_NORM, weights, to),
        );
        break;
      }
      case 'added': {
        const { linear, op } = fused;
        const { layout, at } = this.#placed(linear);
        const domain = this.#context.domain(op.out);
        const productIsB = op.b === linear.out;
        const added = { other: tensor(productIsB ? op.a : op.b), factor: op.factor, productIsB, out: tensor(op.out) };
        if (layout.kind === 'int8') {
          const inputs = this.#int8Inputs(linear.x, undefined, layout);
          this.#context.launches.push(int8AddedLaunch(domain, inputs, { layout, at }, added));
          break;
        }
        if (floatKernels(layout)) {
          this.#context.launches.push(addedFloatsLaunch(domain, { layout, at }, tensor(linear.x), added));
          break;
        }
        const quantized = this.#preparation(linear.x, this.#context.rows(linear.x)).planes(tensor(linear.x), layout);
        this.#context.launches.push(addedLaunch(domain, { layout, at }, quantized, added));
        break;
      }
    }
  }

  /** Rows of x in 8 bits, normalised or not: made once for all products that run together. */
  #int8Inputs(x: number, norm: OpOf<'norm'> | undefined, layout: WeightLayout): Int8Inputs {
    return remembered(this.#int8, `${norm ? norm.out : x} ${layout.threshold}`, () => {
      const domain = this.#context.domain(x);
      const normed = norm ? this.#context.temporary(domain, layout.inp) : null;
      const inputs = {
        codes: this.#context.temporary(domain, layout.rowWords),
        scale: this.#context.temporary(domain, 1),
        x: normed ?? tensor(x),
        columns: this.#context.temporary(DOMAIN.once, 1 + layout.inp),
      };
      const list = norm ? this.#context.normArguments(norm) : NO_NORM;
      this.#context.launches.push(int8FewLaunch(domain, tensor(x), list, layout, normed, inputs));
      return inputs;
    });
  }

  /** Of tensor `id`: what is made of it once serves all products that read it in the same way. */
  #preparation(id: number, rows: RowCount): Preparation {
    const made = preparation(
      rows,
      tensor(id),
      this.#context.settings.planes,
      this.#context.scratch(this.#context.domain(id)),
      this.#context.launches,
    );
    const { program, linears, fusion } = this.#context;
    const layout = (weight: number): WeightLayout => linears[weight]!.layout;
    // Where one product or another takes it as it is made.
    const taken = (alike: (of: WeightLayout) => boolean): boolean =>
      program.ops.some((op) => op.op === 'linear' && op.x === id && alike(layout(op.weight)) && fusion.readsPrepared(op));
    const turned = ({ run, inp }: WeightLayout): boolean =>
      taken((of) => of.run === run && of.inp === inp) ||
      program.ops.some((op) => op.op === 'expertLinear' && op.x === id && layout(op.linears[0]!).run === run);
    return {
      count: made.count,
      rotated: (of) => remembered(this.#rotated, `${id} ${of.run} ${of.inp}`, () => this.#prepared(id, turned(of), () => made.rotated(of))),
      planes: (x, of) => {
        const order = planeOrder(of);
        const make = (): Planes =>
          this.#prepared(
            id,
            taken((other) => planeOrder(other) === order),
            () => made.planes(x, of),
          );
        return remembered(this.#planes, `${JSON.stringify(x)} ${order}`, make);
      },
      pairs: (x, of) => remembered(this.#pairs, JSON.stringify(x), () => made.pairs(x, of)),
    };
  }

  /** What is made of tensor `id`, as launches that run where somebody takes it. */
  #prepared<T>(id: number, taken: boolean, make: () => T): T {
    const { launches } = this.#context;
    const from = launches.length;
    const made = make();
    if (!taken) launches.push(...manyRows(launches.splice(from), this.#context.domain(id)));
    return made;
  }

  /** What a producer leaves quantized where rows are few is quantized by itself where there are more. */
  quantize(id: number): void {
    const reader = this.#context.program.ops.find((op) => op.op === 'linear' && op.x === id) as OpOf<'linear'>;
    const { layout } = this.#context.linears[reader.weight]!;
    const [launches, { planes, numbers }] = [[] as Launch[], this.planesFor(id)];
    let at = 0;
    const scratch: Scratch = { ...this.#context.scratch(this.#context.domain(id)), perRow: () => [planes, numbers][at++]! };
    preparation(this.#context.rows(id), tensor(id), this.#context.settings.planes, scratch, launches).planes(tensor(id), layout);
    this.#context.launches.push(...manyRows(launches, this.#context.domain(id)));
  }

  /** Room for the planes of a tensor that its producer makes. */
  planesFor(id: number): Planes & { readonly order: ReturnType<typeof planeOrder> } {
    const reader = this.#context.program.ops.find((op) => op.op === 'linear' && op.x === id) as OpOf<'linear'>;
    const order = planeOrder(this.#context.linears[reader.weight]!.layout);
    const { width } = this.#context.program.tensors[id]!;
    const made = remembered(this.#planes, `${JSON.stringify(tensor(id))} ${order}`, () => {
      const { planes, numbers } = planeWidths(width, this.#context.settings.planes);
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

  /** Tensor `id` in the basis of a weight. */
  rotated(id: number, layout: WeightLayout): Argument {
    return this.#preparation(id, this.#context.rows(id)).rotated(layout);
  }
}
