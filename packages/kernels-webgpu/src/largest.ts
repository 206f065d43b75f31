// The largest numbers of outputs, chosen on the GPU: a few bytes come back in place of rows as wide as a vocabulary.

import type { Machine } from './device.ts';
import type { GpuBuffer, GpuEncoder, GpuOpaque } from './gpu.ts';
import { WHICH_BYTES } from './plan.ts';
import type { Kernel } from './wgsl/kernel.ts';
import { MOST_LARGEST, mergeKernel, STRETCH, stretchKernel } from './wgsl/largest.ts';

export interface LargestRequest {
  /** Where the rows are: a tensor as launches name it. */
  readonly x: number;
  readonly width: number;
  readonly count: number;
  readonly rows: number;
}

/** Whether so many are chosen on the GPU. */
export function choosesHere({ width, count }: Pick<LargestRequest, 'width' | 'count'>): boolean {
  return count > 0 && count <= MOST_LARGEST && count < width;
}

export const LARGEST_KERNELS: readonly Kernel[] = [stretchKernel(), mergeKernel()];

interface Made {
  readonly key: string;
  readonly pairs: GpuBuffer;
  readonly params: GpuBuffer;
  readonly groups: readonly GpuOpaque[];
  readonly cache: GpuOpaque;
}

/** Room for the choices of one output, kept from step to step. */
export class LargestChooser {
  readonly #machine: Machine;
  readonly #numbers: GpuBuffer;
  #made: Made | undefined;

  /** `numbers`: see `shareNumbers`. */
  constructor(machine: Machine, numbers: GpuBuffer) {
    this.#machine = machine;
    this.#numbers = numbers;
  }

  /** Bytes that come back. */
  static bytes({ rows, count }: LargestRequest): number {
    return rows * count * 8;
  }

  /** Adds launches for rows that the pass before made, and copies what they choose. The room for them was made. */
  encode(encoder: GpuEncoder, step: GpuOpaque, request: LargestRequest, to: GpuBuffer, at: number): void {
    const { rows, width } = request;
    const machine = this.#machine;
    const { groups, cache, pairs } = this.#made!;
    const grids = [[Math.ceil(width / STRETCH), rows] as const, [1, rows] as const];
    const pass = encoder.beginComputePass();
    pass.setBindGroup(0, step);
    for (const [i, kernel] of LARGEST_KERNELS.entries()) {
      pass.setPipeline(machine.pipeline(kernel));
      pass.setBindGroup(1, groups[i]!);
      pass.setBindGroup(2, cache, [0]);
      pass.dispatchWorkgroups(...grids[i]!);
      machine.counts.dispatches++;
    }
    pass.end();
    encoder.copyBufferToBuffer(pairs, 0, to, at, LargestChooser.bytes(request));
  }

  dispose(): void {
    this.#machine.release(this.#made?.pairs);
    this.#machine.release(this.#made?.params);
    this.#made = undefined;
  }

  /** Whether there is room for exactly this. */
  fits(request: LargestRequest): boolean {
    return this.#made?.key === keyOf(request);
  }

  /** Makes room in place of what there was; inside of `Machine.claim`. */
  make(request: LargestRequest): void {
    const { x, width, count, rows } = request;
    this.dispose();
    const machine = this.#machine;
    const stretches = Math.ceil(width / STRETCH);
    const at = rows * count * 2;
    const pairs = machine.storage(4 * (at + rows * stretches * count * 2), 'the largest numbers');
    const params = machine.uniform(512, 'parameters of launches');
    const words = new Uint32Array(128);
    words.set([x, width, count, stretches, at]);
    words.set([count, stretches, at], 64);
    machine.write(params, 0, new Uint8Array(words.buffer));
    const layout = machine.groupLayout('launch', 0);
    const groups = [0, 256].map((offset) =>
      machine.device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer: params, offset, size: 32 } }] }),
    );
    const cache = machine.device.createBindGroup({
      layout: machine.groupLayout('cache'),
      entries: [
        { binding: 0, resource: { buffer: this.#numbers, offset: 0, size: WHICH_BYTES } },
        { binding: 1, resource: { buffer: pairs } },
      ],
    });
    this.#made = { key: keyOf(request), pairs, params, groups, cache };
  }
}

function keyOf({ x, width, count, rows }: LargestRequest): string {
  return `${x} ${width} ${count} ${rows}`;
}

/** Values and places of pairs [rows, count]. */
export function readPairs(bytes: Uint8Array<ArrayBuffer>): { readonly values: Uint8Array; readonly ids: Uint8Array } {
  const pairs = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const values = new Uint32Array(pairs.length / 2);
  const ids = new Uint32Array(pairs.length / 2);
  for (let i = 0; i < values.length; i++) {
    values[i] = pairs[2 * i]!;
    ids[i] = pairs[2 * i + 1]!;
  }
  return { values: new Uint8Array(values.buffer), ids: new Uint8Array(ids.buffer) };
}
