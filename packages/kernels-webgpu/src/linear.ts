// A weight on the device.

import {
  type ArenaTensor,
  checkOperands,
  type DeviceTensor,
  disposedError,
  type Format,
  type HostTensor,
  LowbitError,
  type Matrix,
  type QuantizedLinear,
} from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer } from './gpu.ts';
import { DOMAIN, FEW, type HeldWeight, type Launch, lookUp, plainProduct, rotated, type Scratch, type TensorRef } from './launches.ts';
import { type TensorMemory, whole } from './memory.ts';
import { LaunchPlan, MOST_ROWS } from './plan.ts';
import { fromRows, stagedPieces, stageOf } from './staged.ts';
import { plainBlock } from './step-block.ts';
import type { Place } from './storage.ts';

/** What a linear needs of the backend that made it. */
export interface LinearHome {
  readonly owner: string;
  readonly machine: Machine;
  /** Memory of an f32 slot. Throws ERR_DISPOSED or ERR_BAD_ARGUMENT. */
  floats(tensor: DeviceTensor): TensorMemory;
  /** Called once, when the linear is disposed. */
  release(linear: WebGpuLinear): void;
}

/** Numbers that are made at a time. */
const PIECE = 1 << 22;

export class WebGpuLinear implements QuantizedLinear {
  readonly format: Format;
  readonly shape: Matrix;
  readonly bytes: number;
  readonly bias: boolean;
  readonly #home: LinearHome;
  #held: HeldWeight | undefined;

  constructor(
    held: HeldWeight,
    { format, shape, bytes, bias }: Pick<QuantizedLinear, 'format' | 'shape' | 'bytes' | 'bias'>,
    home: LinearHome,
  ) {
    this.format = format;
    this.shape = shape;
    this.bytes = bytes;
    this.bias = bias;
    this.#home = home;
    this.#held = held;
  }

  /** Throws ERR_DISPOSED. */
  get held(): HeldWeight {
    if (this.#held === undefined) throw disposedError(`a linear [${this.shape.join(', ')}] of ${this.#home.owner}`);
    return this.#held;
  }

  /** Undefined once it was disposed. */
  get current(): HeldWeight | undefined {
    return this.#held;
  }

  /** Piece n lies elsewhere from now on, unless the linear was disposed. */
  move(n: number, place: Place): void {
    if (this.#held === undefined) return;
    const { pieces, ...rest } = this.#held;
    place.storage.hold();
    pieces[n]!.place.storage.release();
    this.#held = { ...rest, pieces: pieces.map((one, i) => (i === n ? { piece: one.piece, place } : one)) };
  }

  /** What the device could not do shows when `out` is read. */
  forward(x: DeviceTensor, out: DeviceTensor): void {
    const weight = this.held;
    const [count, inp] = this.shape;
    const rows = checkOperands(this.shape, x, out);
    if (rows > MOST_ROWS) {
      throw new LowbitError('ERR_LIMIT', `a product of ${rows} rows, the limit is ${MOST_ROWS}`, {
        hint: 'Multiply fewer rows at a time.',
      });
    }
    const [from, to] = [this.#home.floats(x), this.#home.floats(out)];
    if (rows === 0) return;
    const { machine } = this.#home;
    const before = whole(from);
    const { settled } = machine.claim('a product', () => {
      using run = new Run(machine, inp, count, (scratch, source, target) => {
        const x = { ref: source, domain: DOMAIN.tokens };
        const turned = rotated(weight.layout, x, scratch);
        const made = [...turned.launches, ...plainProduct(weight, turned.x, target, scratch)];
        if (!stageOf(weight.layout)) return made;
        return [...stagedPieces(weight, x, { ref: target, width: count }), ...fromRows(DOMAIN.tokens, FEW.one + 1, made)];
      });
      run.submit(rows, new Uint32Array(0), { from: from.buffer, to: to.buffer });
    });
    to.filled = before.then(() => settled);
    to.filled.catch(() => {});
  }

  async dequantize(): Promise<HostTensor> {
    const weight = this.held;
    const { machine } = this.#home;
    const [out, features] = this.shape;
    const data = new Uint8Array(out * features * 4);
    // The linear may be moved or disposed meanwhile.
    for (const { place } of weight.pieces) place.storage.hold();
    const most = Math.min(out, MOST_ROWS, Math.max(1, Math.floor(PIECE / weight.layout.inp)));
    const { made: staging, settled } = machine.claim('a copy for the host', () => machine.staging(most * features * 4));
    try {
      await machine.run(async () => {
        await settled;
        for (let from = 0; from < out; from += most) {
          const rows = Math.min(most, out - from);
          const tokens = Uint32Array.from({ length: rows }, (_, i) => from + i);
          const part = machine.claim('rows of a weight', () => {
            using run = new Run(machine, 1, features, (scratch, _, target) => lookUp(weight, target, { factor: 1, scratch, features }));
            run.submit(rows, tokens, { to: staging });
          });
          await part.settled;
          data.set(await machine.take(staging, rows * features * 4), from * features * 4);
        }
      });
    } finally {
      machine.release(staging);
      for (const { place } of weight.pieces) place.storage.release();
    }
    return { dtype: 'f32', shape: [out, features], data };
  }

  [Symbol.dispose](): void {
    if (this.#held === undefined) return;
    for (const { place } of this.#held.pieces) place.storage.release();
    this.#held = undefined;
    this.#home.release(this);
  }
}

/** Launches outside of a program, from and to buffers of their own. */
class Run implements Disposable {
  readonly #machine: Machine;
  readonly #plan: LaunchPlan;
  readonly #width: number;
  readonly #inp: number;
  readonly #taken: GpuBuffer[] = [];

  constructor(
    machine: Machine,
    inp: number,
    width: number,
    build: (scratch: Scratch, source: TensorRef, target: TensorRef) => readonly Launch[],
  ) {
    this.#machine = machine;
    this.#inp = inp;
    this.#width = width;
    const tensors: ArenaTensor[] = [
      { rows: DOMAIN.tokens, width: inp },
      { rows: DOMAIN.tokens, width },
    ];
    const scratch: Scratch = (rows, columns) => ({ tensor: tensors.push({ rows, width: columns }) - 1 });
    const launches = build(scratch, { tensor: 0 }, { tensor: 1 });
    this.#plan = new LaunchPlan(machine, tensors, launches, new Set([1]));
  }

  #take(bytes: number, what: string): GpuBuffer {
    const buffer = this.#machine.storage(bytes, what);
    this.#taken.push(buffer);
    return buffer;
  }

  submit(rows: number, tokens: Uint32Array, { from, to }: { readonly from?: GpuBuffer; readonly to: GpuBuffer }): void {
    const machine = this.#machine;
    const counts = [rows, 0, 0, 0, 1];
    const { bases, numbers } = this.#plan.bases(counts);
    const { offsets } = this.#plan.arena;
    const block = plainBlock(counts, bases, tokens);
    try {
      const arena = this.#take(4 * numbers, 'activations of a product');
      const step = this.#take(block.byteLength, 'a step');
      machine.write(step, 0, block);
      const group = stepGroup(machine, arena, step, this.#take(16, 'constants'));
      const encoder = machine.device.createCommandEncoder();
      if (from) encoder.copyBufferToBuffer(from, 0, arena, 4 * (bases[0]! + offsets[0]! * rows), 4 * rows * this.#inp);
      const pass = encoder.beginComputePass();
      this.#plan.encode(pass, {
        group,
        rows: counts,
        shares: [],
        keys: () => 0,
        cache: () => {
          throw new Error('a product has no cache');
        },
      });
      pass.end();
      const result = 4 * (bases[0]! + offsets[1]! * rows);
      encoder.copyBufferToBuffer(arena, result, to, 0, 4 * rows * this.#width);
      machine.submit([encoder.finish()]);
    } finally {
      for (const buffer of this.#taken.splice(0)) machine.release(buffer);
    }
  }

  [Symbol.dispose](): void {
    this.#plan.dispose();
  }
}

/** What all launches of a step bind. */
export function stepGroup(machine: Machine, arena: GpuBuffer, step: GpuBuffer, constants: GpuBuffer): object {
  return machine.device.createBindGroup({
    layout: machine.groupLayout('step'),
    entries: [arena, step, constants].map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
}
