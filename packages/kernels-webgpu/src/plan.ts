// Launches with their fixed numbers on the device, ready to be encoded: pipelines, uniform blocks and bind groups are made once.

import { type Arena, type ArenaTensor, LowbitError } from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer, GpuOpaque, GpuPass } from './gpu.ts';
import type { Extent, Launch, ShareUse } from './launches.ts';
import { placeLaunched } from './place.ts';
import type { Storage } from './storage.ts';
import { MOST_ALONG_X } from './wgsl/kernel.ts';

/** Uniform blocks begin at multiples. */
const BLOCK = 256;
/** Of a dispatch along y. */
export const MOST_ROWS = 65535;
const OFFSETS = 2 ** 29;

/** A share of a step as launches see it: its rows by domain. */
export type ShareRows = readonly number[];

/** What a step binds and how many rows it has. */
export interface PlanStep {
  /** Arena, step and constants. */
  readonly group: GpuOpaque;
  /** Of each domain. */
  readonly rows: readonly number[];
  readonly shares: readonly ShareRows[];
  /** Rows of a cache after the step. */
  keys(share: number, cache: number): number;
  /** What a launch binds for a share. */
  cache(share: number, cache: number | undefined): GpuOpaque;
}

interface Ready {
  readonly launch: Launch;
  readonly group: GpuOpaque;
  /** Made when the launch first runs. */
  pipeline: GpuOpaque | undefined;
}

export class LaunchPlan {
  readonly arena: Arena;
  readonly #machine: Machine;
  readonly #params: GpuBuffer;
  readonly #ready: readonly Ready[];
  readonly #storages: readonly Storage[];

  constructor(machine: Machine, tensors: readonly ArenaTensor[], launches: readonly Launch[], kept: ReadonlySet<number> = new Set()) {
    this.#machine = machine;
    this.arena = placeLaunched(tensors, launches, kept);
    const { offsets } = this.arena;
    const sizes = launches.map(({ kernel }) => Math.ceil((4 * kernel.fields.length) / 16) * 16);
    let bytes = 0;
    const starts = sizes.map((size) => {
      const at = bytes;
      bytes += Math.ceil(size / BLOCK) * BLOCK;
      return at;
    });
    const block = new DataView(new ArrayBuffer(Math.max(16, bytes)));
    for (const [index, { kernel, values }] of launches.entries()) {
      for (const [i, [field, type]] of kernel.fields.entries()) {
        const value = values[field];
        const at = starts[index]! + 4 * i;
        if (value === undefined) throw new Error(`${kernel.name}: ${field} is missing`);
        if (typeof value === 'object') {
          const offset = offsets[value.tensor]!;
          if (offset >= OFFSETS) throw new LowbitError('ERR_LIMIT', `kernels-webgpu: a program with rows of ${offset} numbers is too wide`);
          block.setUint32(at, tensors[value.tensor]!.rows * OFFSETS + offset, true);
        } else if (type === 'f32') block.setFloat32(at, value, true);
        else block.setUint32(at, value, true);
      }
    }
    this.#params = machine.uniform(block.byteLength, 'parameters of launches');
    machine.write(this.#params, 0, new Uint8Array(block.buffer));
    const storages = new Set(launches.flatMap(({ weights = [] }) => weights.map(({ storage }) => storage)));
    for (const storage of storages) storage.hold();
    this.#storages = [...storages];
    this.#ready = launches.map((launch, index): Ready => {
      const { kernel, weights = [] } = launch;
      const group = machine.device.createBindGroup({
        label: kernel.name,
        layout: machine.groupLayout('launch', kernel.weights),
        entries: [
          { binding: 0, resource: { buffer: this.#params, offset: starts[index]!, size: sizes[index]! } },
          ...weights.map(({ storage, offset, bytes: size }, i) => ({ binding: i + 1, resource: { buffer: storage.buffer, offset, size } })),
        ],
      });
      return { launch, group, pipeline: undefined };
    });
  }

  /** First number of each domain in the arena, and how many numbers there are in all. */
  bases(rows: readonly number[]): { readonly bases: readonly number[]; readonly numbers: number } {
    let numbers = 0;
    const bases = this.arena.widths.map((width, domain) => {
      const at = numbers;
      numbers += Math.ceil((width * rows[domain]!) / 4) * 4;
      return at;
    });
    return { bases, numbers };
  }

  /** Makes the pipelines of a step; undefined where all are there. */
  warm(step: Pick<PlanStep, 'rows' | 'shares' | 'keys'>): Promise<void> | undefined {
    const missing = this.#ready.filter(({ pipeline, launch }) => {
      return pipeline === undefined && !this.#machine.has(launch.kernel) && runs(launch, step);
    });
    return missing.length === 0 ? undefined : this.#machine.warm(missing.map(({ launch }) => launch.kernel));
  }

  encode(pass: GpuPass, { group, rows, shares, keys, cache }: PlanStep): void {
    let bound: GpuOpaque | undefined;
    let set: GpuOpaque | undefined;
    pass.setBindGroup(0, group);
    const { counts } = this.#machine;
    for (const one of this.#ready) {
      const { launch, group: own } = one;
      const { where, share, x, y } = launch;
      if (where !== undefined && !within(rows[where.domain]!, where)) continue;
      one.pipeline ??= this.#machine.pipeline(launch.kernel);
      const { pipeline } = one;
      const along = extent(x, rows);
      const times = share === undefined ? 1 : shares.length;
      for (let index = 0; index < times; index++) {
        const down = share === undefined ? extent(y, rows) : shareExtent(share, shares[index]!, (of) => keys(index, of));
        if (along === 0 || down === 0) continue;
        if (set !== pipeline) pass.setPipeline(pipeline);
        set = pipeline;
        if (bound !== own) pass.setBindGroup(1, own);
        bound = own;
        if (share !== undefined) pass.setBindGroup(2, cache(index, share.cache), [index * BLOCK]);
        pass.dispatchWorkgroups(Math.min(along, MOST_ALONG_X), down, Math.ceil(along / MOST_ALONG_X));
        counts.dispatches++;
      }
    }
  }

  dispose(): void {
    this.#machine.release(this.#params);
    for (const storage of this.#storages) storage.release();
  }
}

function extent(value: Extent, rows: readonly number[]): number {
  return typeof value === 'number' ? value : Math.ceil(rows[value.rows]! / value.per);
}

/** Whether a step has work for a launch. */
function runs({ where, share }: Launch, { rows, shares, keys }: Pick<PlanStep, 'rows' | 'shares' | 'keys'>): boolean {
  if (where !== undefined && !within(rows[where.domain]!, where)) return false;
  return share === undefined || shares.some((one, index) => shareExtent(share, one, (cache) => keys(index, cache)) > 0);
}

/** Workgroups along y for a share; none where the launch is not for such shares. */
function shareExtent(
  { domain, per = 1, cache, least = 1, most, keys }: ShareUse,
  rows: ShareRows,
  held: (cache: number) => number,
): number {
  const count = rows[domain]!;
  if (!within(count, { least, ...(most === undefined ? {} : { most }) })) return 0;
  if (keys !== undefined && cache !== undefined && !within(held(cache), keys)) return 0;
  return Math.ceil(count / per);
}

function within(
  count: number,
  { least = 0, most = Number.POSITIVE_INFINITY }: { readonly least?: number; readonly most?: number },
): boolean {
  return count >= least && count <= most;
}

/** A uniform block for each share, with its number: what `which` is bound to. */
export function shareNumbers(machine: Machine, count: number): GpuBuffer {
  const buffer = machine.uniform(count * BLOCK, 'numbers of shares');
  const numbers = new Uint32Array((count * BLOCK) / 4);
  for (let i = 0; i < count; i++) numbers[(i * BLOCK) / 4] = i;
  machine.write(buffer, 0, new Uint8Array(numbers.buffer));
  return buffer;
}

/** Bytes of `which`. */
export const WHICH_BYTES = 16;
