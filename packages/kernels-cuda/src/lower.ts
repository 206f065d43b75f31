// A program as a list of launches: one kernel for each operation, or the few that a product takes; where a step has one or two rows, one for all that
// fuse.ts finds to go together.

import type { Op, OpOf, Program } from '@lowbit/core';
import type { Argument } from './binding.ts';
import { blocks, DOMAIN, elementwise, float, hadamardLaunch, int, type RowCount, rowArgument } from './launches.ts';
import { appendLaunch, attendFew, attendLaunches } from './lower-attention.ts';
import {
  type LoweredLinear,
  type LoweredProgram,
  LoweringContext,
  type LowerSettings,
  manyRows,
  type NamedRows,
  STEP,
  tensor,
} from './lower-context.ts';
import { ExpertLowering } from './lower-experts.ts';
import { ACTIVATIONS, ProductLowering } from './lower-products.ts';
import { placeLaunched } from './place.ts';
import { prefetched } from './prefetch.ts';

export type { LoweredLinear, LoweredProgram, LowerSettings, NamedRows } from './lower-context.ts';

/** The program must be valid and the linears fit it. Throws ERR_UNSUPPORTED_FORMAT for experts of formats that do not go together. */
export function lowerProgram(program: Program, linears: readonly LoweredLinear[], settings: LowerSettings): LoweredProgram {
  const lowering = new Lowering(program, linears, settings);
  for (const op of program.ops) lowering.run(op);
  return lowering.finish();
}

class Lowering {
  readonly #context: LoweringContext;
  readonly #products: ProductLowering;
  readonly #experts: ExpertLowering;
  readonly #named: NamedRows[] = [];
  #sections = 0;

  constructor(program: Program, linears: readonly LoweredLinear[], settings: LowerSettings) {
    this.#context = new LoweringContext(program, linears, settings);
    this.#products = new ProductLowering(this.#context);
    this.#experts = new ExpertLowering(this.#context, this.#products);
  }

  finish(): LoweredProgram {
    const { launches, tensors, program, buffers, linears, settings } = this.#context;
    const placed = placeLaunched(tensors, launches, new Set(Object.values(program.outputs)));
    const brought = prefetched(launches, buffers.handles, linears, {
      slot: settings.room,
      header: settings.constant,
      addressOf: settings.addressOf,
    });
    return { spec: { ...brought, ...placed }, named: this.#named };
  }

  run(op: Op): void {
    const { fusion, launches } = this.#context;
    const fused = fusion.at.get(op);
    if (fused?.kind === 'attend') attendFew(this.#context, this.#products, fused);
    else if (fused) this.#products.fused(fused);
    const from = launches.length;
    this.#lower(op);
    if (!('out' in op)) return;
    // A product says by itself which of its launches run: what it prepares may serve others.
    if (fusion.covered.has(op) && op.op !== 'linear') launches.push(...manyRows(launches.splice(from), this.#context.domain(op.out)));
    if (fusion.planes.has(op.out)) this.#products.quantize(op.out);
  }

  #lower(op: Op): void {
    const out = tensor(op.out);
    const { width } = this.#context.program.tensors[op.out]!;
    const rows = this.#context.rows(op.out);
    const each = (kernel: string, ...list: readonly Argument[]): void =>
      void this.#context.launches.push(elementwise(kernel, rows, width, list));
    switch (op.op) {
      case 'embed':
        this.#embed(op, rows, width);
        break;
      case 'input':
        each('input_rows', STEP, int(this.#name(op, op.out, 1)), out, int(width));
        break;
      case 'inject':
        each('inject', tensor(op.x), STEP, int(this.#name(op, op.out, 2)), out, int(width));
        break;
      case 'positionEmbed':
        each(
          'position_embed',
          tensor(op.x),
          STEP,
          int(this.#context.domain(op.out)),
          this.#context.constant(op.table),
          int(op.offset),
          out,
          int(width),
        );
        break;
      case 'norm':
        this.#norm(op, rows, width);
        break;
      case 'linear':
        this.#products.linear(op, rows);
        break;
      case 'rope':
        this.#rope(op, rows, width);
        break;
      case 'attend':
        attendLaunches(this.#context, op, rows);
        break;
      case 'remember':
        appendLaunch(this.#context, op.k, op.v, op.cache);
        break;
      case 'activate':
        each('activate', tensor(op.x), out, int(width), int(ACTIVATIONS.indexOf(op.kind)));
        break;
      case 'gate': {
        const gateWidth = this.#context.program.tensors[op.gate]!.width;
        each('gate', tensor(op.gate), int(gateWidth), tensor(op.x), out, int(width), int(ACTIVATIONS.indexOf(op.kind)));
        break;
      }
      case 'add':
        each('add', tensor(op.a), tensor(op.b), out, int(width), float(op.factor));
        break;
      case 'scale':
        each('scale', tensor(op.x), out, int(width), float(op.factor));
        break;
      case 'softcap':
        each('softcap', tensor(op.x), out, int(width), float(op.cap));
        break;
      case 'slice':
        each('slice', tensor(op.x), int(this.#context.program.tensors[op.x]!.width), out, int(width), int(op.groups), int(op.offset));
        break;
      case 'select':
        each('select_rows', tensor(op.x), STEP, out, int(width));
        break;
      case 'route':
        this.#route(op, rows);
        break;
      case 'expertLinear':
        this.#experts.run(op, width);
        break;
      case 'combine':
        each('combine', tensor(op.x), tensor(op.weights), out, int(width), int(this.#context.program.tensors[op.weights]!.width));
        break;
    }
  }

  #name(op: OpOf<'input' | 'inject'>, out: number, sections: number): number {
    const { rows, width } = this.#context.program.tensors[out]!;
    this.#named.push({ op: op.op, name: op.name, rows, width });
    this.#sections += sections;
    return this.#sections - sections;
  }

  #embed({ table, scale, out }: OpOf<'embed'>, rows: RowCount, width: number): void {
    const { layout, buffer } = this.#context.linears[table]!;
    const weight = this.#context.buffers.add(buffer);
    const columns = layout.inp;
    // Rows as they are stored, then out of the rotated basis, then times the factor; what is not needed is left out.
    const { run } = layout;
    const last = run === undefined && scale === 1 ? tensor(out) : this.#context.temporary(DOMAIN.tokens, columns);
    this.#context.launches.push(elementwise('look_up', rows, columns, [weight, STEP, last]));
    let from = last;
    if (run !== undefined) {
      const to = scale === 1 ? tensor(out) : this.#context.temporary(DOMAIN.tokens, width);
      this.#context.launches.push(hadamardLaunch(rows, { features: columns, columns, run, kept: width }, from, to));
      from = to;
    }
    if (scale !== 1) this.#context.launches.push(elementwise('scale', rows, width, [from, tensor(out), int(width), float(scale)]));
  }

  #norm(op: OpOf<'norm'>, rows: RowCount, width: number): void {
    const { x, out, groups } = op;
    const [kind, eps, ...rest] = this.#context.normArguments(op);
    this.#context.launches.push({
      kernel: 'normalize',
      grid: [groups, blocks(rows), 1],
      block: 256,
      arguments: [tensor(x), tensor(out), int(width), int(groups), eps!, kind!, ...rest],
    });
  }

  #rope(op: OpOf<'rope'>, rows: RowCount, width: number): void {
    const { x, out, rope, heads, dim, style } = op;
    this.#context.launches.push({
      kernel: 'rope',
      grid: [blocks(rows), 1, 1],
      block: 128,
      arguments: [
        ...[tensor(x), STEP, int(this.#context.domain(out)), int(rope), tensor(out), int(width), int(heads), int(dim)],
        ...[int(style === 'interleaved' ? 1 : 0), float(this.#context.ropeFactor(op))],
      ],
    });
  }

  #route({ x, out, weights, topK, scoring, normalize, scale }: OpOf<'route'>, rows: RowCount): void {
    this.#context.launches.push({
      kernel: 'route',
      grid: [blocks(rows, { per: 64 }), 1, 1],
      block: 64,
      arguments: [
        ...[tensor(x), int(this.#context.program.tensors[x]!.width), tensor(out), tensor(weights), int(topK)],
        ...[int(scoring === 'sigmoid' ? 1 : 0), int(normalize ? 1 : 0), float(scale), rowArgument(rows)],
      ],
    });
  }
}
