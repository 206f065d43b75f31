// Writes a Llama checkpoint with the matrix shapes of an 8B model but one layer: 14336 x 4096 and 128256 x 4096, bf16, bell-shaped random weights.
//   node bench/synthetic-llama.mjs OUT

import { createSafetensorsSink } from '../packages/hub/dist/index.js';

const [out] = process.argv.slice(2);
if (!out) throw new Error('usage: node bench/synthetic-llama.mjs OUT');
const [hidden, inner, kv, vocab] = [4096, 14336, 1024, 128256];
const p = 'model.layers.0';
const shapes = {
  'model.embed_tokens.weight': [vocab, hidden],
  [`${p}.self_attn.q_proj.weight`]: [hidden, hidden],
  [`${p}.self_attn.k_proj.weight`]: [kv, hidden],
  [`${p}.self_attn.v_proj.weight`]: [kv, hidden],
  [`${p}.self_attn.o_proj.weight`]: [hidden, hidden],
  [`${p}.mlp.gate_proj.weight`]: [inner, hidden],
  [`${p}.mlp.up_proj.weight`]: [inner, hidden],
  [`${p}.mlp.down_proj.weight`]: [hidden, inner],
  [`${p}.input_layernorm.weight`]: [hidden],
  [`${p}.post_attention_layernorm.weight`]: [hidden],
  'model.norm.weight': [hidden],
  'lm_head.weight': [vocab, hidden],
};
const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: hidden,
  intermediate_size: inner,
  num_hidden_layers: 1,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  vocab_size: vocab,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  hidden_act: 'silu',
  tie_word_embeddings: false,
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
