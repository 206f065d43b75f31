// The buffer of a weight, or of a part of it. Linears and programs share it; it is given back when none of them has it any more.

import type { Machine } from './device.ts';
import type { GpuBuffer } from './gpu.ts';

export class Storage {
  readonly buffer: GpuBuffer;
  readonly #machine: Machine;
  #holders = 1;

  /** Its maker is the first holder. */
  constructor(machine: Machine, buffer: GpuBuffer) {
    this.#machine = machine;
    this.buffer = buffer;
  }

  hold(): void {
    this.#holders++;
  }

  release(): void {
    if (--this.#holders === 0) this.#machine.release(this.buffer);
  }
}

/** A run of bytes of a buffer. Experts of a layer lie in one. */
export interface Place {
  readonly storage: Storage;
  readonly offset: number;
  readonly bytes: number;
}
