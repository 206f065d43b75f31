// Tensors in device memory by slot: what every backend does alike, whatever its memory is.

import { disposedError } from '../disposed.ts';
import { byteLength } from '../dtype.ts';
import type { DeviceTensor, Slot } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { HostTensor, TensorSpec } from '../spec/tensor.ts';

/** Memory of a device, in pieces of the type `M`. */
export interface DeviceMemory<M> {
  take(bytes: number): M;
  /** Gives a piece back. */
  give(piece: M): void;
  /** `data` is as long as the piece. */
  write(piece: M, data: Uint8Array): void;
  /** A copy, once everything enqueued before is done. */
  read(piece: M, bytes: number): Promise<Uint8Array>;
}

/** Memory of the host as that of a device. */
export const hostMemory: DeviceMemory<Uint8Array> = {
  take: (bytes) => new Uint8Array(bytes),
  give() {},
  write: (piece, data) => piece.set(data),
  read: async (piece) => piece.slice(),
};

interface Held<M> {
  readonly spec: TensorSpec;
  readonly bytes: number;
  readonly piece: M;
}

/** `alloc`, `free`, `write` and `read` of a `Backend`. */
export class Slots<M> {
  readonly #owner: string;
  readonly #memory: DeviceMemory<M>;
  readonly #slots = new Map<Slot, Held<M>>();
  #bytes = 0;
  #next = 1;

  /** `owner` is for messages. */
  constructor(owner: string, memory: DeviceMemory<M>) {
    this.#owner = owner;
    this.#memory = memory;
  }

  /** Of all tensors. */
  get bytes(): number {
    return this.#bytes;
  }

  alloc(spec: TensorSpec): DeviceTensor {
    const bytes = byteLength(spec);
    const piece = this.#memory.take(bytes);
    const slot = this.#next++ as Slot;
    this.#slots.set(slot, { spec, bytes, piece });
    this.#bytes += bytes;
    return { dtype: spec.dtype, shape: spec.shape, slot };
  }

  free(tensor: DeviceTensor): void {
    const { piece, bytes } = this.#held(tensor);
    this.#slots.delete(tensor.slot);
    this.#bytes -= bytes;
    this.#memory.give(piece);
  }

  /** Throws ERR_BAD_ARGUMENT unless `data` is the whole tensor. */
  write(tensor: DeviceTensor, data: Uint8Array): void {
    const { piece, bytes } = this.#held(tensor);
    if (data.byteLength !== bytes) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${bytes} bytes cannot take ${data.byteLength}`, {
        hint: 'Write whole tensors, of the dtype they were allocated with.',
      });
    }
    this.#memory.write(piece, data);
  }

  async read(tensor: DeviceTensor): Promise<HostTensor> {
    const { spec, piece, bytes } = this.#held(tensor);
    return { dtype: spec.dtype, shape: spec.shape, data: await this.#memory.read(piece, bytes) };
  }

  /** The memory of an f32 tensor. Throws ERR_BAD_ARGUMENT for another dtype. */
  floats(tensor: DeviceTensor): M {
    const { spec, piece } = this.#held(tensor);
    if (spec.dtype !== 'f32') throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${spec.dtype} where f32 is needed`);
    return piece;
  }

  /** Gives all back. */
  clear(): void {
    for (const { piece } of this.#slots.values()) this.#memory.give(piece);
    this.#slots.clear();
    this.#bytes = 0;
  }

  /** Throws ERR_DISPOSED for a tensor that is not there any more. */
  #held(tensor: DeviceTensor): Held<M> {
    const held = this.#slots.get(tensor.slot);
    if (!held) throw disposedError(`tensor ${tensor.slot} of ${this.#owner}`);
    return held;
  }
}
