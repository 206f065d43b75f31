// Every failure that lowbit foresees is a LowbitError: a code to branch on, a message that names what was wrong, and a hint that says what to do.
// Two installed copies of core recognise each other's errors by the marker symbol, so test with `isLowbitError`, never with `instanceof`.

const MARKER: unique symbol = Symbol.for('lowbit.error');

/** Codes of errors. */
export type ErrorCode =
  | 'ERR_ABORTED' // the caller's AbortSignal fired without a reason of its own
  | 'ERR_ACCESS_DENIED' // a hub does not allow it: no token, or one that may not
  | 'ERR_BAD_ARGUMENT' // a value passed by the caller is unusable
  | 'ERR_BAD_CHECKPOINT' // a file of a checkpoint is malformed or inconsistent
  | 'ERR_BAD_IMAGE' // bytes that are no image, or a damaged one
  | 'ERR_BAD_PICKLE' // a PyTorch file is damaged, or names more than data: classes, functions, opcodes that are never executed
  | 'ERR_BAD_SAFETENSORS' // a safetensors header or file breaks the format
  | 'ERR_BACKEND_UNAVAILABLE' // no backend could be opened
  | 'ERR_DISPOSED' // used after dispose
  | 'ERR_DTYPE_OVERFLOW' // a value does not fit the storage dtype asked for
  | 'ERR_GATED_REPO' // conditions of a model on a hub are to be agreed to first
  | 'ERR_INTEGRITY' // bytes that came are not those that were promised
  | 'ERR_IO' // the operating system refused: full disk, read-only mount, missing permission
  | 'ERR_JOURNAL_MISMATCH' // `resume` met the remains of a different job
  | 'ERR_LIMIT' // a size is over a stated bound
  | 'ERR_NETWORK' // a server cannot be reached, fails, or answers with nonsense
  | 'ERR_NOT_FOUND' // a file or folder is not there
  | 'ERR_NON_FINITE' // NaN or infinity in a weight
  | 'ERR_NOT_INITIALIZED' // a layer made with `initialize: false` was used before `initialize()`
  | 'ERR_OFFLINE_MISS' // HF_HUB_OFFLINE is set, and the cache does not have it
  | 'ERR_OUTPUT_EXISTS' // refusing to overwrite
  | 'ERR_TENSOR_MISMATCH' // missing tensor, wrong shape or dtype
  | 'ERR_TOKENIZER' // tokenizer or chat template missing or malformed
  | 'ERR_UNSUPPORTED_ARCH' // no model adapter for this model_type
  | 'ERR_UNSUPPORTED_FORMAT' // a format, packing or quant_method that nothing here reads, or a shape that a format cannot hold
  | 'ERR_WORKER' // a worker thread could not start, crashed, or failed in a way that nobody foresaw
  | (string & {}); // plug-ins bring their own

/** Beside code and message. */
export interface ErrorInfo {
  /** What the user can do about it, as a sentence. */
  readonly hint?: string | undefined;
  /** Machine-readable facts: tensor, file, shape, limit, ... */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  readonly cause?: unknown;
}

/** A failure that lowbit foresees. */
export class LowbitError extends Error {
  override readonly name: string = 'LowbitError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;
  readonly [MARKER]: true = true;

  constructor(code: ErrorCode, message: string, info: ErrorInfo = {}) {
    super(message, info.cause === undefined ? undefined : { cause: info.cause });
    this.code = code;
    this.hint = info.hint;
    this.details = info.details ?? {};
  }
}

/** True for a LowbitError of any installed copy of core; with `code`, only for that code. */
export function isLowbitError(error: unknown, code?: ErrorCode): error is LowbitError {
  const marked = typeof error === 'object' && error !== null && (error as { [MARKER]?: unknown })[MARKER] === true;
  return marked && (code === undefined || (error as LowbitError).code === code);
}
