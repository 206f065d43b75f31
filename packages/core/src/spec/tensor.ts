// Tensors that live in host memory: a dtype, a shape and little-endian bytes. Device tensors are in backend.ts.

/** Kinds of numbers in tensors. */
export type DType = 'f64' | 'f32' | 'f16' | 'bf16' | 'i64' | 'i32' | 'i16' | 'i8' | 'u32' | 'u16' | 'u8' | 'bool';

/** Row-major; `[]` is a scalar. */
export type Shape = readonly number[];

/** `[out_features, in_features]` of a linear layer's weight. */
export type Matrix = readonly [out: number, inp: number];

/** A JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
/** A JSON object. */
export type JsonObject = { readonly [key: string]: Json };

/** A dtype and a shape: all that is needed to know a tensor's size. */
export interface TensorSpec {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** A tensor in host memory. `data` holds exactly the elements, row-major, little-endian; it may be a view into a larger buffer at any byte offset. */
export interface HostTensor extends TensorSpec {
  readonly data: Uint8Array;
}

/** What every long-running call accepts. */
export interface CallOptions {
  /** Aborting rejects the call with the signal's reason; nothing half-written is left as if whole. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((event: ProgressEvent) => void) | undefined;
}

/** What `onProgress` is told. */
export interface ProgressEvent {
  readonly phase: 'read' | 'quantize' | 'write' | 'load' | 'evaluate' | 'prefill' | 'generate' | (string & {});
  /** Work done and to do, both in `unit`. */
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'tensors' | 'tokens' | 'weights' | 'layers' | 'linears' | 'texts';
  /** The tensor, layer or file at hand. */
  readonly item?: string | undefined;
}
