// Writes a Llama checkpoint of true matrix shapes, bf16, bell-shaped random weights: one layer of an 8B model (14336 x 4096, 128256 x 4096), a whole 1B one, or two of its layers (374 MB).
//   node bench/synthetic-llama.mjs OUT [8b-layer|1b|small]

import { createSafetensorsSink } from '../packages/hub/dist/index.js';

const SHAPES = {
  '8b-layer': { hidden: 4096, inner: 14336, heads: 32, kvHeads: 8, layers: 1, vocab: 128256, tied: false },
  small: { hidden: 2048, inner: 8192, heads: 32, kvHeads: 8, layers: 2, vocab: 32000, tied: true },
  '1b': { hidden: 2048, inner: 8192, heads: 32, kvHeads: 8, layers: 16, vocab: 128256, tied: true },
};
const [out, name = '8b-layer'] = process.argv.slice(2);
if (!out || !SHAPES[name]) throw new Error(`usage: node bench/synthetic-llama.mjs OUT [${Object.keys(SHAPES).join('|')}]`);
const { hidden, inner, heads, kvHeads, layers, vocab, tied } = SHAPES[name];
const kv = (hidden / heads) * kvHeads;
const shapes = { 'model.embed_tokens.weight': [vocab, hidden], 'model.norm.weight': [hidden] };
if (!tied) shapes['lm_head.weight'] = [vocab, hidden];
for (let layer = 0; layer < layers; layer++) {
  const p = `model.layers.${layer}`;
  Object.assign(shapes, {
    [`${p}.self_attn.q_proj.weight`]: [hidden, hidden],
    [`${p}.self_attn.k_proj.weight`]: [kv, hidden],
    [`${p}.self_attn.v_proj.weight`]: [kv, hidden],
    [`${p}.self_attn.o_proj.weight`]: [hidden, hidden],
    [`${p}.mlp.gate_proj.weight`]: [inner, hidden],
    [`${p}.mlp.up_proj.weight`]: [inner, hidden],
    [`${p}.mlp.down_proj.weight`]: [hidden, inner],
    [`${p}.input_layernorm.weight`]: [hidden],
    [`${p}.post_attention_layernorm.weight`]: [hidden],
  });
}
const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: hidden,
  intermediate_size: inner,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  vocab_size: vocab,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  hidden_act: 'silu',
  tie_word_embeddings: tied,
  torch_dtype: 'bfloat16',
};

// 16 MiB of bf16 noise (sums of three uniforms, sigma about 0.02), written at shifting offsets
const noise = new Uint16Array(1 << 23);
const wide = new Float32Array(1);
const bits = new Uint32Array(wide.buffer);
let state = 1;
const uniform = () => {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return state / 2 ** 31;
};
for (let i = 0; i < noise.length; i++) {
  wide[0] = (uniform() + uniform() + uniform()) * 0.02;
  noise[i] = bits[0] >>> 16;
}

const sink = await createSafetensorsSink(out, { fingerprint: 'synthetic' });
await sink.reserve(new Map(Object.entries(shapes).map(([name, shape]) => [name, { dtype: 'bf16', shape }])), { format: 'pt' });
let shift = 0;
for (const [name, shape] of Object.entries(shapes)) {
  const count = shape.reduce((a, b) => a * b, 1);
  for (let at = 0; at < count; ) {
    const n = Math.min(count - at, noise.length - shift);
    const piece = noise.subarray(shift, shift + n);
    await sink.write(name, at, new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
    at += n;
    shift = (shift + n + 12345) % (noise.length - 1);
  }
}
await sink.writeFile('config.json', new TextEncoder().encode(JSON.stringify(config, null, 2)));
await sink.close();
