// A weight in native memory.

import {
  checkOperands,
  type DeviceTensor,
  disposedError,
  type Format,
  type HostTensor,
  type Matrix,
  type OutlierCount,
  type QuantizedLinear,
} from '@lowbit/core';
import type { CpuBinding, Machine, WeightHandle } from './binding.ts';

/** What a linear needs of the backend that made it. */
export interface LinearHome {
  readonly owner: string;
  readonly binding: CpuBinding;
  readonly machine: Machine;
  /** Planes of activations in a product. */
  readonly planes: 2 | 3;
  /** Values of a slot. Throws ERR_DISPOSED or ERR_BAD_ARGUMENT. */
  values(tensor: DeviceTensor): Float32Array;
  /** Called once, when the linear is disposed. */
  release(linear: CpuLinear): void;
}

export class CpuLinear implements QuantizedLinear {
  readonly format: Format;
  readonly shape: Matrix;
  readonly bytes: number;
  readonly bias: boolean;
  readonly #home: LinearHome;
  readonly #outliers: { products: number; columns: number } | undefined;
  #handle: WeightHandle | undefined;

  constructor(
    handle: WeightHandle,
    weight: { readonly format: Format; readonly shape: Matrix },
    bytes: number,
    bias: boolean,
    home: LinearHome,
  ) {
    this.format = weight.format;
    this.shape = weight.shape;
    this.bytes = bytes;
    this.bias = bias;
    this.#home = home;
    this.#handle = handle;
    this.#outliers = weight.format.kind === 'int8' ? { products: 0, columns: 0 } : undefined;
  }

  get outliers(): OutlierCount | undefined {
    return this.#outliers;
  }

  /** Throws ERR_DISPOSED. */
  get handle(): WeightHandle {
    if (this.#handle === undefined) throw disposedError(`a linear [${this.shape.join(', ')}] of ${this.#home.owner}`);
    return this.#handle;
  }

  /** Runs at once on the backend's threads: when it returns, `out` is written. */
  forward(x: DeviceTensor, out: DeviceTensor): void {
    const { handle } = this;
    const rows = checkOperands(this.shape, x, out);
    const { binding, machine, planes, values } = this.#home;
    const columns = binding.multiply(machine, handle, planes, rows, values(x), values(out));
    if (this.#outliers && rows > 0) {
      this.#outliers.products++;
      this.#outliers.columns += columns;
    }
  }

  /** Adds what was counted elsewhere: in a step of a program. */
  addOutliers({ products, columns }: OutlierCount): void {
    if (!this.#outliers) return;
    this.#outliers.products += products;
    this.#outliers.columns += columns;
  }

  async dequantize(): Promise<HostTensor> {
    const [out, inp] = this.shape;
    const values = new Float32Array(out * inp);
    this.#home.binding.fillRows(this.#home.machine, this.handle, 0, out, values);
    return { dtype: 'f32', shape: [out, inp], data: new Uint8Array(values.buffer) };
  }

  [Symbol.dispose](): void {
    if (this.#handle === undefined) return;
    this.#home.binding.freeWeight(this.#handle);
    this.#handle = undefined;
    this.#home.release(this);
  }
}
