// What a backend holds: tensors, linears and executables, each given back with it at the latest.

import { disposedError } from '../disposed.ts';
import { validateProgram } from '../program/validate.ts';
import type { CompileOptions, DeviceTensor, Executable, QuantizedLinear } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Program } from '../spec/program.ts';
import type { HostTensor, TensorSpec } from '../spec/tensor.ts';
import { checkLinearUse } from './checks.ts';
import { type DeviceMemory, Slots } from './slots.ts';

/** An executable that says what it holds, to the backend alone. */
export type CountedExecutable = Executable & { readonly bytes: number };

/** The holdings of one backend, over memory in pieces of `M`. Its methods throw ERR_DISPOSED once `dispose` has been called. */
export class Holdings<L extends QuantizedLinear, X extends CountedExecutable, M> {
  /** In words, for messages. */
  readonly owner: string;
  readonly #slots: Slots<M>;
  readonly #linears = new Set<L>();
  readonly #executables = new Set<X>();
  #disposed = false;

  /** `name` is the backend's. */
  constructor(name: string, memory: DeviceMemory<M>) {
    this.owner = `backend '${name}'`;
    this.#slots = new Slots(this.owner, memory);
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Throws ERR_DISPOSED. */
  check(): void {
    if (this.#disposed) throw disposedError(this.owner);
  }

  /** Whether a linear is held here now. */
  has(linear: QuantizedLinear): boolean {
    return this.#linears.has(linear as L);
  }

  /** Takes a linear in. One that was made while the backend was disposed is disposed with it: throws ERR_DISPOSED. */
  addLinear(linear: L): L {
    this.#linears.add(linear);
    if (this.#disposed) {
      linear[Symbol.dispose]();
      throw disposedError(this.owner);
    }
    return linear;
  }

  addExecutable(executable: X): X {
    this.#executables.add(executable);
    return executable;
  }

  /** Lets go of what was disposed. */
  readonly release = (disposed: L | X): void => {
    this.#linears.delete(disposed as L);
    this.#executables.delete(disposed as X);
  };

  /**
   * What `compile` begins with: a valid program and this backend's own linears for it, each fit for its place. Throws as `Backend.compile` says.
   */
  linearsOf(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): L[] {
    this.check();
    options.signal?.throwIfAborted();
    validateProgram(program);
    if (linears.length !== program.linears.length) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `the program has ${program.linears.length} linears, got ${linears.length}`);
    }
    return program.linears.map((use, i) => {
      const linear = linears[i]!;
      checkLinearUse(use, linear, { own: this.has(linear) });
      return linear as L;
    });
  }

  alloc(spec: TensorSpec): DeviceTensor {
    this.check();
    return this.#slots.alloc(spec);
  }

  free(tensor: DeviceTensor): void {
    this.check();
    this.#slots.free(tensor);
  }

  write(tensor: DeviceTensor, data: Uint8Array): void {
    this.check();
    this.#slots.write(tensor, data);
  }

  async read(tensor: DeviceTensor): Promise<HostTensor> {
    this.check();
    return this.#slots.read(tensor);
  }

  /** The memory of an f32 tensor. Throws ERR_DISPOSED, or ERR_BAD_ARGUMENT for another dtype. */
  floats(tensor: DeviceTensor): M {
    this.check();
    return this.#slots.floats(tensor);
  }

  /** Bytes of all that is held now. */
  allocated(): number {
    let bytes = this.#slots.bytes;
    for (const held of [...this.#linears, ...this.#executables]) bytes += held.bytes;
    return bytes;
  }

  /** Disposes of everything; false if that was done before. */
  dispose(): boolean {
    if (this.#disposed) return false;
    for (const held of [...this.#executables, ...this.#linears]) held[Symbol.dispose]();
    this.#slots.clear();
    this.#disposed = true;
    return true;
  }
}
