// Tensors in device memory by slot.

import { byteLength, type DeviceTensor, disposedError, type HostTensor, LowbitError, type Slot, type TensorSpec } from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer } from './gpu.ts';

interface Held {
  readonly spec: TensorSpec;
  readonly bytes: number;
  readonly buffer: GpuBuffer;
  /** Rejects where there was no memory. */
  readonly settled: Promise<void>;
}

/** `alloc`, `free`, `write` and `read` of a `Backend`. */
export class DeviceSlots {
  readonly #owner: string;
  readonly #machine: Machine;
  readonly #slots = new Map<Slot, Held>();
  #next = 1;

  /** `owner` is for messages. */
  constructor(owner: string, machine: Machine) {
    this.#owner = owner;
    this.#machine = machine;
  }

  /** Memory that is missing shows when the tensor is read. */
  alloc(spec: TensorSpec): DeviceTensor {
    const bytes = byteLength(spec);
    const { made: buffer, settled } = this.#machine.claim('a tensor', bytes, () => this.#machine.storage(bytes, 'a tensor'));
    const slot = this.#next++ as Slot;
    this.#slots.set(slot, { spec, bytes, buffer, settled });
    return { dtype: spec.dtype, shape: spec.shape, slot };
  }

  free(tensor: DeviceTensor): void {
    const { buffer } = this.#held(tensor);
    this.#slots.delete(tensor.slot);
    this.#machine.release(buffer);
  }

  /** Throws ERR_BAD_ARGUMENT unless `data` is the whole tensor. */
  write(tensor: DeviceTensor, data: Uint8Array): void {
    const { buffer, bytes } = this.#held(tensor);
    if (data.byteLength !== bytes) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${bytes} bytes cannot take ${data.byteLength}`, {
        hint: 'Write whole tensors, of the dtype they were allocated with.',
      });
    }
    this.#machine.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }

  async read(tensor: DeviceTensor): Promise<HostTensor> {
    const { spec, buffer, bytes, settled } = this.#held(tensor);
    const machine = this.#machine;
    const staging = machine.staging(bytes);
    try {
      const data = await machine.run(async () => {
        await settled;
        const encoder = machine.device.createCommandEncoder();
        encoder.copyBufferToBuffer(buffer, 0, staging, 0, staging.size);
        machine.submit([encoder.finish()]);
        return machine.take(staging, bytes);
      });
      return { dtype: spec.dtype, shape: spec.shape, data };
    } finally {
      machine.release(staging);
    }
  }

  /** The buffer of an f32 tensor. Throws ERR_BAD_ARGUMENT for another dtype. */
  floats(tensor: DeviceTensor): GpuBuffer {
    const { spec, buffer } = this.#held(tensor);
    if (spec.dtype !== 'f32') throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${spec.dtype} where f32 is needed`);
    return buffer;
  }

  clear(): void {
    for (const { buffer } of this.#slots.values()) this.#machine.release(buffer);
    this.#slots.clear();
  }

  /** Throws ERR_DISPOSED for a tensor that is not there any more. */
  #held(tensor: DeviceTensor): Held {
    const held = this.#slots.get(tensor.slot);
    if (!held) throw disposedError(`tensor ${tensor.slot} of ${this.#owner}`);
    return held;
  }
}
