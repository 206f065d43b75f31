// @ts-check
// A Llama in jax-js: embeddings, norms, rotary positions and attention are arrays of that framework. Nothing here knows how lowbit works inside; all it
// takes to have linear layers quantized are the three functions of a `LinearHost`: name them, hand out a weight, take a replacement.

import { nn, numpy as np } from '@jax-js/jax';
import { toFloat32 } from '@lowbit/core';

/** @import { Backend, Checkpoint, LinearHost, QuantizedLinear } from '@lowbit/core' */
/** @typedef {import('@jax-js/jax').numpy.Array} Array */
/** @typedef {{ readonly shape: readonly [number, number], weight: Array | undefined, quantized: QuantizedLinear | undefined }} Linear */

/**
 * @param {Float32Array} values
 * @param {readonly number[]} shape
 */
const array = (values, shape) => np.array(values, { dtype: np.float32 }).reshape([...shape]);

// Operations of jax-js consume their arguments; `.ref` keeps one for later.

/** @param {Array} x @param {Array} weight @param {number} eps */
function norm(x, weight, eps) {
  const square = np.mean(np.square(x.ref), -1, { keepdims: true });
  return x.mul(np.reciprocal(np.sqrt(square.add(eps)))).mul(weight.ref);
}

/** Turns pairs (i, i + half) of every head: x [heads, tokens, size]. @param {Array} x @param {Array} cos @param {Array} sin */
function rotate(x, cos, sin) {
  const [a, b] = np.split(x.ref, 2, -1);
  return x.mul(cos.ref).add(np.concatenate([np.negative(b), a], -1).mul(sin.ref));
}

/** @implements {LinearHost} */
export class JaxLlama {
  /** @type {Map<string, Linear>} */ #linears = new Map();
  /** @type {Map<string, Array>} */ #norms = new Map();
  /** @type {Array} */ #embedding;
  #config;
  #backend;

  /**
   * @param {Checkpoint} checkpoint
   * @param {Backend} backend where replaced linears run
   */
  static async load(checkpoint, backend) {
    const { config } = checkpoint;
    /** @type {Map<string, { readonly shape: readonly number[], readonly values: Float32Array }>} */
    const tensors = new Map();
    for (const name of checkpoint.source.entries.keys()) {
      const tensor = await checkpoint.tensor(name);
      tensors.set(name, { shape: tensor.shape, values: toFloat32(tensor) });
    }
    return new JaxLlama(/** @type {Record<string, number>} */ (config), tensors, backend);
  }

  /**
   * @param {Record<string, number>} config
   * @param {ReadonlyMap<string, { readonly shape: readonly number[], readonly values: Float32Array }>} tensors
   * @param {Backend} backend
   */
  constructor(config, tensors, backend) {
    this.#config = config;
    this.#backend = backend;
    const embedding = tensors.get('model.embed_tokens.weight');
    if (!embedding) throw new Error('no embeddings');
    this.#embedding = array(embedding.values, embedding.shape);
    for (const [name, { shape, values }] of tensors) {
      const path = name.replace(/\.weight$/, '');
      if (shape.length === 1) this.#norms.set(path, array(values, shape));
      else if (path.endsWith('_proj')) {
        this.#linears.set(path, { shape: [shape[0], shape[1]], weight: array(values, shape), quantized: undefined });
      }
    }
  }

  // What lowbit asks of a host: see `LinearHost`.

  *linears() {
    for (const [path, { shape }] of this.#linears) yield { path, shape };
  }

  /** @param {string} path @returns {Promise<{ weight: import('@lowbit/core').HostTensor }>} */
  async weight(path) {
    const { shape, weight } = this.#linear(path);
    if (!weight) throw new Error(`${path} is quantized already`);
    const values = /** @type {Float32Array} */ (await weight.ref.data());
    return { weight: { dtype: 'f32', shape, data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) } };
  }

  /** @param {string} path @param {QuantizedLinear} quantized */
  replace(path, quantized) {
    const linear = this.#linear(path);
    linear.weight?.dispose();
    linear.weight = undefined;
    linear.quantized?.[Symbol.dispose]();
    linear.quantized = quantized;
  }

  /** Bytes of all linears, floats or codes. */
  get bytes() {
    let sum = 0;
    for (const { shape, quantized } of this.#linears.values()) sum += quantized ? quantized.bytes : 4 * shape[0] * shape[1];
    return sum;
  }

  /** @param {string} path */
  #linear(path) {
    const linear = this.#linears.get(path);
    if (!linear) throw new Error(`no linear ${path}`);
    return linear;
  }

  /** x W^T for x [tokens, in], in jax-js or on lowbit's backend. @param {string} path @param {Array} x @returns {Promise<Array>} */
  async #apply(path, x) {
    const { shape, weight, quantized } = this.#linear(path);
    if (weight) return np.matmul(x, np.transpose(weight.ref));
    if (!quantized) throw new Error('neither');
    const rows = x.shape[0];
    const values = /** @type {Float32Array} */ (await x.data());
    const backend = this.#backend;
    const input = backend.alloc({ dtype: 'f32', shape: [rows, shape[1]] });
    const output = backend.alloc({ dtype: 'f32', shape: [rows, shape[0]] });
    try {
      backend.write(input, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
      quantized.forward(input, output);
      return array(toFloat32(await backend.read(output)), [rows, shape[0]]);
    } finally {
      backend.free(input);
      backend.free(output);
    }
  }

  /** Logits of every position: f32 [tokens, vocab]. @param {readonly number[]} ids @returns {Promise<Float32Array>} */
  async logits(ids) {
    const { num_hidden_layers: layers, num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: size } = this.#config;
    const { rms_norm_eps: eps, rope_theta: theta } = this.#config;
    const tokens = ids.length;
    const angles = new Float32Array(tokens * size).map((_, i) => Math.floor(i / size) * theta ** ((-2 * (i % (size / 2))) / size));
    const cos = array(angles.map(Math.cos), [tokens, size]);
    const sin = array(angles.map(Math.sin), [tokens, size]);
    const mask = array(
      new Float32Array(tokens * tokens).map((_, i) => (i % tokens > Math.floor(i / tokens) ? -1e30 : 0)),
      [tokens, tokens],
    );
    /** @param {Array} x @param {number} count */
    const split = (x, count) => np.transpose(x.reshape([tokens, count, size]), [1, 0, 2]);
    let x = np.take(this.#embedding.ref, np.array([...ids], { dtype: np.int32 }), 0);
    for (let layer = 0; layer < layers; layer++) {
      const at = `model.layers.${layer}`;
      let y = norm(x.ref, this.#norm(`${at}.input_layernorm`), eps);
      const q = rotate(split(await this.#apply(`${at}.self_attn.q_proj`, y.ref), heads), cos, sin);
      const k = rotate(split(await this.#apply(`${at}.self_attn.k_proj`, y.ref), kvHeads), cos, sin);
      const v = split(await this.#apply(`${at}.self_attn.v_proj`, y), kvHeads);
      const [keys, values] = [k, v].map((one) => np.repeat(one, heads / kvHeads, 0));
      const scores = np
        .matmul(q, np.transpose(keys, [0, 2, 1]))
        .mul(size ** -0.5)
        .add(mask.ref);
      const mixed = np.transpose(np.matmul(nn.softmax(scores, -1), values), [1, 0, 2]).reshape([tokens, heads * size]);
      x = x.add(await this.#apply(`${at}.self_attn.o_proj`, mixed));
      y = norm(x.ref, this.#norm(`${at}.post_attention_layernorm`), eps);
      const gate = nn.silu(await this.#apply(`${at}.mlp.gate_proj`, y.ref));
      x = x.add(await this.#apply(`${at}.mlp.down_proj`, gate.mul(await this.#apply(`${at}.mlp.up_proj`, y))));
    }
    for (const one of [cos, sin, mask]) one.dispose();
    const out = np.matmul(norm(x, this.#norm('model.norm'), eps), np.transpose(this.#embedding.ref));
    return /** @type {Promise<Float32Array>} */ (out.data());
  }

  /** @param {string} path */
  #norm(path) {
    const weight = this.#norms.get(path);
    if (!weight) throw new Error(`no norm ${path}`);
    return weight;
  }

  [Symbol.dispose]() {
    this.#embedding.dispose();
    for (const weight of this.#norms.values()) weight.dispose();
    for (const { weight, quantized } of this.#linears.values()) {
      weight?.dispose();
      quantized?.[Symbol.dispose]();
    }
    this.#linears.clear();
  }
}
