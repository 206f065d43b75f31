// A weight on the device.

import {
  checkOperands,
  type DeviceTensor,
  disposedError,
  type Format,
  type HostTensor,
  LowbitError,
  type Matrix,
  type QuantizedLinear,
} from '@lowbit/core';
import type { Argument, BufferHandle, CudaBinding, DeviceHandle, Launch } from './binding.ts';
import { native } from './errors.ts';
import type { PlaneCount } from './gemm.ts';
import { BufferList, elementwise, hadamardLaunch, int, preparation, productLaunches, type Scratch } from './launches.ts';
import type { WeightLayout } from './layout.ts';
import type { HostPart } from './prefetch.ts';

/** What a linear needs of the backend that made it. */
export interface LinearHome {
  readonly owner: string;
  readonly binding: CudaBinding;
  readonly device: DeviceHandle;
  /** Of activations in products of many rows. */
  readonly planes: PlaneCount;
  /** Buffer of an f32 slot. Throws ERR_DISPOSED or ERR_BAD_ARGUMENT. */
  floats(tensor: DeviceTensor): BufferHandle;
  /** Called once, when the linear is disposed. */
  release(linear: CudaLinear): void;
}

/** The memory of a weight: it begins with its header. */
export interface HeldWeight {
  readonly layout: WeightLayout;
  readonly buffer: BufferHandle;
  /** Scales, zeros and tables in memory of the host. */
  readonly host?: BufferHandle | undefined;
  /** What of it is in memory of the host: those, or all of it. */
  readonly hostPart?: HostPart | undefined;
}

/** Numbers of rows that are made at a time. */
const PIECE = 1 << 22;
const MOST_ROWS = 65535;

export class CudaLinear implements QuantizedLinear {
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

  forward(x: DeviceTensor, out: DeviceTensor): void {
    const { layout, buffer } = this.held;
    const rows = checkOperands(this.shape, x, out);
    if (rows > MOST_ROWS) {
      throw new LowbitError('ERR_LIMIT', `a product of ${rows} rows, the limit is ${MOST_ROWS}`, {
        hint: 'Multiply fewer rows at a time.',
      });
    }
    const [from, to] = [this.#home.floats(x), this.#home.floats(out)];
    if (rows === 0) return;
    this.#run((buffers, scratch, launches) => {
      const operands = { rows, x: buffers.add(from), out: buffers.add(to) };
      const prepare = preparation(rows, operands.x, this.#home.planes, scratch(rows), launches);
      launches.push(...productLaunches(layout, buffers.add(buffer), operands, prepare, scratch(rows)));
    });
  }

  async dequantize(): Promise<HostTensor> {
    const { layout, buffer } = this.held;
    const { inp: columns, features, run } = layout;
    const { binding, device } = this.#home;
    const [out] = this.shape;
    const data = new Uint8Array(out * features * 4);
    const most = Math.min(out, MOST_ROWS, Math.max(1, Math.floor(PIECE / columns)));
    const taken: BufferHandle[] = [];
    try {
      const take = (width: number): BufferHandle => {
        const made = native(() => binding.createBuffer(device, most * width * 4, false));
        taken.push(made);
        return made;
      };
      const stored = take(columns);
      const turned = run === undefined ? stored : take(features);
      for (let from = 0; from < out; from += most) {
        const rows = Math.min(most, out - from);
        const buffers = new BufferList();
        const filled = elementwise('fill_rows', rows, columns, [buffers.add(buffer), int(from), buffers.add(stored)]);
        native(() => binding.launch(device, filled, buffers.handles));
        if (run !== undefined) {
          const shape = { features: columns, columns, run, kept: features };
          const back = hadamardLaunch(rows, shape, buffers.add(stored), buffers.add(turned));
          native(() => binding.launch(device, back, buffers.handles));
        }
        await binding.readBuffer(turned, 0, data.subarray(from * features * 4, (from + rows) * features * 4)).catch((error: unknown) => {
          return native(() => {
            throw error;
          });
        });
      }
    } finally {
      for (const one of taken) binding.freeBuffer(one);
    }
    return { dtype: 'f32', shape: [out, features], data };
  }

  [Symbol.dispose](): void {
    if (this.#held === undefined) return;
    this.#home.binding.freeBuffer(this.#held.buffer);
    if (this.#held.host !== undefined) this.#home.binding.freeBuffer(this.#held.host);
    this.#held = undefined;
    this.#home.release(this);
  }

  /** Enqueues launches, with scratch that is given back when they have run. */
  #run(build: (buffers: BufferList, scratch: (rows: number) => Scratch, launches: Launch[]) => void): void {
    const { binding, device } = this.#home;
    const taken: BufferHandle[] = [];
    const buffers = new BufferList();
    const take = (numbers: number): Argument => {
      const made = binding.createBuffer(device, numbers * 4, false);
      taken.push(made);
      return buffers.add(made);
    };
    native(() => {
      try {
        const launches: Launch[] = [];
        build(buffers, (rows) => ({ perRow: (width) => take(rows * width), once: take }), launches);
        for (const launch of launches) binding.launch(device, launch, buffers.handles);
      } finally {
        // The driver waits for what uses them.
        for (const one of taken) binding.freeBuffer(one);
      }
    });
  }
}
