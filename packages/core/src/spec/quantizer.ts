// A quantizer turns one weight matrix into one format. It is a plain object made by a method's factory, such as hqq({ bits: 4 }).
// Weights may be larger than memory: a quantizer reads flat element ranges and writes part ranges, within the byte budget it is given.

import type { Format } from './format.ts';
import type { DType, HostTensor, JsonObject, Matrix } from './tensor.ts';

/** What reading does with NaN and infinity: `refuse` them (ERR_NON_FINITE names the tensor and the element), or `keep` them, for a reader who looks himself. */
export type NonFinite = 'refuse' | 'keep';

/** A weight matrix that need not be in memory. */
export interface WeightReader {
  readonly name: string;
  readonly shape: Matrix;
  readonly dtype: DType;
  /** Fills `into` (from index `at`, default 0) with the flat row-major elements [from, to) widened to f32. `nonFinite` is `refuse` by default. */
  read(from: number, to: number, into: Float32Array, at?: number, nonFinite?: NonFinite): Promise<void>;
  /** The elements as they are stored, unchecked, for backends, which look at them themselves: maybe a view, at any byte offset. */
  readStored?(from: number, to: number): Promise<Uint8Array>;
}

/** Where the parts of one quantized weight go. Ranges may be written in any order, each element exactly once. */
export interface PartWriter {
  /** Writes elements of `part` from flat index `at`; `data` holds whole elements in the part's dtype. The bytes are taken over before the promise settles. */
  write(part: string, at: number, data: Uint8Array): Promise<void>;
}

/**
 * Second moments of a linear's input channels, E[x_i^2] (`diagonal`, f32 [in]) or E[x_i x_j] (`matrix`, f32 [in, in]): what an error in a weight
 * costs at the output. From `collectImportance` of models.
 */
export interface Importance {
  readonly kind: 'diagonal' | 'matrix';
  readonly moments: HostTensor;
  /** How many rows the moments were averaged over. */
  readonly rows: number;
}

/**
 * A named numerical kernel of a quantizer (`hqq.proximal-steps`) that a backend may bring in a faster version. Tensors in, tensors out;
 * the quantizer that names it says what they are, and holds the normative version.
 */
export type Routine = (inputs: readonly HostTensor[], params: JsonObject) => Promise<readonly HostTensor[]>;

/** Worker threads that serve routines of a quantizer's own (`Quantizer.worker`). */
export interface RoutinePool {
  /** Calls that run at a time; more wait. */
  readonly threads: number;
  /** A call that cannot be served rejects with ERR_BAD_ARGUMENT, one whose thread is lost with ERR_WORKER. */
  routine(name: string): Routine;
}

/** What a quantizer is given. */
export interface QuantizeContext {
  /** Bytes of host memory the quantizer may hold at once for this weight. */
  readonly budget: number;
  readonly signal?: AbortSignal | undefined;
  readonly importance?: Importance | undefined;
  /** A backend's version of a routine, if it has one; otherwise the quantizer runs its own. */
  readonly routine?: ((name: string) => Routine | undefined) | undefined;
  /** Threads for the routines of `Quantizer.worker`, where the caller allows several. Using them changes no byte. */
  readonly workers?: RoutinePool | undefined;
  /** Called with the number of weights finished since the last call. */
  readonly onWeights?: ((count: number) => void) | undefined;
}

/** Error of the stored numbers (after rounding of scales to their storage dtype) against the weight, summed over all elements. */
export interface WeightError {
  readonly squaredError: number;
  readonly squaredWeight: number;
  readonly maxAbs: number;
  /** Elements left out of the sums, because they or what is stored of them are NaN or infinite. Absent: none. */
  readonly nonFinite?: number;
}

/** A configured method. */
export interface Quantizer {
  readonly spec: 1;
  readonly method: string;
  /** The settings as the layout's config block has them; never dispatched on by core. */
  readonly config: JsonObject;
  /** Changes whenever the bytes could: every setting, and a version of the algorithm. An interrupted run is resumed only with an equal one. */
  readonly identity: string;
  /** False: it looks at no importance, so that collecting any for it would be in vain. `matrix`: it needs that kind. Absent: it may use either. */
  readonly usesImportance?: boolean | 'matrix' | undefined;
  /** A module that calls `serveRoutines`, so that this method can use all cores. Absent: it runs on the thread that calls. */
  readonly worker?: URL | undefined;
  /**
   * The format this quantizer makes of a weight of that shape, with scales and zeros stored as `metaDtype`.
   * Throws ERR_UNSUPPORTED_FORMAT with the reason; never skips silently.
   */
  format(shape: Matrix, metaDtype: DType): Format;
  /** Quantizes into `out`, whose parts are those of `format`. Same weight, same bytes, whatever the budget and the threads. */
  quantize(weight: WeightReader, format: Format, out: PartWriter, context: QuantizeContext): Promise<WeightError>;
}

/** `keep` leaves a linear as it is in the source. */
export type Treatment = Quantizer | 'keep';

/** What becomes of the linears that it matches; of several rules that match one the last wins. */
export interface Rule {
  /** A glob (`*` within a dot component, `**` across, `{a,b}`) of a path, of a path within its layer (`experts.*.w1`), or of a tag; or several. */
  readonly match: string | readonly string[];
  /** `substring`: `match` is plain text that occurs somewhere in the path, or is the whole tag: transformers' `skip_modules`. Default `glob`. */
  readonly by?: 'glob' | 'substring';
  /** May match no linear at all, which otherwise is an error. Default false. */
  readonly optional?: boolean;
  readonly use: Treatment;
}
