// @ts-check
// A backend as a stranger writes it: weights widened to float32 once, products in plain JavaScript. It runs linears and what is element by element; a device map
// gives it such parts of a model, and all else to another backend. What every backend does alike (tensors, lifetimes, sequences, reading a step) is core's.
import {
  ACTIVATIONS,
  checkLinearBias,
  checkOperands,
  checkShortened,
  codecFor,
  dequantize,
  disposedError,
  elements,
  Holdings,
  hostMemory,
  isLowbitError,
  LowbitError,
  outputRequests,
  outputsOf,
  planStep,
  readDemands,
  SequenceTable,
  toFloat32,
  validateQuantized,
} from '@lowbit/core';

/** @import { Backend, BackendProvider, Executable, QuantizedLinear } from '@lowbit/core' */

/**
 * For `lowbit --backend ./index.js`, and for `createRuntime({ backends: [plain(), referenceBackend()] })`.
 * @returns {BackendProvider}
 */
export function plain() {
  return {
    spec: 1,
    name: 'plain',
    probe: async () => ({ ok: true, detail: 'float32 in JavaScript' }),
    open: async () => new PlainBackend(),
  };
}
export default plain;

/** @implements {Backend} */
class PlainBackend {
  /** @type {1} */
  spec = 1;
  name = 'plain';
  device = { label: 'float32 in JavaScript', memory: Number.POSITIVE_INFINITY, features: [] };
  /** @type {Backend['ops']} */
  ops = new Set(/** @type {const} */ (['input', 'linear', 'activate', 'gate', 'add', 'scale']));
  /** @type {Holdings<PlainLinear, PlainExecutable, Uint8Array>} */
  #holdings = new Holdings(this.name, hostMemory);

  /** @type {Backend['supports']} */
  supports({ format, shape, use }) {
    if (use === 'embedding') return { level: 'none', reason: 'plain looks no tokens up' };
    if (format.kind === 'int8') return { level: 'none', reason: 'the product of LLM.int8 is not that of its numbers' };
    try {
      codecFor(format).parts(format, shape); // throws where the format cannot be, or cannot hold the shape
    } catch (error) {
      if (isLowbitError(error)) return { level: 'none', reason: error.message };
      throw error;
    }
    return { level: format.kind === 'dense' ? 'native' : 'dequant', bytes: 4 * shape[0] * shape[1] };
  }

  /** @type {Backend['prepare']} */
  async prepare(weight, { bias, signal } = {}) {
    this.#holdings.check();
    signal?.throwIfAborted();
    const support = this.supports({ format: weight.format, shape: weight.shape, use: 'linear' });
    if (support.level === 'none') throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `plain: ${support.reason}`);
    validateQuantized(weight);
    checkLinearBias(bias, weight.shape);
    return this.#holdings.addLinear(
      new PlainLinear(weight, toFloat32(dequantize(weight)), bias && toFloat32(bias).slice(), this.#holdings),
    );
  }

  /** @type {Backend['compile']} */
  async compile(program, linears, options) {
    const own = this.#holdings.linearsOf(program, linears, options);
    return this.#holdings.addExecutable(new PlainExecutable(program, own, options, this.#holdings));
  }

  /** @type {Backend['alloc']} */
  alloc(spec) {
    return this.#holdings.alloc(spec);
  }

  /** @type {Backend['free']} */
  free(tensor) {
    this.#holdings.free(tensor);
  }

  /** @type {Backend['write']} */
  write(tensor, data) {
    this.#holdings.write(tensor, data);
  }

  /** @type {Backend['read']} */
  read(tensor) {
    return this.#holdings.read(tensor);
  }

  allocated() {
    return this.#holdings.allocated();
  }

  async [Symbol.asyncDispose]() {
    this.#holdings.dispose();
  }
}

/** @implements {QuantizedLinear} */
class PlainLinear {
  #home;
  #bias;
  /** @type {Float32Array | undefined} */
  #weight;

  /**
   * @param {Pick<QuantizedLinear, 'format' | 'shape'>} of
   * @param {Float32Array} weight
   * @param {Float32Array | undefined} bias
   * @param {Holdings<PlainLinear, PlainExecutable, Uint8Array>} home
   */
  constructor({ format, shape }, weight, bias, home) {
    this.format = format;
    this.shape = shape;
    this.bytes = weight.byteLength + (bias?.byteLength ?? 0);
    this.bias = bias !== undefined;
    this.#home = home;
    this.#bias = bias;
    this.#weight = weight;
  }

  get #held() {
    if (this.#weight === undefined) throw disposedError(`a linear of ${this.#home.owner}`);
    return this.#weight;
  }

  /** @type {QuantizedLinear['forward']} */
  forward(x, out) {
    checkOperands(this.shape, x, out);
    const [from, into] = [x, out].map((tensor) => elements({ dtype: 'f32', data: this.#home.floats(tensor) }));
    into?.set(this.apply(/** @type {Float32Array} */ (from)));
  }

  /**
   * x [rows, in] times the weight, plus the bias.
   * @param {Float32Array} x
   */
  apply(x) {
    const [out, inp] = this.shape;
    const [weight, bias] = [this.#held, this.#bias];
    const rows = x.length / inp;
    const result = new Float32Array(rows * out);
    for (let row = 0; row < rows; row++) {
      for (let o = 0; o < out; o++) {
        let sum = 0;
        for (let i = 0; i < inp; i++) sum += (x[row * inp + i] ?? 0) * (weight[o * inp + i] ?? 0);
        result[row * out + o] = sum + (bias?.[o] ?? 0);
      }
    }
    return result;
  }

  /** @type {QuantizedLinear['dequantize']} */
  async dequantize() {
    return { dtype: 'f32', shape: this.shape, data: new Uint8Array(this.#held.slice().buffer) };
  }

  [Symbol.dispose]() {
    if (this.#weight === undefined) return;
    this.#weight = undefined;
    this.#home.release(this);
  }
}

/** @implements {Executable} */
class PlainExecutable {
  #program;
  #linears;
  #home;
  #demands;
  /** @type {SequenceTable<{ length: number, remembers: boolean }>} */
  #sequences;
  #disposed = false;
  bytes = 0;

  /**
   * @param {Parameters<Backend['compile']>[0]} program
   * @param {readonly PlainLinear[]} linears
   * @param {Parameters<Backend['compile']>[2]} options
   * @param {Holdings<PlainLinear, PlainExecutable, Uint8Array>} home
   */
  constructor(program, linears, options, home) {
    this.#program = program;
    this.#linears = linears;
    this.#home = home;
    this.#demands = readDemands(program, options.contextLength);
    this.#sequences = new SequenceTable(options.maxSequences);
  }

  memory() {
    return { scratch: 0, cache: 0 };
  }

  get #open() {
    if (this.#disposed) throw disposedError(`an executable of ${this.#home.owner}`);
    return this.#sequences;
  }

  open() {
    return this.#open.add(() => ({ length: 0, remembers: false }));
  }

  /** @type {Executable['fork']} */
  fork(id, length = this.length(id)) {
    const sequence = this.#open.get(id);
    checkShortened(id, sequence.length, length);
    return this.#open.add(() => ({ ...sequence, length }));
  }

  /** @type {Executable['length']} */
  length(id) {
    return this.#open.get(id).length;
  }

  /** @type {Executable['truncate']} */
  truncate(id, length) {
    const sequence = this.#open.get(id);
    checkShortened(id, sequence.length, length);
    sequence.length = length;
  }

  /** @type {Executable['close']} */
  close(id) {
    this.#open.remove(id);
  }

  /** @type {Executable['step']} */
  async step(batch, options = {}) {
    options.signal?.throwIfAborted();
    const requests = outputRequests(this.#program, options);
    const { shares, rows } = planStep(batch, this.#open, this.#demands);
    /** @type {Float32Array<ArrayBuffer>[]} */
    const values = [];
    for (const op of this.#program.ops) values[op.out] = this.#run(op, values, shares, rows);
    for (const { sequence, tokens, encoder } of shares) {
      sequence.length += tokens.count;
      sequence.remembers ||= encoder.count > 0;
    }
    return outputsOf(requests, (tensor) => /** @type {Float32Array<ArrayBuffer>} */ (values[tensor]).slice());
  }

  /**
   * @param {import('@lowbit/core').Op} op
   * @param {readonly Float32Array[]} values of earlier operations
   * @param {readonly import('@lowbit/core').Share<any>[]} shares
   * @param {import('@lowbit/core').StepPlan<any>['rows']} rows
   * @returns {Float32Array<ArrayBuffer>}
   */
  #run(op, values, shares, rows) {
    /** @type {(id: number) => Float32Array} */
    const value = (id) => values[id] ?? new Float32Array();
    switch (op.op) {
      case 'input': {
        const { rows: domain, width } = /** @type {{ rows: 'tokens' | 'outputs' | 'encoder', width: number }} */ (
          this.#program.tensors[op.out]
        );
        const all = new Float32Array(rows[domain] * width);
        for (const { given, ...share } of shares) {
          const tensor = given.inputs?.[op.name];
          if (tensor) all.set(toFloat32(tensor), share[domain].from * width);
        }
        return all;
      }
      case 'linear': {
        const linear = /** @type {PlainLinear} */ (this.#linears[op.weight]);
        return linear.apply(value(op.x));
      }
      case 'activate':
        return Float32Array.from(value(op.x), ACTIVATIONS[op.kind]);
      case 'gate': {
        const [gates, x] = [value(op.gate), value(op.x)];
        const each = x.length / gates.length; // a gate of width 1 is for the whole row
        return Float32Array.from(x, (value, i) => ACTIVATIONS[op.kind](gates[Math.floor(i / each)] ?? 0) * value);
      }
      case 'add': {
        const b = value(op.b);
        return Float32Array.from(value(op.a), (value, i) => value + op.factor * (b[i] ?? 0));
      }
      case 'scale':
        return Float32Array.from(value(op.x), (value) => op.factor * value);
      default:
        throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `plain does not run ${op.op}`);
    }
  }

  [Symbol.dispose]() {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#sequences.clear();
    this.#home.release(this);
  }
}
