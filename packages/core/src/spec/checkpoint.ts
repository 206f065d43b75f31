// Storage: where tensors come from, where they go, and how a quantized weight is laid out in a checkpoint's files.

import type { WeightOrigin } from './backend.ts';
import type { Format, QuantizedTensor } from './format.ts';
import type { Entries, LinearSite } from './model.ts';
import type { Quantizer } from './quantizer.ts';
import type { DType, HostTensor, Json, JsonObject, Matrix, TensorSpec } from './tensor.ts';

/** Of `TensorSource.read`. */
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

/** Where tensors are written. All sizes are fixed by `reserve`, those of late tensors apart; ranges then arrive in any order. */
export interface TensorSink extends AsyncDisposable {
  /** `late`: one-dimensional u8 tensors whose length is known only when they are written. Their spec has the most bytes that they can take. */
  reserve(tensors: ReadonlyMap<string, TensorSpec>, metadata: Readonly<Record<string, string>>, late?: ReadonlySet<string>): Promise<void>;
  /** Writes whole elements of `name` from flat index `at`. Of a late tensor one write from 0 brings all bytes, and with them its length. */
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
  /**
   * Part name -> tensor of the checkpoint that holds its bytes. The dtype may differ in name only, as with float views, and the tensor may be longer:
   * its first bytes count.
   */
  readonly parts: Readonly<Record<string, string>>;
  /** Small parts that are no tensors of their own, such as a number in a JSON text. */
  readonly constants?: Readonly<Record<string, HostTensor>> | undefined;
  readonly bias?: string | undefined;
  /** What a person should know of it, a sentence that does not name it: something was mended while reading, say. */
  readonly note?: string | undefined;
}

/** Bytes that follow from small parts of a linear, so that they are known only once it is quantized: a number in a JSON text, a table in another dtype. */
export interface LateContent {
  /** Parts that `make` needs, of at most 64 KiB each. */
  readonly late: readonly string[];
  /** There are as many bytes as `spec` says, whatever the parts: the tensor may have any dtype and shape. Default false. */
  readonly exact?: boolean;
  make(parts: Readonly<Record<string, HostTensor>>): Uint8Array;
}

/**
 * One tensor of a file as a layout wants it: bytes of a part, a constant of its own, or late bytes. Those are a one-dimensional u8 tensor, and `spec`
 * has the most there can be, unless they are `exact`.
 */
export interface LayoutTensor {
  readonly name: string;
  readonly spec: TensorSpec;
  readonly content: FixedContent | LateContent;
}

/** Bytes of a part, or a constant. */
export type FixedContent = { readonly part: string } | { readonly data: Uint8Array };

/** A tensor of a layout without late ones. */
export interface FixedTensor extends LayoutTensor {
  readonly content: FixedContent;
}

/** What a layout is told beside the linear. */
export interface LayoutOptions {
  /** The dtype that a Python reader computes in. */
  readonly computeDtype: DType;
  /** The dtype that the weight would be stored in if it were kept. */
  readonly weightDtype: DType;
}

/** A linear that will be quantized, or is already and will be stored in another way. */
export interface QuantizedSite {
  readonly site: LinearSite;
  readonly use: LinearSettings;
  readonly format: Format;
}

/** What a layout knows of a quantizer: the method, and its settings as the layout's config block has them. */
export type LinearSettings = Pick<Quantizer, 'method' | 'config'>;

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
    options?: { readonly signal?: AbortSignal | undefined; readonly allowNonFinite?: boolean | undefined },
  ): Promise<ReadonlyMap<string, StoredLinear>>;
  /** True if this layout can store what the quantizer makes. */
  accepts(use: LinearSettings, format: Format): boolean;
  /** The tensors of one quantized linear, its bias apart. */
  tensors(linear: QuantizedSite, options: LayoutOptions): readonly LayoutTensor[];
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
  /** Of `linear(path)`; undefined if unknown, as of a file that changed a moment ago. */
  origin?(path: string): WeightOrigin | undefined;
}
