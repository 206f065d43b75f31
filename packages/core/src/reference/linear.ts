// A weight prepared on the reference backend.

import { checkOperands } from '../backend/checks.ts';
import { disposedError } from '../disposed.ts';
import type { DeviceTensor, OutlierCount, QuantizedLinear } from '../spec/backend.ts';
import type { Format } from '../spec/format.ts';
import type { HostTensor, Matrix } from '../spec/tensor.ts';
import { multiply } from './matmul.ts';
import type { Rotations } from './rotation.ts';
import type { HeldWeight } from './weights.ts';

/** What a linear needs of the backend that made it. */
export interface LinearHome {
  readonly owner: string;
  /** Values of a slot. Throws ERR_DISPOSED or ERR_BAD_ARGUMENT. */
  values(tensor: DeviceTensor): Float32Array;
  release(linear: ReferenceLinear): void;
}

export class ReferenceLinear implements QuantizedLinear {
  readonly format: Format;
  readonly shape: Matrix;
  readonly bytes: number;
  readonly bias: boolean;
  readonly #home: LinearHome;
  readonly #bias: Float32Array | undefined;
  #weight: HeldWeight | undefined;

  constructor(format: Format, shape: Matrix, weight: HeldWeight, bias: Float32Array | undefined, home: LinearHome) {
    this.format = format;
    this.shape = shape;
    this.bytes = weight.bytes + (bias?.byteLength ?? 0);
    this.bias = bias !== undefined;
    this.#home = home;
    this.#bias = bias;
    this.#weight = weight;
  }

  get outliers(): OutlierCount | undefined {
    return this.#weight?.outliers;
  }

  /** x [rows, in] W^T + bias, as a new array. */
  apply(x: Float32Array, rotations?: Rotations): Float32Array {
    const out = new Float32Array((x.length / this.shape[1]) * this.shape[0]);
    if (out.length > 0) multiply(this.#held(), this.shape, x, this.#bias, out, rotations);
    return out;
  }

  /** Row `index` of the weight, widened. */
  row(index: number, into: Float64Array): void {
    this.#held().fill(index, index + 1, into);
  }

  forward(x: DeviceTensor, out: DeviceTensor): void {
    checkOperands(this.shape, x, out);
    multiply(this.#held(), this.shape, this.#home.values(x), this.#bias, this.#home.values(out));
  }

  async dequantize(): Promise<HostTensor> {
    const [count, inp] = this.shape;
    const weight = this.#held();
    const values = new Float32Array(count * inp);
    const row = new Float64Array(inp);
    for (let i = 0; i < count; i++) {
      weight.fill(i, i + 1, row);
      values.set(row, i * inp);
    }
    return { dtype: 'f32', shape: [count, inp], data: new Uint8Array(values.buffer) };
  }

  [Symbol.dispose](): void {
    if (!this.#weight) return;
    this.#weight = undefined;
    this.#home.release(this);
  }

  #held(): HeldWeight {
    if (!this.#weight) throw disposedError(`a linear [${this.shape.join(', ')}] of ${this.#home.owner}`);
    return this.#weight;
  }
}
