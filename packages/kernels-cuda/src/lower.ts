// A program as a list of launches: one kernel for each operation, or the few that a product takes; where a step has one or two rows, one for all that
// fuse.ts finds to go together.

import {
  type Activation,
  type ArenaTensor,
  LowbitError,
  type Op,
  type OpOf,
  type PositionBias,
  type Program,
  type RowDomain,
  relativeBiasTable,
  toFloat32,
} from '@lowbit/core';
import type { Argument, BufferHandle, Launch, PlanSpec, StoredFloat } from './binding.ts';
import { type Fused, type Fusion, findFusion, NO_FUSION } from './fuse.ts';
import {
  ATTEND_PARTS,
  addedLaunch,
  fewRows,
  gatedLaunch,
  NO_NORM,
  type NormArguments,
  normedLaunch,
  type PlacedWeight,
  type Planes,
} from './fused-launches.ts';
import {
  BufferList,
  blocks,
  DOMAIN,
  elementwise,
  FEW_ROWS,
  float,
  hadamardLaunch,
  int,
  int8Launches,
  type Preparation,
  planeOrder,
  preparation,
  productLaunches,
  type RowCount,
  rowArgument,
  type Scratch,
} from './launches.ts';
import type { WeightLayout } from './layout.ts';
import { placeLaunched } from './place.ts';

const ACTIVATIONS: readonly Activation[] = ['silu', 'gelu', 'gelu_tanh', 'quick_gelu', 'relu', 'relu2', 'sigmoid', 'tanh', 'identity'];
const FLOATS: Readonly<Record<StoredFloat, number>> = { f32: 0, f16: 1, bf16: 2 };

/** A prepared weight, as programs use it. */
export interface LoweredLinear {
  readonly layout: WeightLayout;
  readonly buffer: BufferHandle;
}

/** Operations whose rows come with each step, in order: their sections of the step block. `inject` has two: a map of tokens, and values. */
export interface NamedRows {
  readonly op: 'input' | 'inject';
  readonly name: string;
  readonly rows: RowDomain;
  readonly width: number;
}

export interface LoweredProgram {
  readonly spec: PlanSpec;
  readonly named: readonly NamedRows[];
}

/** What the lowering needs of the device: constants become buffers. */
export interface LowerSettings {
  readonly kvDtype: StoredFloat;
  /** Whether operations run together where they can. */
  readonly fuse: boolean;
  constant(bytes: Uint8Array): BufferHandle;
  addressOf(buffer: BufferHandle): bigint;
}

/** The program must be valid and the linears fit it. Throws ERR_UNSUPPORTED_FORMAT for experts of formats that do not go together. */
export function lowerProgram(program: Program, linears: readonly LoweredLinear[], settings: LowerSettings): LoweredProgram {
  const lowering = new Lowering(program, linears, settings);
  for (const op of program.ops) lowering.run(op);
  return lowering.finish();
}

const STEP: Argument = { step: true };
const tensor = (id: number): Argument => ({ tensor: id });

class Lowering {
  readonly #program: Program;
  readonly #linears: readonly LoweredLinear[];
  readonly #settings: LowerSettings;
  readonly #buffers = new BufferList();
  readonly #launches: Launch[] = [];
  readonly #tensors: ArenaTensor[];
  readonly #named: NamedRows[] = [];
  #sections = 0;
  readonly #constants = new Map<string, BufferHandle>();
  /** What was made of a tensor for products: several read the same. */
  readonly #rotated = new Map<string, Argument>();
  readonly #planes = new Map<string, Planes>();
  readonly #fusion: Fusion;

  constructor(program: Program, linears: readonly LoweredLinear[], settings: LowerSettings) {
    this.#program = program;
    this.#linears = linears;
    this.#settings = settings;
    const layouts = linears.map(({ layout }) => layout);
    this.#fusion = settings.fuse ? findFusion(program, layouts) : NO_FUSION;
    this.#tensors = program.tensors.map(({ rows, width }) => ({ rows: DOMAIN[rows], width }));
  }

  finish(): LoweredProgram {
    const launches = this.#launches;
    const placed = placeLaunched(this.#tensors, launches, new Set(Object.values(this.#program.outputs)));
    return { spec: { buffers: this.#buffers.handles, launches, ...placed }, named: this.#named };
  }

  run(op: Op): void {
    const fused = this.#fusion.at.get(op);
    if (fused) this.#fused(fused);
    const from = this.#launches.length;
    this.#lower(op);
    if (!('out' in op)) return;
    // A product says by itself which of its launches run: what it prepares may serve others.
    if (this.#fusion.covered.has(op) && op.op !== 'linear')
      this.#launches.push(...manyRows(this.#launches.splice(from), this.#domain(op.out)));
    if (this.#fusion.planes.has(op.out)) this.#quantize(op.out);
  }

  #lower(op: Op): void {
    const out = tensor(op.out);
    const { width } = this.#program.tensors[op.out]!;
    const rows = this.#rows(op.out);
    const each = (kernel: string, ...list: readonly Argument[]): void => void this.#launches.push(elementwise(kernel, rows, width, list));
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
        each('position_embed', tensor(op.x), STEP, int(this.#domain(op.out)), this.#constant(op.table), int(op.offset), out, int(width));
        break;
      case 'norm':
        this.#norm(op, rows, width);
        break;
      case 'linear':
        this.#linear(op, rows);
        break;
      case 'rope':
        this.#rope(op, rows, width);
        break;
      case 'attend':
        this.#attend(op, rows);
        break;
      case 'remember':
        this.#append(op.k, op.v, op.cache);
        break;
      case 'activate':
        each('activate', tensor(op.x), out, int(width), int(ACTIVATIONS.indexOf(op.kind)));
        break;
      case 'gate': {
        const gateWidth = this.#program.tensors[op.gate]!.width;
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
        each('slice', tensor(op.x), int(this.#program.tensors[op.x]!.width), out, int(width), int(op.groups), int(op.offset));
        break;
      case 'select':
        each('select_rows', tensor(op.x), STEP, out, int(width));
        break;
      case 'route':
        this.#route(op, rows);
        break;
      case 'expertLinear':
        this.#experts(op, rows, width);
        break;
      case 'combine':
        each('combine', tensor(op.x), tensor(op.weights), out, int(width), int(this.#program.tensors[op.weights]!.width));
        break;
    }
  }

  #domain(id: number): number {
    return this.#tensors[id]!.rows;
  }

  #rows(id: number): RowCount {
    return { domain: this.#domain(id) };
  }

  #temporary(domain: number, width: number): Argument {
    return tensor(this.#tensors.push({ rows: domain, width }) - 1);
  }

  #scratch(domain: number): Scratch {
    return { perRow: (width) => this.#temporary(domain, width), once: (width) => this.#temporary(DOMAIN.once, width) };
  }

  #name(op: OpOf<'input' | 'inject'>, out: number, sections: number): number {
    const { rows, width } = this.#program.tensors[out]!;
    this.#named.push({ op: op.op, name: op.name, rows, width });
    this.#sections += sections;
    return this.#sections - sections;
  }

  #buffer(key: string, bytes: () => Uint8Array): Argument {
    let handle = this.#constants.get(key);
    if (handle === undefined) {
      handle = this.#settings.constant(bytes());
      this.#constants.set(key, handle);
    }
    return this.#buffers.add(handle);
  }

  #floats(key: string, values: () => Float32Array): Argument {
    return this.#buffer(key, () => bytesOf(values()));
  }

  #constant(id: number): Argument {
    return this.#floats(`constant ${id}`, () => toFloat32(this.#program.constants[id]!));
  }

  #embed({ table, scale, out }: OpOf<'embed'>, rows: RowCount, width: number): void {
    const { layout, buffer } = this.#linears[table]!;
    const weight = this.#buffers.add(buffer);
    const columns = layout.inp;
    // Rows as they are stored, then out of the rotated basis, then times the factor; what is not needed is left out.
    const { run } = layout;
    const last = run === undefined && scale === 1 ? tensor(out) : this.#temporary(DOMAIN.tokens, columns);
    this.#launches.push(elementwise('look_up', rows, columns, [weight, STEP, last]));
    let from = last;
    if (run !== undefined) {
      const to = scale === 1 ? tensor(out) : this.#temporary(DOMAIN.tokens, width);
      this.#launches.push(hadamardLaunch(rows, { features: columns, columns, run, kept: width }, from, to));
      from = to;
    }
    if (scale !== 1) this.#launches.push(elementwise('scale', rows, width, [from, tensor(out), int(width), float(scale)]));
  }

  #norm(op: OpOf<'norm'>, rows: RowCount, width: number): void {
    const { x, out, groups } = op;
    const [kind, eps, ...rest] = this.#normArguments(op);
    this.#launches.push({
      kernel: 'normalize',
      grid: [groups, blocks(rows), 1],
      block: 256,
      arguments: [tensor(x), tensor(out), int(width), int(groups), eps!, kind!, ...rest],
    });
  }

  #normArguments({ eps, kind, weight, weightOffset, bias }: OpOf<'norm'>): NormArguments {
    const constant = (id: number | undefined): readonly [Argument, number] =>
      id === undefined ? [null, 0] : [this.#constant(id), this.#program.constants[id]!.shape.reduce((a, b) => a * b, 1)];
    const [scale, scaleWidth] = constant(weight);
    const [shift, shiftWidth] = constant(bias);
    return [int(kind === 'layer' ? 2 : 1), float(eps), scale, int(scaleWidth), float(weightOffset), shift, int(shiftWidth)];
  }

  /** Of tensor `id`: what is made of it once serves all products that read it in the same way. */
  #preparation(id: number, rows: RowCount): Preparation {
    const made = preparation(rows, tensor(id), this.#scratch(this.#domain(id)), this.#launches);
    return {
      rotated: (layout) => remembered(this.#rotated, `${id} ${layout.run} ${layout.inp}`, () => made.rotated(layout)),
      planes: (x, layout) =>
        remembered(this.#planes, `${JSON.stringify(x)} ${planeOrder(layout)}`, () =>
          this.#planesOf(id, planeOrder(layout), () => made.planes(x, layout)),
        ),
    };
  }

  /** Planes as launches that run where somebody takes them. */
  #planesOf(id: number, order: ReturnType<typeof planeOrder>, make: () => Planes): Planes {
    const from = this.#launches.length;
    const planes = make();
    const taken = this.#program.ops.some(
      (op) => op.op === 'linear' && op.x === id && planeOrder(this.#linears[op.weight]!.layout) === order && this.#fusion.readsPlanes(op),
    );
    if (!taken) this.#launches.push(...manyRows(this.#launches.splice(from), this.#domain(id)));
    return planes;
  }

  /** What a producer leaves quantized where rows are few is quantized by itself where there are more. */
  #quantize(id: number): void {
    const reader = this.#program.ops.find((op) => op.op === 'linear' && op.x === id) as OpOf<'linear'>;
    const { layout } = this.#linears[reader.weight]!;
    const [launches, { planes, numbers }] = [[] as Launch[], this.#planesFor(id)];
    let at = 0;
    const scratch: Scratch = { ...this.#scratch(this.#domain(id)), perRow: () => [planes, numbers][at++]! };
    preparation(this.#rows(id), tensor(id), scratch, launches).planes(tensor(id), layout);
    this.#launches.push(...manyRows(launches, this.#domain(id)));
  }

  /** Room for the planes of a tensor that its producer makes. */
  #planesFor(id: number): Planes & { readonly order: ReturnType<typeof planeOrder> } {
    const reader = this.#program.ops.find((op) => op.op === 'linear' && op.x === id) as OpOf<'linear'>;
    const order = planeOrder(this.#linears[reader.weight]!.layout);
    const { width } = this.#program.tensors[id]!;
    const made = remembered(this.#planes, `${JSON.stringify(tensor(id))} ${order}`, () => ({
      planes: this.#temporary(this.#domain(id), (width / 32) * 24),
      numbers: this.#temporary(this.#domain(id), (width / 32) * 2),
    }));
    return { ...made, order };
  }

  #placed({ weight }: OpOf<'linear'>): PlacedWeight {
    const { layout, buffer } = this.#linears[weight]!;
    return { layout, at: this.#buffers.add(buffer) };
  }

  #fused(fused: Fused): void {
    const { planes } = this.#fusion;
    switch (fused.kind) {
      case 'normed': {
        const { x, norm, linears } = fused;
        const weights = linears.map((linear) => ({ ...this.#placed(linear), out: tensor(linear.out) }));
        this.#launches.push(normedLaunch(this.#domain(x), tensor(x), norm ? this.#normArguments(norm) : NO_NORM, weights));
        break;
      }
      case 'gated': {
        const { x, norm, gate, up, op } = fused;
        const weights = { gate: this.#placed(gate), up: this.#placed(up), activation: ACTIVATIONS.indexOf(op.kind) };
        const to = planes.has(op.out) ? this.#planesFor(op.out) : { out: tensor(op.out) };
        this.#launches.push(gatedLaunch(this.#domain(x), tensor(x), norm ? this.#normArguments(norm) : NO_NORM, weights, to));
        break;
      }
      case 'added': {
        const { linear, op } = fused;
        const { layout, at } = this.#placed(linear);
        const quantized = this.#preparation(linear.x, this.#rows(linear.x)).planes(tensor(linear.x), layout);
        const productIsB = op.b === linear.out;
        const added = { other: tensor(productIsB ? op.a : op.b), factor: op.factor, productIsB, out: tensor(op.out) };
        this.#launches.push(addedLaunch(this.#domain(op.out), { layout, at }, quantized, added));
        break;
      }
      case 'attend':
        this.#attendFew(fused);
        break;
    }
  }

  #linear(op: OpOf<'linear'>, rows: RowCount): void {
    const { x, weight, out } = op;
    const { layout, buffer } = this.#linears[weight]!;
    const operands = { rows, x: tensor(x), out: tensor(out) };
    const prepare = this.#preparation(x, rows);
    const launches = productLaunches(layout, this.#buffers.add(buffer), operands, prepare, this.#scratch(this.#domain(x)));
    this.#launches.push(...(this.#fusion.covered.has(op) ? manyRows(launches, this.#domain(out)) : launches));
  }

  #ropeFactor({ rope }: OpOf<'rope'>): number {
    const settings = this.#program.ropes[rope]!;
    return settings.kind === 'dynamic' ? 1 : settings.scale;
  }

  #rope(op: OpOf<'rope'>, rows: RowCount, width: number): void {
    const { x, out, rope, heads, dim, style } = op;
    this.#launches.push({
      kernel: 'rope',
      grid: [blocks(rows), 1, 1],
      block: 128,
      arguments: [
        ...[tensor(x), STEP, int(this.#domain(out)), int(rope), tensor(out), int(width), int(heads), int(dim)],
        ...[int(style === 'interleaved' ? 1 : 0), float(this.#ropeFactor(op))],
      ],
    });
  }

  #append(k: number, v: number, cache: number): void {
    const width = (id: number): Argument => int(this.#program.tensors[id]!.width);
    this.#launches.push({
      kernel: 'append',
      grid: [blocks(this.#rows(k)), 1, 1],
      block: 128,
      arguments: [
        ...[tensor(k), tensor(v), STEP, int(this.#domain(k)), int(cache), width(k), width(v)],
        int(FLOATS[this.#settings.kvDtype]),
      ],
    });
  }

  #attend(op: OpOf<'attend'>, rows: RowCount): void {
    const { q, k, v, cache, heads, keyDim, valueDim, out } = op;
    if (cache !== undefined && k !== undefined && v !== undefined) this.#append(k, v, cache);
    const own = cache === undefined;
    this.#launches.push({
      kernel: 'attend',
      grid: [heads, blocks(rows), 1],
      block: 128,
      shared: 4 * (keyDim + 2 * valueDim),
      arguments: [
        ...[tensor(q), tensor(out), own ? tensor(k!) : null, own ? tensor(v!) : null, STEP],
        ...[int(this.#domain(out)), int(cache ?? -1), ...this.#attendArguments(op)],
      ],
    });
  }

  /** From the number of key heads to the dtype of keys and values. */
  #attendArguments({
    heads,
    kvHeads,
    keyDim,
    valueDim,
    scale,
    causal,
    window = 0,
    softcap = 0,
    bias,
  }: OpOf<'attend'>): readonly Argument[] {
    const added = this.#positionBias(bias, heads);
    return [
      ...[int(kvHeads), int(keyDim), int(valueDim), float(scale), int(causal ? 1 : 0), int(window), float(softcap)],
      ...[int(added.kind), added.table, int(added.reach), int(FLOATS[this.#settings.kvDtype])],
    ];
  }

  #attendFew({ op, ropes }: Extract<Fused, { kind: 'attend' }>): void {
    const { q, k, v, cache, heads, keyDim, valueDim, out } = op;
    const domain = this.#domain(out);
    const turn = ropes?.q;
    const partial = this.#temporary(DOMAIN.once, FEW_ROWS * heads * ATTEND_PARTS * (valueDim + 2));
    const ended = this.#buffer(`ended ${heads}`, () => new Uint8Array(4 * FEW_ROWS * heads));
    const planes = this.#fusion.planes.has(out) ? this.#planesFor(out) : undefined;
    const given = (id: number | undefined): Argument => (id === undefined ? null : tensor(id));
    this.#launches.push(
      fewRows(domain, {
        kernel: 'attend_few',
        grid: [heads, blocks({ domain }), ATTEND_PARTS],
        block: 128,
        shared: 4 * (3 * keyDim + 4 * valueDim),
        arguments: [
          ...[tensor(ropes ? ropes.q.x : q), given(ropes ? ropes.k.x : k), given(v), STEP, int(cache!), ...this.#attendArguments(op)],
          ...[
            int(turn?.rope ?? 0),
            int(turn?.dim ?? 0),
            int(turn?.style === 'interleaved' ? 1 : 0),
            float(turn ? this.#ropeFactor(turn) : 1),
          ],
          ...[partial, ended, planes ? null : tensor(out), planes?.planes ?? null, planes?.numbers ?? null],
          int(planes?.order === 'natural' ? 1 : 0),
        ],
      }),
    );
  }

  #positionBias(bias: PositionBias | undefined, heads: number): { kind: number; table: Argument; reach: number } {
    if (bias === undefined) return { kind: 0, table: null, reach: 0 };
    if (bias.kind === 'alibi') {
      return { kind: 1, table: this.#floats(`slopes ${bias.slopes}`, () => Float32Array.from(bias.slopes)), reach: 0 };
    }
    const { table, buckets, maxDistance, bidirectional } = bias;
    const key = `relative ${table} ${buckets} ${maxDistance} ${bidirectional}`;
    const values = (): Float32Array => relativeBiasTable(toFloat32(this.#program.constants[table]!), bias, heads);
    return { kind: 2, table: this.#floats(key, values), reach: maxDistance };
  }

  #route({ x, out, weights, topK, scoring, normalize, scale }: OpOf<'route'>, rows: RowCount): void {
    this.#launches.push({
      kernel: 'route',
      grid: [blocks(rows, { per: 64 }), 1, 1],
      block: 64,
      arguments: [
        ...[tensor(x), int(this.#program.tensors[x]!.width), tensor(out), tensor(weights), int(topK)],
        ...[int(scoring === 'sigmoid' ? 1 : 0), int(normalize ? 1 : 0), float(scale), rowArgument(rows)],
      ],
    });
  }

  #experts({ x, ids, linears, out }: OpOf<'expertLinear'>, rows: RowCount, width: number): void {
    const experts = linears.map((id) => this.#linears[id]!);
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
    for (const { buffer } of experts) this.#buffers.add(buffer); // the table below points to them: they must stay
    const table = this.#buffer(`experts ${linears}`, () => {
      const addresses = BigUint64Array.from(experts, ({ buffer }) => this.#settings.addressOf(buffer));
      return new Uint8Array(addresses.buffer);
    });
    const topK = this.#program.tensors[ids]!.width;
    const shared = this.#domain(x) === DOMAIN.tokens;
    const grid = [Math.ceil(width / 4), blocks(rows), 1] as const;
    const tail = [tensor(out), int(width), int(topK), int(shared ? 1 : 0)];
    const head = [table, int(experts.length), tensor(ids)];
    const scratch = this.#scratch(this.#domain(x));
    const xRows = this.#rows(x);
    if (layout.kind === 'int8') {
      const made = int8Launches(layout, { rows: xRows, x: tensor(x) }, scratch, { shared: false });
      const list = [...head, made.codes, made.scale, tensor(x), ...tail];
      this.#launches.push(...made.launches, { kernel: 'int8_expert_product', grid, block: 128, arguments: list });
      return;
    }
    const from = this.#preparation(x, xRows).rotated(layout);
    this.#launches.push({ kernel: 'expert_product', grid, block: 128, arguments: [...head, from, ...tail] });
  }
}

/** Launches of operations that run together with others where rows are few: where there are more, they run as they are. */
function manyRows(launches: readonly Launch[], domain: number): readonly Launch[] {
  return launches.flatMap((launch) => {
    if (launch.where === undefined) return { ...launch, where: { rows: domain, least: FEW_ROWS + 1 } };
    return launch.where.most === FEW_ROWS ? [] : launch;
  });
}

function remembered<T>(known: Map<string, T>, key: string, make: () => T): T {
  let value = known.get(key);
  if (value === undefined) {
    value = make();
    known.set(key, value);
  }
  return value;
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
