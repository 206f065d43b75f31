// How a model family is described: where its linear layers are, and what one step of it computes. Adapters are data and small functions.

import type { QuantizedLinear } from './backend.ts';
import type { Program } from './program.ts';
import type { HostTensor, JsonObject, Matrix, TensorSpec } from './tensor.ts';

/** A linear layer's place in a model. */
export interface LinearSite {
  /** Module path in the checkpoint, without `.weight`: `model.layers.3.self_attn.q_proj`. */
  readonly path: string;
  /** The part of the path that repeats across layers: `self_attn.q_proj`. See `linearTag`. */
  readonly tag: string;
  /** -1 for linears outside the layers, such as `lm_head`. */
  readonly layer: number;
  readonly expert?: number;
  readonly shape: Matrix;
  readonly bias: boolean;
  /**
   * The checkpoint has the floating-point weight as [in, out] (GPT-2's Conv1D). It is turned before it is quantized: quantized weights are always
   * [out, in]. Default false.
   */
  readonly transposed?: boolean;
  /** The checkpoint has the floating-point weight as rows of a larger tensor. Never with `transposed`. */
  readonly stacked?: StackedRows;
  /** Stays in floating point unless a rule names it: heads and routers. Default false. */
  readonly keep?: boolean;
}

/** Where a weight [out, in] lies in a tensor of `in` columns, its other axes folded into rows: experts as one 3-D tensor. */
export interface StackedRows {
  /** Its name in the checkpoint. */
  readonly tensor: string;
  /** First of the `out` rows. */
  readonly row: number;
}

/** Entries of a checkpoint by tensor name. */
export type Entries = ReadonlyMap<string, TensorSpec>;

/** A model as the runtime needs it. */
export interface ModelDescription {
  readonly program: Program;
  readonly vocab: number;
  readonly contextLength: number;
  readonly layers: number;
  /** Of encoder-decoder models; `program` is then the decoder. */
  readonly encoder?: EncoderDescription;
  /**
   * Of models that look at images. What comes out of the tower replaces the rows of placeholder tokens: the injection `image` of `program`. Of a tower on
   * its own `program` is the tower's, and nothing is injected.
   */
  readonly images?: ImageDescription;
}

/** What reads the prompt, in one step. Its output `encoder_output` is the decoder's input of that name, handed in with the first step of a sequence. */
export interface EncoderDescription {
  readonly program: Program;
  /** The token that the decoder's text begins with. */
  readonly start: number;
}

/** What turns an image into rows, in one step: an image tower. */
export interface ImageDescription {
  /** Reads the input `patches`, f32 [tokens, channels * patch * patch]: a row of zeros for the class token if there is one, then the patches row by row. */
  readonly program: Program;
  readonly channels: number;
  /** Pixels, multiples of `patch`. */
  readonly height: number;
  readonly width: number;
  readonly patch: number;
  /** Rows in front of the patches: 1 with a class token. */
  readonly prefix: 0 | 1;
  /** Rows whose results are wanted, from and to. */
  readonly wanted: readonly [from: number, to: number];
  /** Output that an image is turned into. */
  readonly output: string;
  /** The token that stands for a row of an image in a text. Absent where there is no text. */
  readonly placeholder?: number;
}

/** Of `ModelAdapter.describe`. */
export interface DescribeOptions {
  /** Names of extra program outputs, e.g. `hidden.0`: the adapter's own list of observable tensors. */
  readonly observe?: readonly string[];
  /** Reads a whole small tensor of the checkpoint (norms, biases, position tables). */
  readonly read: (name: string) => Promise<HostTensor>;
  readonly entries: Entries;
}

/** A model family. */
export interface ModelAdapter {
  readonly spec: 1;
  /** Values of config.json `model_type` it serves; see `modelTypeOf`. */
  readonly modelTypes: readonly string[];
  /** The linear layers, in the order of the model. Throws ERR_BAD_CHECKPOINT for an unusable config. */
  linears(config: JsonObject, entries: Entries): readonly LinearSite[];
  describe(config: JsonObject, options: DescribeOptions): Promise<ModelDescription>;
}

/** A foreign framework's model whose linears can be replaced: the other half of `patchLinears`. */
export interface LinearHost {
  /** Its linear layers by path. */
  linears(): Iterable<Pick<LinearSite, 'path' | 'shape' | 'keep'>>;
  /** The floating-point weight and bias of one of them. */
  weight(path: string): Promise<{ readonly weight: HostTensor; readonly bias?: HostTensor | undefined }>;
  /** Name of the backend that runs it, for models in several places. Absent: the first of the runtime that takes the format. */
  backend?(path: string): string;
  /** From now on `path` computes with `linear`, which the host owns and disposes. */
  replace(path: string, linear: QuantizedLinear): void | Promise<void>;
}
