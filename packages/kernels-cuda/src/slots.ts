// Tensors in device memory by slot.

import { byteLength, type DeviceTensor, disposedError, type HostTensor, LowbitError, type Slot, type TensorSpec } from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle } from './binding.ts';
import { deviceError, native } from './errors.ts';

interface Held {
  readonly spec: TensorSpec;
  readonly bytes: number;
  readonly buffer: BufferHandle;
}

/** `alloc`, `free`, `write` and `read` of a `Backend`. */
export class DeviceSlots {
  readonly #owner: string;
  readonly #binding: CudaBinding;
  readonly #device: DeviceHandle;
  readonly #slots = new Map<Slot, Held>();
  #next = 1;
  /** Of all tensors. */
  bytes = 0;

  /** `owner` is for messages. */
  constructor(owner: string, binding: CudaBinding, device: DeviceHandle) {
    this.#owner = owner;
    this.#binding = binding;
    this.#device = device;
  }

  alloc(spec: TensorSpec): DeviceTensor {
    const bytes = byteLength(spec);
    const buffer = native(() => this.#binding.createBuffer(this.#device, bytes, false));
    const slot = this.#next++ as Slot;
    this.#slots.set(slot, { spec, bytes, buffer });
    this.bytes += bytes;
    return { dtype: spec.dtype, shape: spec.shape, slot };
  }

  free(tensor: DeviceTensor): void {
    const { buffer, bytes } = this.#held(tensor);
    this.#slots.delete(tensor.slot);
    this.bytes -= bytes;
    this.#binding.freeBuffer(buffer);
  }

  /** Throws ERR_BAD_ARGUMENT unless `data` is the whole tensor. */
  write(tensor: DeviceTensor, data: Uint8Array): void {
    const { buffer, bytes } = this.#held(tensor);
    if (data.byteLength !== bytes) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${bytes} bytes cannot take ${data.byteLength}`, {
        hint: 'Write whole tensors, of the dtype they were allocated with.',
      });
    }
    native(() => this.#binding.writeBuffer(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)));
  }

  async read(tensor: DeviceTensor): Promise<HostTensor> {
    const { spec, buffer, bytes } = this.#held(tensor);
    const data = new Uint8Array(bytes);
    try {
      await this.#binding.readBuffer(buffer, 0, data);
    } catch (error) {
      throw deviceError(error);
    }
    return { dtype: spec.dtype, shape: spec.shape, data };
  }

  /** The buffer of an f32 tensor. Throws ERR_BAD_ARGUMENT for another dtype. */
  floats(tensor: DeviceTensor): BufferHandle {
    const { spec, buffer } = this.#held(tensor);
    if (spec.dtype !== 'f32') throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${spec.dtype} where f32 is needed`);
    return buffer;
  }

  clear(): void {
    for (const { buffer } of this.#slots.values()) this.#binding.freeBuffer(buffer);
    this.#slots.clear();
    this.bytes = 0;
  }

  /** Throws ERR_DISPOSED for a tensor that is not there any more. */
  #held(tensor: DeviceTensor): Held {
    const held = this.#slots.get(tensor.slot);
    if (!held) throw disposedError(`tensor ${tensor.slot} of ${this.#owner}`);
    return held;
  }
}
