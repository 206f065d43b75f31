// The addon's functions, by hand: a test compares them with what the addon exports. Handles are numbers; one that is not there is an error.

export type DeviceHandle = number & { readonly __device: never };
export type BufferHandle = number & { readonly __buffer: never };
export type PlanHandle = number & { readonly __plan: never };

export type StoredFloat = 'f32' | 'f16' | 'bf16';

/** The kernels that were embedded when the addon was built. */
export interface ImageFacts {
  /** 0: it was built without nvcc. */
  readonly bytes: number;
  readonly targets: string;
  /** Of the toolkit, 1000 * major + 10 * minor. */
  readonly version: number;
}

export interface DeviceFacts {
  readonly name: string;
  /** What the driver was loaded as. */
  readonly driver: string;
  /** 10 * major + minor. */
  readonly capability: number;
  /** Of CUDA that the driver speaks, 1000 * major + 10 * minor. */
  readonly version: number;
  readonly multiprocessors: number;
  /** Bytes, when it was asked. */
  readonly free: number;
  readonly total: number;
}

/** Rows of a step by domain: tokens, outputs, routed, encoder, and 1. */
export type RowCounts = readonly [tokens: number, outputs: number, routed: number, encoder: number, once: 1];

/** Blocks in one direction: a number, or ceil(rows[domain] * times / per). */
export type Extent = number | { readonly rows: number; readonly times?: number; readonly per?: number };

/** An argument of a kernel; null is the address 0. `buffer` indexes the list beside the launch. */
export type Argument =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly buffer: number; readonly offset?: number }
  | { readonly tensor: number }
  | { readonly rows: number }
  | { readonly step: true }
  | null;

export interface Launch {
  readonly kernel: string;
  readonly grid: readonly [Extent, Extent, Extent];
  readonly block: number;
  /** Bytes of shared memory beyond the kernel's own. */
  readonly shared?: number;
  readonly arguments: readonly Argument[];
  /** Runs where the domain has that many rows. */
  readonly where?: { readonly rows: number; readonly least?: number; readonly most?: number };
}

/** A routine's work: room on the device, which launches name as buffer 0, what goes there before them and what comes back after. */
export interface WorkSpec {
  readonly bytes: number;
  /** Memory of the device that outlasts the work: buffer 1 of its launches. */
  readonly beside?: BufferHandle;
  /** To the work's own room, or to `beside`. */
  readonly uploads: readonly { readonly at: number; readonly from: Uint8Array; readonly beside?: true }[];
  readonly launches: readonly Launch[];
  readonly downloads: readonly { readonly at: number; readonly to: Uint8Array }[];
}

/**
 * Bytes of a weight that is kept on the host, brought to the device beside launches: there before the launch `ready`, and not before the launch `after` (-1: any) has read what
 * was there. In a list neither goes back.
 */
export interface PrefetchSpec {
  /** Indexes into the plan's buffers: one of the host, and one of the device. */
  readonly from: number;
  readonly to: number;
  readonly fromOffset: number;
  readonly toOffset: number;
  readonly bytes: number;
  readonly ready: number;
  /** The last launch that reads it: a step in which none from `ready` to this runs does without. */
  readonly last: number;
  readonly after: number;
}

export interface PlanSpec {
  readonly buffers: readonly BufferHandle[];
  /** Numbers of 4 bytes per row of each domain. */
  readonly widths: readonly number[];
  readonly tensors: readonly { readonly rows: number; readonly width: number; readonly offset: number }[];
  readonly launches: readonly Launch[];
  readonly prefetch?: readonly PrefetchSpec[] | undefined;
}

/** Rows of a tensor, or the `largest` numbers of each row: f32 [rows, largest], after them their places, i32 [rows, largest]. */
export interface PlanRead {
  readonly tensor: number;
  readonly out: Uint8Array;
  readonly largest?: number;
}

/** The functions of the native addon. */
export interface CudaBinding {
  /** Version of these functions. */
  readonly abi: number;
  image(): ImageFacts;
  /** Off this thread. What is there, without loading kernels; `driver` undefined is the system's. */
  probe(driver: string | undefined, device: number): Promise<DeviceFacts>;
  openDevice(driver: string | undefined, device: number): Promise<DeviceHandle>;
  /** As it was when it was opened. */
  deviceFacts(device: DeviceHandle): DeviceFacts;
  /** It goes with the last of its buffers and plans. */
  closeDevice(device: DeviceHandle): void;
  memoryInfo(device: DeviceHandle): readonly [free: number, total: number];
  /** `onHost`: memory of the host that kernels read over the bus. */
  createBuffer(device: DeviceHandle, bytes: number, onHost: boolean): BufferHandle;
  freeBuffer(buffer: BufferHandle): void;
  /** Where it begins on the device. */
  bufferAddress(buffer: BufferHandle): bigint;
  /** Enqueues; the bytes have been read when it returns. */
  writeBuffer(buffer: BufferHandle, at: number, bytes: Uint8Array): void;
  /** As `writeBuffer` of many bytes, off this thread: fetched (from a file's pages, say) and copied piece by piece. Resolves when they have been read. */
  uploadBuffer(buffer: BufferHandle, at: number, bytes: Uint8Array): Promise<void>;
  /** Enqueues. */
  copyBuffer(to: BufferHandle, at: number, from: BufferHandle, fromAt: number, bytes: number): void;
  /** Waits off this thread for everything enqueued before. */
  readBuffer(buffer: BufferHandle, at: number, out: Uint8Array): Promise<void>;
  /** Enqueues. Tensors, steps and rows are for plans. */
  launch(device: DeviceHandle, launch: Launch, buffers: readonly BufferHandle[]): void;
  /** Off this thread, in a lane of its own: beside what other calls bring, compute and take back, and beside steps. Resolves when the results are there. */
  runWork(device: DeviceHandle, work: WorkSpec): Promise<void>;
  /** Bytes that lanes hold for work to come: room on the device, memory of the host that it reads by itself. */
  laneFacts(device: DeviceHandle): { readonly room: number; readonly pinned: number };
  /** Gives back what lanes at rest hold. */
  trimLanes(device: DeviceHandle): void;
  /** Its buffers stay as long as it does. */
  createPlan(device: DeviceHandle, spec: PlanSpec): PlanHandle;
  /** Bytes that a step of a plan of these widths takes, which brings so many, and those that stay after it. */
  measurePlan(widths: PlanSpec['widths'], rows: RowCounts, stepBytes: number): { readonly scratch: number; readonly kept: number };
  /** Runs a step off this thread; one at a time. */
  runPlan(plan: PlanHandle, rows: RowCounts, step: Uint8Array, reads: readonly PlanRead[]): Promise<void>;
  /** Bytes of activations; steps that were recorded once and played again. Not while a step runs. */
  planFacts(plan: PlanHandle): { readonly scratch: number; readonly replays: number };
  /** Gives back the room of a long step. */
  trimPlan(plan: PlanHandle): void;
  freePlan(plan: PlanHandle): void;
}

/** Version of the functions that this package calls. */
export const BINDING_ABI = 5;

/** Names of all functions, for the test and for a check of what is loaded. */
export const BINDING_FUNCTIONS = [
  'image',
  'probe',
  'openDevice',
  'deviceFacts',
  'closeDevice',
  'memoryInfo',
  'createBuffer',
  'freeBuffer',
  'bufferAddress',
  'writeBuffer',
  'uploadBuffer',
  'copyBuffer',
  'readBuffer',
  'launch',
  'runWork',
  'laneFacts',
  'trimLanes',
  'createPlan',
  'measurePlan',
  'runPlan',
  'planFacts',
  'trimPlan',
  'freePlan',
] as const satisfies readonly Exclude<keyof CudaBinding, 'abi'>[];
