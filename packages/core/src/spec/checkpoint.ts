// Storage: where tensors come from, where they go, and how a quantized weight is laid out in a checkpoint's files.

import type { Format, QuantizedTensor } from './format.ts';
import type { Entries, LinearSite } from './model.ts';
import type { Importance, Quantizer } from './quantizer.ts';
import type { DType, HostTensor, Json, JsonObject, Matrix, TensorSpec } from './tensor.ts';

export interface ReadOptions {
  /** Flat element range [from, to); default the whole tensor. */
  readonly range?: readonly [from: number, to: number];
  readonly signal?: AbortSignal | undefined;
}

/** Named tensors that can be read in pieces. Never reads more than it is asked for. */
export interface TensorSource extends AsyncDisposable {
  /** For messages: a folder or a repository. */
  readonly label: string;
  readonly entries: Entries;
  /** With `range` the result is one-dimensional. Throws ERR_TENSOR_MISMATCH for an unknown name. */
  read(name: string, options?: ReadOptions): Promise<HostTensor>;
}

/** Where tensors are written. All sizes are fixed by `reserve`; ranges then arrive in any order. */
export interface TensorSink extends AsyncDisposable {
  reserve(tensors: ReadonlyMap<string, TensorSpec>, metadata: Readonly<Record<string, string>>): Promise<void>;
  /** Writes whole elements of `name` from flat index `at`. */
  write(name: string, at: number, data: Uint8Array): Promise<void>;
  /** Marks units of work as done, durably: after a crash `done` has them again. */
  commit(unit: string, note: Json): Promise<void>;
  /** Units committed by an interrupted run of the same job. */
  readonly done: ReadonlyMap<string, Json>;
  /** Makes the result visible under its final name. Disposing without `close` leaves nothing that looks whole. */
  close(): Promise<void>;
}

/** How one linear is stored in a checkpoint. */
export interface StoredLinear {
  readonly format: Format;
  readonly shape: Matrix;
  /** Part name -> tensor of the checkpoint that holds its bytes (the dtype may differ in name only, as with float views). */
  readonly parts: Readonly<Record<string, string>>;
  readonly bias?: string | undefined;
}

/** One tensor of a file as a layout wants it: bytes of a part, or a constant of its own. */
export interface LayoutTensor {
  readonly name: string;
  readonly spec: TensorSpec;
  readonly content: { readonly part: string } | { readonly data: Uint8Array };
}

/** A linear that will be quantized. */
export interface QuantizedSite {
  readonly site: LinearSite;
  readonly use: Quantizer;
  readonly format: Format;
  readonly importance?: Importance | undefined;
}

/** A linear and what becomes of it. */
export type PlannedLinear = QuantizedSite | { readonly site: LinearSite; readonly use: 'keep'; readonly format?: undefined };

/** What a layout may split into files. */
export interface WrittenModel {
  /** config.json of the source. */
  readonly config: JsonObject;
  readonly linears: readonly PlannedLinear[];
  /** Every tensor of the result. */
  readonly names: readonly string[];
}

/** A published way to store quantized weights (`hqq`, `bitsandbytes`, ...): read, write, detect. */
export interface CheckpointLayout {
  readonly spec: 1;
  readonly name: string;
  /** True if config.json says so or the entries show it. */
  detect(config: JsonObject, entries: Entries): boolean;
  /** Every quantized linear by module path. Reads only small tensors. */
  read(
    config: JsonObject,
    source: TensorSource,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<ReadonlyMap<string, StoredLinear>>;
  /** True if this layout can store what the quantizer makes. */
  accepts(quantizer: Quantizer, format: Format): boolean;
  /** The tensors of one quantized linear, its bias apart. `computeDtype` is the dtype that a Python reader computes in. */
  tensors(linear: QuantizedSite, options: { readonly computeDtype: DType }): readonly LayoutTensor[];
  /** Value of `quantization_config` in config.json; undefined if the layout has none. */
  config(linears: readonly PlannedLinear[]): JsonObject | undefined;
  /** Strings for the header of every file. Default: `format: pt`, which Python readers of safetensors ask for. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Names of the tensors of each file, where the layout itself says how a checkpoint is split; an empty file is not written. Default: by size. */
  files?(model: WrittenModel): readonly (readonly string[])[];
  /** Which programs load the result, as sentences for the end of `quantize`. */
  loadsIn(linears: readonly PlannedLinear[]): readonly string[];
}

/** A model on disk or elsewhere: config, tensors in their stored form, and the other files. */
export interface Checkpoint extends AsyncDisposable {
  readonly label: string;
  readonly config: JsonObject;
  readonly source: TensorSource;
  /** Name of the layout in use, if any linear is quantized. */
  readonly layout: string | undefined;
  readonly quantized: ReadonlyMap<string, StoredLinear>;
  /** Names of files that are neither tensors nor config.json: tokenizer, generation_config.json, licence, ... */
  readonly files: readonly string[];
  /** Undefined if there is no such file. Refuses files over `maxBytes` (default 64 MiB) with ERR_LIMIT. */
  file(name: string, maxBytes?: number): Promise<Uint8Array | undefined>;
  /** The weight of a linear in its stored format; dense when it is not quantized. */
  linear(path: string, options?: { readonly signal?: AbortSignal | undefined }): Promise<QuantizedTensor>;
  tensor(name: string, options?: ReadOptions): Promise<HostTensor>;
}
