// One GPU: its buffers, counted; its pipelines, made once; and what goes wrong on it, found by error scopes.

import { disposedError, isLowbitError, type LowbitError } from '@lowbit/core';
import { deviceFault, deviceLost, outOfMemory, tooLarge } from './errors.ts';
import { type GpuBuffer, type GpuDevice, type GpuError, type GpuFeature, type GpuOpaque, MAP_READ, STAGE_COMPUTE, USAGE } from './gpu.ts';
import { CORE, type Kernel, type Variant } from './wgsl/kernel.ts';

/** What a machine has done so far, for tests and benchmarks. */
export interface Counts {
  buffers: number;
  bytes: number;
  submits: number;
  dispatches: number;
  /** Bytes that came back. */
  read: number;
  pipelines: number;
}

export interface MachineLimits {
  /** Bytes of a weight that are bound at once. */
  readonly binding: number;
  /** Bytes of any buffer, all of which is bound. */
  readonly buffer: number;
  readonly workgroup: number;
}

export interface MachineOptions {
  /** Bytes of a weight that are bound at once, at most. */
  readonly binding?: number | undefined;
  readonly own: boolean;
}

const STORAGE = USAGE.storage | USAGE.copySrc | USAGE.copyDst;
/** Of a binding, and of copies. */
const UNIT = 16;

export class Machine {
  readonly device: GpuDevice;
  /** For messages. */
  readonly label: string;
  readonly limits: MachineLimits;
  readonly counts: Counts = { buffers: 0, bytes: 0, submits: 0, dispatches: 0, read: 0, pipelines: 0 };
  readonly #pipelines = new Map<string, GpuOpaque>();
  readonly #pending = new Map<string, Promise<GpuOpaque>>();
  readonly #groupLayouts = new Map<string, GpuOpaque>();
  readonly #layouts = new Map<string, GpuOpaque>();
  readonly #onError = ({ error }: { readonly error: GpuError }): void => {
    this.#failure ??= deviceFault(this.label, error.message);
  };
  readonly #own: boolean;
  #variant: Variant = CORE;
  #failure: Error | undefined;
  #lost = false;
  #closed = false;
  /** Bytes of all buffers so far. */
  #taken = 0;
  #scopes = 0;

  /** `own`: the device was made for this machine, and is destroyed with it. */
  constructor(device: GpuDevice, label: string, { binding = Number.POSITIVE_INFINITY, own }: MachineOptions) {
    this.device = device;
    this.label = label;
    this.#own = own;
    const { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupStorageSize } = device.limits;
    const whole = (bytes: number): number => Math.floor(bytes / UNIT) * UNIT;
    const buffer = whole(Math.min(maxBufferSize, maxStorageBufferBindingSize));
    this.limits = { binding: Math.min(buffer, whole(binding)), buffer, workgroup: maxComputeWorkgroupStorageSize };
    // What others do wrong with a device that is shared says nothing of this machine.
    if (own) device.addEventListener?.('uncapturederror', this.#onError);
    device.lost.then(({ reason, message }) => {
      this.#lost = true;
      if (!this.#closed) this.#failure = deviceLost(this.label, reason, message);
    });
  }

  get lost(): boolean {
    return this.#lost;
  }

  /** What kernels use beyond the core of WebGPU. */
  get features(): readonly GpuFeature[] {
    const { subgroups, f16 } = this.#variant;
    return [...(subgroups ? ['subgroups' as const] : []), ...(f16 ? ['shader-f16' as const] : [])];
  }

  /** Kernels that are made from now on use these, which the device has; what it refused of others is forgotten. */
  use(features: readonly GpuFeature[]): void {
    this.#variant = { subgroups: features.includes('subgroups'), f16: features.includes('shader-f16') };
    this.#pipelines.clear();
    if (!this.#lost && !this.#closed) this.#failure = undefined;
  }

  /** Throws ERR_DEVICE once the device is lost, or has refused something; ERR_DISPOSED once the machine is closed. */
  check(): void {
    if (this.#failure) throw this.#failure;
  }

  /** `error` as a LowbitError: a promise that breaks when a device is lost says nothing of it. */
  async explain(error: unknown): Promise<unknown> {
    if (isLowbitError(error)) return error;
    await Promise.resolve(); // `lost` settles beside what broke
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (this.#failure) return this.#failure;
    // An aborted signal's reason is anything; what WebGPU throws has a name of its own.
    const { name, message } = (error ?? {}) as { readonly name?: string; readonly message?: string };
    return name === 'OperationError' || name === 'GPUPipelineError' || name === 'GPUError'
      ? deviceFault(this.label, message ?? name)
      : error;
  }

  /** Waits for `body`, whose failures are those of the device. */
  async run<T>(body: () => Promise<T>): Promise<T> {
    this.check();
    try {
      const result = await body();
      this.check();
      return result;
    } catch (error) {
      throw await this.explain(error);
    }
  }

  /** `bytes` of storage, zeros. Throws ERR_LIMIT where they are more than is bound at once. */
  storage(bytes: number, what: string): GpuBuffer {
    return this.#buffer(bytes, STORAGE, what);
  }

  uniform(bytes: number, what: string): GpuBuffer {
    return this.#buffer(bytes, USAGE.uniform | USAGE.copyDst, what);
  }

  staging(bytes: number): GpuBuffer {
    return this.#buffer(bytes, USAGE.mapRead | USAGE.copyDst, 'a copy for the host');
  }

  #buffer(bytes: number, usage: number, what: string): GpuBuffer {
    this.check();
    const size = Math.max(UNIT, Math.ceil(bytes / UNIT) * UNIT);
    if (size > this.limits.buffer) this.refuse(tooLarge(this.label, what, size, this.limits.buffer));
    if (this.#scopes === 0) throw new Error(`${what}: memory is taken inside of claim() only`);
    const buffer = this.device.createBuffer({ label: what, size, usage });
    this.counts.buffers++;
    this.counts.bytes += size;
    this.#taken += size;
    return buffer;
  }

  /** Of a buffer that the device does not make. */
  protected refuse(error: LowbitError): void {
    throw error;
  }

  /** What the GPU still works with is given back when it is done. */
  release(buffer: GpuBuffer | undefined): void {
    if (buffer === undefined) return;
    this.counts.buffers--;
    this.counts.bytes -= buffer.size;
    buffer.destroy();
  }

  /**
   * What `body` makes, and whether the device could do all of it: rejects with ERR_LIMIT where there was no memory, with ERR_DEVICE where it refused
   * something. Buffers without memory are there, but whatever uses them is refused: so both are looked for, and missing memory is said first.
   */
  claim<T>(what: string, body: () => T): { readonly made: T; readonly settled: Promise<void> } {
    const before = this.#taken;
    this.device.pushErrorScope('validation');
    this.device.pushErrorScope('out-of-memory');
    this.#scopes++;
    let made: T;
    let popped: Promise<readonly (GpuError | null)[]>;
    try {
      made = body();
    } finally {
      this.#scopes--;
      popped = Promise.all([this.device.popErrorScope(), this.device.popErrorScope()]);
      popped.catch(() => {}); // a lost device: said where it is waited for
    }
    const bytes = this.#taken - before;
    const settled = popped.then(([memory, refused]) => {
      if (memory) throw outOfMemory(this.label, what, bytes, memory);
      if (refused) throw deviceFault(this.label, refused.message);
    });
    settled.catch(() => {});
    return { made, settled };
  }

  write(buffer: GpuBuffer, offset: number, given: Uint8Array): void {
    this.check();
    // Memory that threads share is copied: Dawn in Node does not survive it.
    const shared = typeof SharedArrayBuffer === 'function' && given.buffer instanceof SharedArrayBuffer;
    const data = shared ? given.slice() : given;
    const whole = Math.floor(data.byteLength / 4) * 4;
    if (whole > 0) this.device.queue.writeBuffer(buffer, offset, data, 0, whole);
    if (whole === data.byteLength) return;
    const rest = new Uint8Array(4);
    rest.set(data.subarray(whole));
    this.device.queue.writeBuffer(buffer, offset + whole, rest);
  }

  submit(buffers: readonly GpuOpaque[]): void {
    this.check();
    this.counts.submits++;
    this.device.queue.submit(buffers);
  }

  /** Bytes of a staging buffer that was filled, copied out. */
  async take(buffer: GpuBuffer, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    await buffer.mapAsync(MAP_READ, 0, buffer.size);
    const data = new Uint8Array(buffer.getMappedRange(0, buffer.size)).slice(0, bytes);
    buffer.unmap();
    this.counts.read += bytes;
    return data;
  }

  groupLayout(kind: 'step' | 'launch' | 'cache', weights = 0): GpuOpaque {
    return remembered(this.#groupLayouts, `${kind} ${weights}`, () => {
      const types = {
        step: ['storage', 'read-only-storage', 'read-only-storage'],
        launch: ['uniform', ...new Array<string>(weights).fill('read-only-storage')],
        cache: ['uniform', 'storage'],
      }[kind];
      const entries = types.map((type, binding) => ({
        binding,
        visibility: STAGE_COMPUTE,
        buffer: { type, hasDynamicOffset: kind === 'cache' && binding === 0 },
      }));
      return this.device.createBindGroupLayout({ entries });
    });
  }

  #descriptor(kernel: Kernel): {
    readonly label: string;
    readonly layout: GpuOpaque;
    readonly compute: { module: GpuOpaque; entryPoint: string };
  } {
    const { name, weights, cache } = kernel;
    const layout = remembered(this.#layouts, `${weights} ${cache}`, () =>
      this.device.createPipelineLayout({
        bindGroupLayouts: [this.groupLayout('step'), this.groupLayout('launch', weights), ...(cache ? [this.groupLayout('cache')] : [])],
      }),
    );
    this.counts.pipelines++;
    const module = this.device.createShaderModule({ label: name, code: kernel.code(this.#variant) });
    return { label: name, layout, compute: { module, entryPoint: 'main' } };
  }

  /** Made at once where it was not made before: the first launch may wait for it. */
  pipeline(kernel: Kernel): GpuOpaque {
    return remembered(this.#pipelines, kernel.name, () => this.device.createComputePipeline(this.#descriptor(kernel)));
  }

  has(kernel: Kernel): boolean {
    return this.#pipelines.has(kernel.name);
  }

  /** Makes pipelines beside other work. */
  async warm(kernels: Iterable<Kernel>): Promise<void> {
    const wanted = new Map([...kernels].map((kernel) => [kernel.name, kernel]));
    await Promise.all(
      [...wanted.values()].map(async (kernel) => {
        if (this.#pipelines.has(kernel.name)) return;
        const made = remembered(this.#pending, kernel.name, () => this.device.createComputePipelineAsync(this.#descriptor(kernel)));
        try {
          this.#pipelines.set(kernel.name, await made);
        } finally {
          this.#pending.delete(kernel.name);
        }
      }),
    );
  }

  /** What is still running rejects with ERR_DISPOSED, in the name of `owner`. */
  close(owner: string): void {
    this.#closed = true;
    this.#failure = disposedError(owner);
    if (!this.#own) return;
    this.device.removeEventListener?.('uncapturederror', this.#onError);
    this.device.destroy();
  }
}

function remembered<T>(known: Map<string, T>, key: string, make: () => T): T {
  let value = known.get(key);
  if (value === undefined) {
    value = make();
    known.set(key, value);
  }
  return value;
}
