// Writes programs: each method adds one operation, works out the width and domain of its result, and returns the result's id.

import type {
  Activation,
  CacheUse,
  ConstantId,
  HostTensor,
  LinearId,
  LinearUse,
  Matrix,
  Op,
  OpOf,
  Program,
  ProgramTensor,
  Rope,
  RowDomain,
  TensorId,
} from '@lowbit/core';
import { inferResult, isLowbitError, LowbitError, validateProgram } from '@lowbit/core';

/** Fields an operation's caller gives: all but its name, place and operands. */
type Settings<T, Given extends string> = Omit<T, 'op' | 'layer' | 'out' | Given>;

/** `Omit` that keeps a union's members apart. */
type Unplaced<T> = T extends Op ? Omit<T, 'layer' | 'out'> : never;

/**
 * Builds a program. Set `layer` (from -1 through `layers`, never backwards) before adding what belongs to it: operations, linears and caches
 * take it. Every operation is checked as it is added (ERR_BAD_ARGUMENT).
 *
 * @example
 * const b = new ProgramBuilder({ layers: 1 });
 * const x = b.embed(b.addLinear('model.embed_tokens', [vocab, hidden], { use: 'both' }));
 * b.layer = 0;
 * const y = b.add(x, b.linear(b.norm(x, { kind: 'rms', eps: 1e-5 }), b.addLinear('model.layers.0.mlp', [hidden, hidden])));
 * b.layer = 1;
 * b.output('logits', b.linear(b.select(y), 0));
 * const program = b.build();
 */
export class ProgramBuilder {
  layer = -1;
  readonly layers: number;
  readonly #tensors: ProgramTensor[] = [];
  readonly #constants: HostTensor[] = [];
  readonly #linears: LinearUse[] = [];
  readonly #ropes: Rope[] = [];
  readonly #caches: CacheUse[] = [];
  readonly #ops: Op[] = [];
  readonly #outputs: Record<string, TensorId> = {};

  constructor(options: { readonly layers: number }) {
    this.layers = options.layers;
  }

  /** Width, domain and dtype of a tensor made so far. */
  tensor(id: TensorId): ProgramTensor {
    const tensor = this.#tensors[id];
    if (!tensor) throw new LowbitError('ERR_BAD_ARGUMENT', `there is no tensor ${id}`);
    return tensor;
  }

  addConstant(tensor: HostTensor): ConstantId {
    return this.#constants.push(tensor) - 1;
  }

  /** Declares a weight. `use` is what the model declares; `both` for a table tied to the head. */
  addLinear(
    path: string,
    shape: Matrix,
    options: { readonly use?: LinearUse['use']; readonly bias?: ConstantId | undefined } = {},
  ): LinearId {
    const { use = 'linear', bias } = options;
    return this.#linears.push({ path, shape, use, layer: this.layer, ...(bias === undefined ? {} : { bias }) }) - 1;
  }

  addRope(rope: Rope): number {
    return this.#ropes.push(rope) - 1;
  }

  addCache(cache: Omit<CacheUse, 'layer' | 'rows'> & { readonly rows?: CacheUse['rows'] }): number {
    return this.#caches.push({ rows: 'tokens', ...cache, layer: this.layer }) - 1;
  }

  embed(table: LinearId, options: { readonly scale?: number } = {}): TensorId {
    return this.#push({ op: 'embed', table, scale: options.scale ?? 1 });
  }

  /** Rows that the caller hands in; the one operation whose width cannot be worked out. */
  input(name: string, options: { readonly rows?: RowDomain; readonly width: number }): TensorId {
    return this.#push({ op: 'input', name }, { rows: options.rows ?? 'tokens', width: options.width, dtype: 'f32' });
  }

  inject(x: TensorId, name: string): TensorId {
    return this.#push({ op: 'inject', x, name });
  }

  positionEmbed(x: TensorId, table: ConstantId, options: { readonly offset?: number } = {}): TensorId {
    return this.#push({ op: 'positionEmbed', x, table, offset: options.offset ?? 0 });
  }

  norm(
    x: TensorId,
    options: Pick<OpOf<'norm'>, 'kind' | 'eps'> & {
      readonly groups?: number;
      readonly weight?: ConstantId | undefined;
      readonly weightOffset?: 0 | 1;
      readonly bias?: ConstantId | undefined;
    },
  ): TensorId {
    return this.#push({ op: 'norm', x, groups: 1, weightOffset: 0, ...defined(options) });
  }

  linear(x: TensorId, weight: LinearId): TensorId {
    return this.#push({ op: 'linear', x, weight });
  }

  rope(x: TensorId, options: Settings<OpOf<'rope'>, 'x'>): TensorId {
    return this.#push({ op: 'rope', x, ...options });
  }

  /** `valueDim` defaults to `keyDim`, `kvHeads` to `heads`, `causal` to true. */
  attend(
    q: TensorId,
    options: Pick<OpOf<'attend'>, 'heads' | 'keyDim' | 'scale'> & {
      readonly [K in keyof Omit<Settings<OpOf<'attend'>, 'q'>, 'heads' | 'keyDim' | 'scale'>]?: OpOf<'attend'>[K] | undefined;
    },
  ): TensorId {
    return this.#push({ op: 'attend', q, kvHeads: options.heads, valueDim: options.keyDim, causal: true, ...defined(options) });
  }

  /** Fills an encoder cache. Returns k. */
  remember(k: TensorId, v: TensorId, cache: number): TensorId {
    this.#place({ op: 'remember', k, v, cache, layer: this.layer, out: k });
    return k;
  }

  activate(x: TensorId, kind: Activation): TensorId {
    return this.#push({ op: 'activate', x, kind });
  }

  /** act(gate) * x. */
  gate(gate: TensorId, x: TensorId, kind: Activation): TensorId {
    return this.#push({ op: 'gate', gate, x, kind });
  }

  /** a + factor * b. */
  add(a: TensorId, b: TensorId, factor = 1): TensorId {
    return this.#push({ op: 'add', a, b, factor });
  }

  scale(x: TensorId, factor: number): TensorId {
    return this.#push({ op: 'scale', x, factor });
  }

  softcap(x: TensorId, cap: number): TensorId {
    return this.#push({ op: 'softcap', x, cap });
  }

  slice(x: TensorId, options: { readonly groups?: number; readonly offset: number; readonly width: number }): TensorId {
    return this.#push({ op: 'slice', x, groups: 1, ...options });
  }

  select(x: TensorId): TensorId {
    return this.#push({ op: 'select', x });
  }

  route(
    x: TensorId,
    options: Settings<OpOf<'route'>, 'x' | 'weights' | 'scale'> & { readonly scale?: number },
  ): { readonly ids: TensorId; readonly weights: TensorId } {
    const weights = this.#tensors.push({ rows: 'tokens', width: options.topK, dtype: 'f32' }) - 1;
    return { ids: this.#push({ op: 'route', x, weights, scale: 1, ...options }), weights };
  }

  expertLinear(x: TensorId, ids: TensorId, linears: readonly LinearId[]): TensorId {
    return this.#push({ op: 'expertLinear', x, ids, linears });
  }

  combine(x: TensorId, weights: TensorId): TensorId {
    return this.#push({ op: 'combine', x, weights });
  }

  /** The caller receives `tensor` as `name` after every step. */
  output(name: string, tensor: TensorId): void {
    this.#outputs[name] = tensor;
  }

  /** The program, validated (ERR_BAD_ARGUMENT). */
  build(): Program {
    const program: Program = {
      spec: 1,
      layers: this.layers,
      tensors: [...this.#tensors],
      constants: [...this.#constants],
      linears: [...this.#linears],
      ropes: [...this.#ropes],
      caches: [...this.#caches],
      ops: [...this.#ops],
      outputs: { ...this.#outputs },
    };
    validateProgram(program);
    return program;
  }

  #push(op: Unplaced<Op>, declared?: ProgramTensor): TensorId {
    const out = this.#tensors.length;
    const placed = { ...op, layer: this.layer, out } as Op;
    if (declared) this.#tensors.push(declared);
    const result = this.#place(placed);
    if (!declared) this.#tensors.push(result);
    return out;
  }

  #place(op: Op): ProgramTensor {
    const index = this.#ops.length;
    try {
      const result = inferResult(
        { tensors: this.#tensors, constants: this.#constants, linears: this.#linears, ropes: this.#ropes, caches: this.#caches },
        op,
      );
      this.#ops.push(op);
      return result;
    } catch (error) {
      if (!isLowbitError(error)) throw error;
      throw new LowbitError('ERR_BAD_ARGUMENT', `op ${index} (${op.op}): ${error.message}`, {
        details: { op: index, name: op.op },
        cause: error,
      });
    }
  }
}

/** Without the keys whose value is undefined: the spec's optional fields are absent, not undefined. */
function defined<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
