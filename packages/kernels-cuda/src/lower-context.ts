// What the lowering of a program shares: its launches so far, tensors of the arena, buffers and constants.

import { type ArenaTensor, type OpOf, type Program, type RowDomain, toFloat32 } from '@lowbit/core';
import type { Argument, BufferHandle, Launch, PlanSpec, StoredFloat } from './binding.ts';
import { type Fusion, findFusion, NO_FUSION } from './fuse.ts';
import type { NormArguments } from './fused-launches.ts';
import type { PlaneCount } from './gemm.ts';
import { BufferList, DOMAIN, FEW_ROWS, float, int, type RowCount, type Scratch } from './launches.ts';
import type { WeightLayout } from './layout.ts';
import type { PrefetchedLinear } from './prefetch.ts';

/** A prepared weight, as programs use it. */
export interface LoweredLinear extends PrefetchedLinear {
  readonly layout: WeightLayout;
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
  /** Of activations in products of many rows. */
  readonly planes: PlaneCount;
  constant(bytes: Uint8Array): BufferHandle;
  /** So many bytes that the plan writes by itself. */
  room(bytes: number): BufferHandle;
  addressOf(buffer: BufferHandle): bigint;
}

export const STEP: Argument = { step: true };
export const tensor = (id: number): Argument => ({ tensor: id });

export class LoweringContext {
  readonly program: Program;
  readonly linears: readonly LoweredLinear[];
  readonly settings: LowerSettings;
  readonly fusion: Fusion;
  readonly buffers = new BufferList();
  readonly launches: Launch[] = [];
  readonly tensors: ArenaTensor[];
  readonly #constants = new Map<string, BufferHandle>();

  constructor(program: Program, linears: readonly LoweredLinear[], settings: LowerSettings) {
    this.program = program;
    this.linears = linears;
    this.settings = settings;
    const layouts = linears.map(({ layout }) => layout);
    this.fusion = settings.fuse ? findFusion(program, layouts) : NO_FUSION;
    this.tensors = program.tensors.map(({ rows, width }) => ({ rows: DOMAIN[rows], width }));
  }

  domain(id: number): number {
    return this.tensors[id]!.rows;
  }

  rows(id: number): RowCount {
    return { domain: this.domain(id) };
  }

  temporary(domain: number, width: number): Argument {
    return tensor(this.tensors.push({ rows: domain, width }) - 1);
  }

  scratch(domain: number): Scratch {
    return { perRow: (width) => this.temporary(domain, width), once: (width) => this.temporary(DOMAIN.once, width) };
  }

  buffer(key: string, bytes: () => Uint8Array): Argument {
    let handle = this.#constants.get(key);
    if (handle === undefined) {
      handle = this.settings.constant(bytes());
      this.#constants.set(key, handle);
    }
    return this.buffers.add(handle);
  }

  floats(key: string, values: () => Float32Array): Argument {
    return this.buffer(key, () => bytesOf(values()));
  }

  constant(id: number): Argument {
    return this.floats(`constant ${id}`, () => toFloat32(this.program.constants[id]!));
  }

  normArguments({ eps, kind, weight, weightOffset, bias }: OpOf<'norm'>): NormArguments {
    const constant = (id: number | undefined): readonly [Argument, number] =>
      id === undefined ? [null, 0] : [this.constant(id), this.program.constants[id]!.shape.reduce((a, b) => a * b, 1)];
    const [scale, scaleWidth] = constant(weight);
    const [shift, shiftWidth] = constant(bias);
    return [int(kind === 'layer' ? 2 : 1), float(eps), scale, int(scaleWidth), float(weightOffset), shift, int(shiftWidth)];
  }

  ropeFactor({ rope }: OpOf<'rope'>): number {
    const settings = this.program.ropes[rope]!;
    return settings.kind === 'dynamic' ? 1 : settings.scale;
  }
}

/** Launches of operations that run together with others where rows are few: where there are more, they run as they are. */
export function manyRows(launches: readonly Launch[], domain: number): readonly Launch[] {
  return launches.flatMap((launch) => {
    if (launch.where === undefined) return { ...launch, where: { rows: domain, least: FEW_ROWS + 1 } };
    return launch.where.most === FEW_ROWS ? [] : launch;
  });
}

export function remembered<T>(known: Map<string, T>, key: string, make: () => T): T {
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
