// Mixtures of experts as launches: in a step of few tokens each row reads all of the weight of its expert; where there are more, the rows of an expert are brought
// together and multiplied by it on tensor cores.

import { LowbitError, type OpOf } from '@lowbit/core';
import type { Argument, Launch } from './binding.ts';
import type { Planes } from './fused-launches.ts';
import { blocks, DOMAIN, FEW_ROWS, hasGemv, int, int8Launches, planeOrder, planesLaunch, type RowCount, rowArgument } from './launches.ts';
import type { WeightLayout } from './layout.ts';
import { type LoweredLinear, type LoweringContext, remembered, tensor } from './lower-context.ts';
import type { ProductLowering } from './lower-products.ts';

/** Rows of a weight to a block of native/kernels/experts.cuh, and rows of x for which it has blocks of its own: more take turns. */
const TILE_ROWS = 16;
const ROWS_AT_ONCE = 512;

/** Rows by expert: `group_rows`. */
interface Groups {
  readonly order: Argument;
  readonly source: Argument;
  readonly begins: Argument;
}

export class ExpertLowering {
  readonly #context: LoweringContext;
  readonly #products: ProductLowering;
  readonly #groups = new Map<string, Groups>();
  readonly #planes = new Map<string, Planes>();

  constructor(context: LoweringContext, products: ProductLowering) {
    this.#context = context;
    this.#products = products;
  }

  /** Throws ERR_UNSUPPORTED_FORMAT. */
  run(op: OpOf<'expertLinear'>, width: number): void {
    const { x, ids, linears, out } = op;
    const experts = linears.map((id) => this.#context.linears[id]!);
    const layouts = experts.map(({ layout }) => layout);
    const [layout] = layouts as [WeightLayout];
    refuseOthers(layouts, linears);
    const topK = this.#context.program.tensors[ids]!.width;
    const shared = this.#context.domain(x) === DOMAIN.tokens;
    const table = this.#table(experts, linears);
    const rows = this.#context.rows(out);
    const many = (list: readonly Launch[]): readonly Launch[] =>
      list.map((launch) => ({ ...launch, where: { rows: DOMAIN.routed, least: FEW_ROWS * topK + 1 } }));
    const few = (list: readonly Launch[]): readonly Launch[] =>
      list.map((launch) => ({ ...launch, where: { rows: DOMAIN.routed, least: 1, most: FEW_ROWS * topK } }));
    const push = (...list: readonly Launch[]): void => void this.#context.launches.push(...list);

    const one = (kernel: string, perBlock: number, given: readonly Argument[]): Launch => ({
      kernel,
      grid: [Math.ceil(width / perBlock), blocks(rows), 1],
      block: 128,
      arguments: [table, int(experts.length), tensor(ids), ...given, tensor(out), int(width), int(topK), int(shared ? 1 : 0)],
    });
    const tiles = (kernel: string, given: readonly Argument[]): readonly Launch[] => {
      const grouped = this.#grouped(ids, experts.length, topK, { shared, rows, push: (launch) => push(...many([launch])) });
      return many([
        {
          kernel,
          grid: [Math.ceil(width / TILE_ROWS), experts.length + 1, blocks(rows, { per: ROWS_AT_ONCE })],
          block: 128,
          arguments: [
            ...[table, int(experts.length), grouped.order, grouped.source, grouped.begins],
            ...[...given, tensor(out), int(width)],
          ],
        },
      ]);
    };

    const xRows = this.#context.rows(x);
    const scratch = this.#context.scratch(this.#context.domain(x));
    if (layout.kind === 'int8') {
      const { launches, codes, scale } = int8Launches(layout, { rows: xRows, x: tensor(x) }, scratch, { shared: false });
      push(...launches, ...few([one('int8_expert_product', 4, [codes, scale, tensor(x)])]));
      let marks: Argument = null;
      if (layout.threshold > 0) {
        marks = scratch.perRow(Math.ceil(layout.inp / 32));
        const list = [tensor(x), int(layout.inp), { float: layout.threshold }, marks];
        push(...many([{ kernel: 'int8_marks', grid: [blocks(xRows), 1, 1], block: 128, arguments: list }]));
      }
      push(...tiles('int8_experts', [codes, scale, tensor(x), marks]));
      return;
    }
    const from = this.#products.rotated(x, layout);
    if (layouts.every((other) => hasGemv(other) && planeOrder(other) === planeOrder(layout))) {
      const { planes, numbers } = this.#planesOf(from, x, layout, (natural, launch) => push(...(natural ? many : few)([launch])));
      push(...few([one('gemv_experts', 8, [planes, numbers])]), ...tiles('mma_experts', [planes, numbers]));
      return;
    }
    const each = layouts.every(({ codebook }) => codebook) ? one('codebook_experts', 16, [from]) : one('expert_product', 4, [from]);
    if (layouts.every(({ wide }) => wide)) push(...few([each]), ...tiles('wide_experts', [from]));
    else push(each);
  }

  /** Addresses of the experts. */
  #table(experts: readonly LoweredLinear[], linears: readonly number[]): Argument {
    for (const { buffer } of experts) this.#context.buffers.add(buffer); // the table points to them: they must stay
    return this.#context.buffer(`experts ${linears}`, () => {
      const addresses = BigUint64Array.from(experts, ({ buffer }) => this.#context.settings.addressOf(buffer));
      return new Uint8Array(addresses.buffer);
    });
  }

  #grouped(
    ids: number,
    experts: number,
    topK: number,
    { shared, rows, push }: { readonly shared: boolean; readonly rows: RowCount; readonly push: (launch: Launch) => void },
  ): Groups {
    return remembered(this.#groups, `${ids} ${experts} ${shared}`, () => {
      const [order, source] = [this.#context.temporary(DOMAIN.routed, 1), this.#context.temporary(DOMAIN.routed, 1)];
      const begins = this.#context.temporary(DOMAIN.once, experts + 2);
      const list = [tensor(ids), rowArgument(rows), int(experts), int(topK), int(shared ? 1 : 0), order, source, begins];
      push({ kernel: 'group_rows', grid: [experts + 1, 1, 1], block: 256, arguments: list });
      return { order, source, begins };
    });
  }

  /** Planes of x (`from`: in the basis of the weights), in the order of products of few rows or in that of tensor cores. */
  #planesOf(from: Argument, x: number, layout: WeightLayout, push: (natural: boolean, launch: Launch) => void): Planes {
    const { inp } = layout;
    return remembered(this.#planes, `${JSON.stringify(from)} ${planeOrder(layout)}`, () => {
      const scratch = this.#context.scratch(this.#context.domain(x));
      const made = { planes: scratch.perRow((inp / 32) * 24), numbers: scratch.perRow((inp / 32) * 2) };
      const launch = (natural: boolean): Launch => planesLaunch(this.#context.rows(x), from, layout, made, { natural });
      push(false, launch(planeOrder(layout) === 'natural'));
      push(true, launch(true));
      return made;
    });
  }
}

function refuseOthers(layouts: readonly WeightLayout[], linears: readonly number[]): void {
  const [layout] = layouts as [WeightLayout];
  const alike = (other: WeightLayout): boolean =>
    (other.kind === 'int8') === (layout.kind === 'int8') &&
    other.run === layout.run &&
    other.inp === layout.inp &&
    other.threshold === layout.threshold;
  if (layouts.every(alike)) return;
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', 'kernels-cuda: experts of one operation differ in rotation or outlier threshold', {
    hint: 'Quantize all experts of a layer with one method.',
    details: { linears },
  });
}
