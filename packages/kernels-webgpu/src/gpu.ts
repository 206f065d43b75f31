// What is used of WebGPU, as types: those of a browser, of Deno, Bun and of the package `webgpu` all fit, and nobody needs another package for their names.

export interface GpuAdapterInfo {
  readonly vendor?: string;
  readonly architecture?: string;
  readonly device?: string;
  readonly description?: string;
  readonly isFallbackAdapter?: boolean;
  /** How many invocations the largest of its subgroups has. Not all browsers say. */
  readonly subgroupMaxSize?: number;
}

/** What kernels use where an adapter has it. */
export type GpuFeature = 'subgroups' | 'shader-f16';

export interface GpuLimits {
  readonly maxBufferSize: number;
  readonly maxStorageBufferBindingSize: number;
  readonly maxStorageBuffersPerShaderStage: number;
  readonly maxComputeWorkgroupStorageSize: number;
  readonly maxComputeInvocationsPerWorkgroup: number;
}

/** `navigator.gpu`. */
export interface Gpu {
  requestAdapter(options?: {
    readonly powerPreference?: 'low-power' | 'high-performance';
    readonly forceFallbackAdapter?: boolean;
  }): Promise<GpuAdapter | null>;
}

/** A `GPUAdapter`. */
export interface GpuAdapter {
  readonly info?: GpuAdapterInfo;
  readonly features: { has(name: string): boolean };
  readonly limits: GpuLimits;
  requestDevice(descriptor: {
    readonly label?: string;
    readonly requiredFeatures?: GpuFeature[];
    readonly requiredLimits?: Record<string, number>;
  }): Promise<GpuDevice>;
}

export interface GpuBuffer {
  readonly size: number;
  destroy(): void;
  mapAsync(mode: number, offset?: number, size?: number): Promise<undefined>;
  getMappedRange(offset?: number, size?: number): ArrayBuffer;
  unmap(): void;
}

/** Made by the device and only handed back to it. */
export type GpuOpaque = object;

export interface GpuBinding {
  readonly buffer: GpuBuffer;
  readonly offset?: number;
  readonly size?: number;
}

export interface GpuPass {
  setPipeline(pipeline: GpuOpaque): void;
  setBindGroup(index: number, group: GpuOpaque, dynamicOffsets?: Iterable<number>): void;
  dispatchWorkgroups(x: number, y?: number, z?: number): void;
  end(): void;
}

export interface GpuEncoder {
  beginComputePass(): GpuPass;
  copyBufferToBuffer(from: GpuBuffer, fromOffset: number, to: GpuBuffer, toOffset: number, size: number): void;
  finish(): GpuOpaque;
}

export interface GpuError {
  readonly message: string;
}

/** A `GPUDevice`. */
export interface GpuDevice {
  readonly limits: GpuLimits;
  readonly features: { has(name: string): boolean };
  readonly adapterInfo?: GpuAdapterInfo;
  readonly lost: Promise<{ readonly reason?: string; readonly message: string }>;
  readonly queue: {
    submit(buffers: readonly GpuOpaque[]): void;
    writeBuffer(buffer: GpuBuffer, offset: number, data: ArrayBufferView | ArrayBuffer, dataOffset?: number, size?: number): void;
    onSubmittedWorkDone(): Promise<undefined>;
  };
  destroy(): void;
  createBuffer(descriptor: {
    readonly label?: string;
    readonly size: number;
    readonly usage: number;
    readonly mappedAtCreation?: boolean;
  }): GpuBuffer;
  createShaderModule(descriptor: { readonly label?: string; readonly code: string }): GpuOpaque;
  createBindGroupLayout(descriptor: { readonly label?: string; readonly entries: readonly object[] }): GpuOpaque;
  createPipelineLayout(descriptor: { readonly label?: string; readonly bindGroupLayouts: readonly GpuOpaque[] }): GpuOpaque;
  createBindGroup(descriptor: {
    readonly label?: string;
    readonly layout: GpuOpaque;
    readonly entries: readonly { readonly binding: number; readonly resource: GpuBinding }[];
  }): GpuOpaque;
  createComputePipeline(descriptor: GpuPipelineDescriptor): GpuOpaque;
  createComputePipelineAsync(descriptor: GpuPipelineDescriptor): Promise<GpuOpaque>;
  createCommandEncoder(): GpuEncoder;
  pushErrorScope(filter: 'out-of-memory' | 'validation' | 'internal'): void;
  popErrorScope(): Promise<GpuError | null>;
  addEventListener?(type: 'uncapturederror', listener: (event: { readonly error: GpuError }) => void): void;
  removeEventListener?(type: 'uncapturederror', listener: (event: { readonly error: GpuError }) => void): void;
}

export interface GpuPipelineDescriptor {
  readonly label?: string;
  readonly layout: GpuOpaque;
  readonly compute: { readonly module: GpuOpaque; readonly entryPoint: string };
}

/** `GPUBufferUsage`, `GPUMapMode` and `GPUShaderStage`, which are globals in a browser only. */
export const USAGE = { mapRead: 1, copySrc: 4, copyDst: 8, uniform: 64, storage: 128 } as const;
export const MAP_READ = 1;
export const STAGE_COMPUTE = 4;
