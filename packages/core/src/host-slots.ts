// Tensors of backends whose device memory is host memory, and what they check alike.

import { disposedError } from './disposed.ts';
import { byteLength, elements } from './dtype.ts';
import type { DeviceTensor, QuantizedLinear, Slot } from './spec/backend.ts';
import { LowbitError } from './spec/errors.ts';
import type { LinearUse } from './spec/program.ts';
import type { HostTensor, TensorSpec } from './spec/tensor.ts';

/** `alloc`, `free`, `write` and `read` of a `Backend` over host memory. */
export class HostSlots {
  readonly #owner: string;
  readonly #slots = new Map<Slot, { readonly spec: TensorSpec; readonly data: Uint8Array }>();
  #bytes = 0;
  #next = 1;

  /** `owner` is for messages. */
  constructor(owner: string) {
    this.#owner = owner;
  }

  /** Of all tensors. */
  get bytes(): number {
    return this.#bytes;
  }

  alloc(spec: TensorSpec): DeviceTensor {
    const data = new Uint8Array(byteLength(spec));
    const slot = this.#next++ as Slot;
    this.#slots.set(slot, { spec, data });
    this.#bytes += data.byteLength;
    return { dtype: spec.dtype, shape: spec.shape, slot };
  }

  free(tensor: DeviceTensor): void {
    const { data } = this.#held(tensor);
    this.#slots.delete(tensor.slot);
    this.#bytes -= data.byteLength;
  }

  /** Throws ERR_BAD_ARGUMENT unless `data` is the whole tensor. */
  write(tensor: DeviceTensor, data: Uint8Array): void {
    const held = this.#held(tensor);
    if (data.byteLength !== held.data.byteLength) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${held.data.byteLength} bytes cannot take ${data.byteLength}`, {
        hint: 'Write whole tensors, of the dtype they were allocated with.',
      });
    }
    held.data.set(data);
  }

  read(tensor: DeviceTensor): HostTensor {
    const { spec, data } = this.#held(tensor);
    return { dtype: spec.dtype, shape: spec.shape, data: data.slice() };
  }

  /** The numbers of a tensor, not a copy. Throws ERR_BAD_ARGUMENT unless they are f32. */
  floats(tensor: DeviceTensor): Float32Array {
    const { spec, data } = this.#held(tensor);
    if (spec.dtype !== 'f32') throw new LowbitError('ERR_BAD_ARGUMENT', `a tensor of ${spec.dtype} where f32 is needed`);
    return elements({ dtype: 'f32', data });
  }

  clear(): void {
    this.#slots.clear();
    this.#bytes = 0;
  }

  /** Throws ERR_DISPOSED for a tensor that is not there any more. */
  #held(tensor: DeviceTensor): { readonly spec: TensorSpec; readonly data: Uint8Array } {
    const held = this.#slots.get(tensor.slot);
    if (!held) throw disposedError(`tensor ${tensor.slot} of ${this.#owner}`);
    return held;
  }
}

/** Throws ERR_BAD_ARGUMENT unless a linear fits its place in a program; `own` is whether the backend that compiles it holds it. */
export function checkLinearUse(use: LinearUse, linear: QuantizedLinear, { own }: { readonly own: boolean }): void {
  const where = `${use.path} [${use.shape.join(', ')}]`;
  const details = { path: use.path };
  if (!own) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${where} got a linear that this backend does not hold`, {
      hint: 'Prepare it with the backend that compiles the program. An adapter around a linear is written as operations of the program.',
      details,
    });
  }
  if (linear.shape[0] !== use.shape[0] || linear.shape[1] !== use.shape[1]) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${where} got a linear [${linear.shape.join(', ')}]`, { details });
  }
  if (use.bias !== undefined && !linear.bias) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${where} has a bias, its linear was prepared without`, { details });
  }
}
