// A backend runs formats and programs on one device.
//
// It is not a tensor library: it knows no methods, no checkpoints and no models. It owns device memory (callers hold opaque slots), repacks weights
// into an order of its own when they are prepared, and runs operations in the order they were enqueued. Preparing is async, dispatching is sync,
// reading is async. Everything it hands out is disposable, and disposing gives memory back at once.

import type { Format, FormatCodec, QuantizedTensor } from './format.ts';
import type { LinearUse, OpName, Program } from './program.ts';
import type { Routine } from './quantizer.ts';
import type { HostTensor, Matrix, TensorSpec } from './tensor.ts';

/** Device memory, owned by the backend that made it. */
export type Slot = number & { readonly __slot: never };

export interface DeviceTensor extends TensorSpec {
  readonly slot: Slot;
}

/** A question to `supports`. */
export interface LinearRequest {
  readonly format: Format;
  readonly shape: Matrix;
  /** `embedding` needs row look-up, `linear` the product, `both` the two of a tied table. */
  readonly use: LinearUse['use'];
  /**
   * Keep scales, zeros and tables in host memory and stream them to the device at each use (what hqq calls offload_meta): fewer device bytes, slower
   * products, the same numbers. Nothing changes for formats without them. Default false.
   */
  readonly offloadMeta?: boolean;
}

/**
 * native: reads the published packing; repack: own order of the same codes; dequant: expanded to floats. `bytes` of device memory it would take.
 * `dequant` costs memory and hides the point of quantizing: a backend says so, and whoever asks decides (see `RuntimeOptions.allowDequant`).
 */
export type Support =
  | { readonly level: 'native' | 'repack' | 'dequant'; readonly bytes: number }
  | { readonly level: 'none'; readonly reason: string };

/** Whose numbers a weight has: equal origin, format and shape promise equal parts. */
export interface WeightOrigin {
  /** Of the model, for people. */
  readonly label: string;
  /** Changes with its files. */
  readonly model: string;
  readonly weight: string;
}

/** Of `Backend.prepare`. */
export interface PrepareOptions {
  /** What the linear will be used for; default `linear`. */
  readonly use?: LinearUse['use'];
  /** f32 [out]: `forward` adds it. */
  readonly bias?: HostTensor | undefined;
  /** See `LinearRequest`. */
  readonly offloadMeta?: boolean;
  /** Lets a backend keep it for `recall`. */
  readonly origin?: WeightOrigin | undefined;
  /** Rejects with its reason; nothing stays on the device then. */
  readonly signal?: AbortSignal | undefined;
}

/** A weight to recall. */
export interface RecallRequest extends LinearRequest, Pick<PrepareOptions, 'bias'> {
  readonly origin: WeightOrigin;
}

/** How often a format that treats outliers apart (int8) met some. */
export interface OutlierCount {
  /** Products computed. */
  readonly products: number;
  /** Columns of activations computed in floating point, over all products. */
  readonly columns: number;
}

/** A weight prepared on a backend: what a method's `HqqLinear` or `Linear4bit` gives its user, and what a program multiplies by. */
export interface QuantizedLinear extends Disposable {
  readonly format: Format;
  readonly shape: Matrix;
  /** Device bytes held until disposed. */
  readonly bytes: number;
  /** Whether a bias is added. */
  readonly bias: boolean;
  /** Counts so far, for formats that treat outliers apart; undefined for others, and on backends that do not count. */
  readonly outliers?: OutlierCount | undefined;
  /** out = x W^T + bias (int8: its own product). x: f32 [rows, in], out: f32 [rows, out], different slots. Enqueues and returns. */
  forward(x: DeviceTensor, out: DeviceTensor): void;
  /** The weight [out, in], f32. A `LinearModule` gives its compute dtype. */
  dequantize(): Promise<HostTensor>;
}

/** A sequence's place in the caches of an executable. */
export type SequenceId = number & { readonly __sequence: never };

/** A sequence in a step. */
export interface StepSequence {
  readonly id: SequenceId;
  /** New token ids; they take the positions after those already cached. */
  readonly tokens: Uint32Array;
  /** Indices into `tokens` whose rows of `outputs` tensors are wanted, ascending; none is fine; default the last one. */
  readonly wanted?: Uint32Array;
  /** The length that dynamic rotary kinds go by; default cached + tokens. In a chunked prefill pass the whole prompt's on every chunk. */
  readonly length?: number;
  /**
   * Rows for `input` operations by name: f32 [tokens, width], [wanted, width] for the outputs domain, [positions, width] for the encoder domain.
   * Encoder rows are handed in once per sequence, all of them with one step; a step without them has none.
   */
  readonly inputs?: Readonly<Record<string, HostTensor>>;
  /** Rows for `inject` operations, f32: row i of `rows` replaces the row of token at[i]; `at` is ascending. Without it nothing is replaced. */
  readonly injections?: Readonly<Record<string, { readonly at: Uint32Array; readonly rows: HostTensor }>>;
}

/** f32 (expert ids: i32) [rows, width] per output name, rows of all sequences in the order given. See `StepOptions.largest` for its outputs. */
export type StepOutputs = Readonly<Record<string, HostTensor>>;

/** Of `Executable.step`. */
export interface StepOptions {
  readonly signal?: AbortSignal | undefined;
  /** Names of the program outputs to read back; default all, [] none (a step that only fills caches). */
  readonly outputs?: readonly string[] | undefined;
  /**
   * f32 outputs of which only the largest numbers of each row are read back, and how many of them: `{ logits: 1 }` is the best token. Such an output is
   * f32 [rows, count] in falling order, and `<name>.ids`, i32 [rows, count], has their places; of equals the lower place comes first. Of a row with NaN the first of them is in front. Where
   * a row has no more it is -Infinity with id -1.
   */
  readonly largest?: Readonly<Record<string, number>> | undefined;
}

/** A compiled program with its activations and caches. */
export interface Executable extends Disposable {
  /** Device bytes of activations, and of keys and values held now. */
  memory(): { readonly scratch: number; readonly cache: number };
  /** A new, empty sequence. */
  open(): SequenceId;
  /** A sequence with the same cached tokens, or the first `length` of them; they are independent from then on. */
  fork(id: SequenceId, length?: number): SequenceId;
  /** Number of tokens stepped, also by a program without caches: an encoder takes a new (or truncated) sequence per input. */
  length(id: SequenceId): number;
  /** Forgets the cached tokens from position `length` on. Encoder rows stay. */
  truncate(id: SequenceId, length: number): void;
  close(id: SequenceId): void;
  /**
   * Runs one step; one at a time, and no other method meanwhile. A step that rejects changes no cache: ERR_BAD_ARGUMENT for an unusable batch (no
   * sequence, one twice, no tokens, an id out of the vocabulary, missing or unknown inputs) or an unknown output name, ERR_LIMIT beyond
   * contextLength or a position table.
   */
  step(batch: readonly StepSequence[], options?: StepOptions): Promise<StepOutputs>;
}

/** Of `Backend.compile`. */
export interface CompileOptions {
  /** Most positions a sequence may have; a longer one is ERR_LIMIT. */
  readonly contextLength: number;
  /** Most sequences open at once; default 16 (`DEFAULT_MAX_SEQUENCES`). */
  readonly maxSequences?: number | undefined;
  /** Rejects with its reason; nothing stays on the device then. */
  readonly signal?: AbortSignal | undefined;
}

/** A step of `sequences`, of each the last `tokens` of `contextLength`, `outputs` wanted rows and `encoder` rows. */
export type StepSize = Readonly<Record<'contextLength' | 'sequences' | 'tokens' | 'outputs' | 'encoder', number>>;

/** Bytes beside linears: in a step (`scratch`), after it (`kept`). `refused`: why there can be none. */
export type StepBytes = Readonly<Record<'constants' | 'scratch' | 'kept' | 'cache', number>> & { readonly refused?: string };

/** Default of `maxSequences`. */
export const DEFAULT_MAX_SEQUENCES = 16;

/** One device. */
export interface Backend extends AsyncDisposable {
  readonly spec: 1;
  readonly name: string;
  readonly device: { readonly label: string; readonly memory: number; readonly features: readonly string[] };
  /** What it holds keys and values in; default f32. */
  readonly kvDtype?: 'f32' | 'f16' | 'bf16';
  /** Operations it runs. `linear` alone is a valid, weights-only backend. */
  readonly ops: ReadonlySet<OpName>;
  /** Faster versions of quantizers' routines, by name. */
  readonly routines?: ReadonlyMap<string, Routine>;
  /** Pure and synchronous. */
  supports(request: LinearRequest): Support;
  /**
   * Puts a weight on the device as `supports` announced for its format, shape and use: where that is `dequant`, expanded.
   * Takes over nothing: the caller may drop the host tensors once the promise settles, and must neither change nor transfer them before.
   * Throws ERR_UNSUPPORTED_FORMAT where `supports` says none, ERR_TENSOR_MISMATCH for parts or a bias that do not fit.
   */
  prepare(weight: QuantizedTensor, options?: PrepareOptions): Promise<QuantizedLinear>;
  /** Kept weights as `prepare` would give them, undefined where it must. */
  recall?(requests: readonly RecallRequest[], options?: Pick<PrepareOptions, 'signal'>): Promise<readonly (QuantizedLinear | undefined)[]>;
  /**
   * `linears[i]` serves `program.linears[i]`; the executable uses them but does not own them. Each was prepared by this same backend, for that use:
   * an executable reads device memory, it calls no `forward`, so a wrapper of the caller's cannot stand in. (An adapter such as LoRA is a rewrite of
   * the program: two more `linear` operations beside the first and an `add` with a factor.) A linear adds the bias it was prepared with: whoever
   * prepares it passes the constant that `LinearUse.bias` names.
   * Throws ERR_BAD_ARGUMENT for a program that breaks a rule of program.ts, and for linears that are not this backend's or do not fit.
   */
  compile(program: Program, linears: readonly QuantizedLinear[], options: CompileOptions): Promise<Executable>;
  /** What an executable would hold; takes nothing. */
  measure?(program: Program, linears: readonly LinearRequest[], size: StepSize): StepBytes;
  alloc(spec: TensorSpec): DeviceTensor;
  free(tensor: DeviceTensor): void;
  write(tensor: DeviceTensor, data: Uint8Array): void;
  /** Waits for everything enqueued before. */
  read(tensor: DeviceTensor): Promise<HostTensor>;
  /** Device bytes held by linears, executables and tensors of this backend now. */
  allocated(): number;
}

/** Whether a backend can open. */
export type Probe =
  | { readonly ok: true; readonly detail: string }
  | { readonly ok: false; readonly reason: string; readonly hint?: string };

/** What `cpu()`, `cuda()` or `referenceBackend()` return; passed by value to `createRuntime`. */
export interface BackendProvider {
  readonly spec: 1;
  readonly name: string;
  /** Cheap and harmless: may this backend be opened here? */
  probe(): Promise<Probe>;
  /** `codecs` are those of custom formats, for backends that can make use of them. */
  open(options?: { readonly codecs?: readonly FormatCodec[] }): Promise<Backend>;
}
