// What the page and its worker say to each other. Everything is plain data, or files.

import type { FinishReason, Verdict } from '@lowbit/models';
import type { Settings } from './methods.ts';

export type Source =
  | { readonly kind: 'example' }
  | { readonly kind: 'files'; readonly files: readonly { readonly path: string; readonly file: File }[] }
  | { readonly kind: 'directory'; readonly handle: FileSystemDirectoryHandle }
  | { readonly kind: 'saved'; readonly name: string };

export interface Opened {
  readonly label: string;
  readonly architecture: string;
  readonly layers: number;
  readonly parameters: number;
  readonly bytes: number;
  /** Name of the layout if the model is quantized already. */
  readonly layout: string | undefined;
}

/** Linears of one module kind. */
export interface PlanRow {
  readonly tag: string;
  readonly linears: number;
  readonly weights: number;
  readonly kept: boolean;
  readonly before: number;
  readonly after: number;
}

export interface Plan {
  readonly rows: readonly PlanRow[];
  /** Tensors that are no linears: embeddings, norms. */
  readonly restBytes: number;
  readonly quantized: number;
  readonly linears: number;
  readonly bitsPerWeight: number;
  readonly before: number;
  readonly after: number;
  readonly loadsIn: readonly string[];
  readonly memory: {
    readonly backend: string;
    readonly verdict: Verdict;
    readonly total: number;
    readonly available: number;
    readonly weights: number;
    readonly kvCache: number;
    readonly contextLength: number;
    /** False where the browser does not say how much memory the device has. */
    readonly measured: boolean;
  };
}

export interface LayerError {
  readonly path: string;
  readonly layer: number;
  readonly tag: string;
  /** Root of the squared error over the squared weights. */
  readonly error: number;
}

export interface Quantized {
  readonly name: string;
  readonly ms: number;
  readonly bytes: number;
  readonly error: number;
  readonly resumed: number;
  readonly linears: readonly LayerError[];
}

export interface SavedModel {
  readonly name: string;
  readonly state: 'whole' | 'unfinished';
  readonly bytes: number;
}

export interface Library {
  readonly models: readonly SavedModel[];
  readonly place: 'opfs' | 'cache';
  readonly used: number | undefined;
}

export interface Loaded {
  readonly label: string;
  /** False for models that only continue texts. */
  readonly chats: boolean;
  readonly backend: string;
  readonly weights: number;
  readonly contextLength: number;
}

// A type: messages of models may have further fields.
export type Message = {
  readonly role: 'user' | 'assistant';
  readonly content: string;
};

export interface Turn {
  /** A conversation, or one text to continue. */
  readonly messages: readonly Message[];
  readonly maxTokens: number;
  readonly temperature: number;
  readonly seed?: number;
}

export interface Answer {
  readonly ids: readonly number[];
  readonly finishReason: FinishReason;
  readonly promptTokens: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly seed: number;
  readonly memory: { readonly weights: number; readonly kvCache: number; readonly scratch: number };
}

export interface Closed {
  /** Bytes of the backend before and after. */
  readonly before: number;
  readonly after: number;
}

/** What models run on. */
interface Place {
  /** `text`: which GPU, or why none. Undefined where none was looked for. */
  readonly gpu: { readonly ok: boolean; readonly text: string } | undefined;
  /** Whether plain TypeScript may take its place. */
  readonly plain: boolean;
}

/** Calls of the page: arguments and result. */
export interface Calls {
  place: [args: Record<never, never>, result: Place];
  open: [args: { readonly source: Source }, result: Opened];
  plan: [args: { readonly settings: Settings }, result: Plan];
  quantize: [args: { readonly settings: Settings; readonly name: string; readonly replace: boolean }, result: Quantized];
  library: [args: Record<never, never>, result: Library];
  remove: [args: { readonly name: string; readonly only?: 'unfinished' }, result: undefined];
  load: [args: { readonly source: Source }, result: Loaded];
  generate: [args: Turn, result: Answer];
  close: [args: Record<never, never>, result: Closed];
}

/** What a call says while it runs. */
export type Progress =
  | { readonly kind: 'progress'; readonly phase: string; readonly done: number; readonly total: number; readonly item?: string | undefined }
  | { readonly kind: 'text'; readonly text: string };

export type ToWorker =
  | { readonly id: number; readonly call: keyof Calls; readonly args: unknown }
  | { readonly id: number; readonly cancel: true };

export type FromWorker =
  | { readonly id: number; readonly progress: Progress }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly failure: Failure };

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint?: string | undefined;
  /** `details.reason` of the error, which tells limits of memory from limits of length. */
  readonly reason?: string | undefined;
  readonly aborted: boolean;
}
