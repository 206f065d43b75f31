// Writes a GGUF of the shapes of a llama-like config.json with random weights: linears Q4_0 (or Q8_0), a tied table Q8_0 as llama.cpp's own files have it.
// Speed does not depend on the values.

import { closeSync, openSync, writeSync } from 'node:fs';

const TYPES = { f32: { id: 0, block: 1, bytes: 4 }, q4_0: { id: 2, block: 32, bytes: 18 }, q8_0: { id: 8, block: 32, bytes: 34 } };
const ALIGN = 32;

const u32 = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const f32 = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
};
const text = (value) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
const pairs = {
  u32: (key, value) => Buffer.concat([text(key), u32(4), u32(value)]),
  f32: (key, value) => Buffer.concat([text(key), u32(6), f32(value)]),
  text: (key, value) => Buffer.concat([text(key), u32(8), text(value)]),
  list: (key, type, items) => Buffer.concat([text(key), u32(9), u32(type), u64(items.length), ...items]),
};

function tensorsOf(config, type) {
  const { hidden_size: h, intermediate_size: inner, num_hidden_layers: layers, vocab_size: vocab } = config;
  const dim = config.head_dim ?? h / config.num_attention_heads;
  const q = config.num_attention_heads * dim;
  const kv = (config.num_key_value_heads ?? config.num_attention_heads) * dim;
  const list = [
    ['token_embd.weight', [h, vocab], config.tie_word_embeddings ? 'q8_0' : type],
    ['output_norm.weight', [h], 'f32'],
  ];
  if (!config.tie_word_embeddings) list.push(['output.weight', [h, vocab], 'q8_0']);
  for (let i = 0; i < layers; i++) {
    const p = `blk.${i}`;
    list.push([`${p}.attn_norm.weight`, [h], 'f32'], [`${p}.ffn_norm.weight`, [h], 'f32']);
    list.push([`${p}.attn_q.weight`, [h, q], type], [`${p}.attn_k.weight`, [h, kv], type], [`${p}.attn_v.weight`, [h, kv], type]);
    list.push([`${p}.attn_output.weight`, [q, h], type], [`${p}.ffn_down.weight`, [inner, h], type]);
    list.push([`${p}.ffn_gate.weight`, [h, inner], type], [`${p}.ffn_up.weight`, [h, inner], type]);
  }
  return list;
}

export function writeGguf(path, config, type = 'q4_0') {
  const heads = config.num_attention_heads;
  const names = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`)];
  for (let i = names.length; i < config.vocab_size; i++) names.push(`t${i}`);
  const kinds = names.map((_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1));
  const meta = [
    pairs.text('general.architecture', 'llama'),
    pairs.text('general.name', 'synthetic'),
    pairs.u32('general.file_type', type === 'q4_0' ? 2 : 7),
    pairs.u32('llama.context_length', 8192),
    pairs.u32('llama.embedding_length', config.hidden_size),
    pairs.u32('llama.block_count', config.num_hidden_layers),
    pairs.u32('llama.feed_forward_length', config.intermediate_size),
    pairs.u32('llama.attention.head_count', heads),
    pairs.u32('llama.attention.head_count_kv', config.num_key_value_heads ?? heads),
    pairs.f32('llama.attention.layer_norm_rms_epsilon', 1e-5),
    pairs.f32('llama.rope.freq_base', config.rope_theta ?? 10000),
    pairs.u32('llama.vocab_size', config.vocab_size),
    pairs.u32('llama.rope.dimension_count', config.head_dim ?? config.hidden_size / heads),
    pairs.text('tokenizer.ggml.model', 'llama'),
    pairs.list('tokenizer.ggml.tokens', 8, names.map(text)),
    pairs.list(
      'tokenizer.ggml.scores',
      6,
      [...names.keys()].map(() => f32(0)),
    ),
    pairs.list('tokenizer.ggml.token_type', 5, kinds.map(u32)),
    pairs.u32('tokenizer.ggml.bos_token_id', 1),
    pairs.u32('tokenizer.ggml.eos_token_id', 2),
    pairs.u32('tokenizer.ggml.unknown_token_id', 0),
  ];
  const tensors = tensorsOf(config, type);
  const infos = [];
  let offset = 0;
  const sizes = tensors.map(([name, shape, dtype]) => {
    const { id, block, bytes } = TYPES[dtype];
    const size = (shape.reduce((a, b) => a * b) / block) * bytes;
    infos.push(Buffer.concat([text(name), u32(shape.length), ...shape.map(u64), u32(id), u64(offset)]));
    offset += Math.ceil(size / ALIGN) * ALIGN;
    return size;
  });
  const header = Buffer.concat([Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(meta.length), ...meta, ...infos]);
  const file = openSync(path, 'w');
  writeSync(file, header);
  writeSync(file, Buffer.alloc((ALIGN - (header.length % ALIGN)) % ALIGN));
  let seed = 1;
  for (const [index, [, shape, dtype]] of tensors.entries()) {
    const { block, bytes } = TYPES[dtype];
    if (dtype === 'f32') {
      writeSync(file, Buffer.from(new Float32Array(shape[0]).fill(1).buffer));
    } else {
      // One row of random blocks, again and again; scales of 0.25 / sqrt(inputs), so that nothing overflows.
      const row = Buffer.alloc((shape[0] / block) * bytes);
      for (let i = 0; i < row.length; i++) {
        seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
        row[i] = seed >>> 24;
      }
      for (let i = 0; i < row.length; i += bytes) row.writeUInt16LE(dtype === 'q4_0' ? 0x2000 : 0x1000, i);
      for (let i = 0; i < shape[1]; i++) writeSync(file, row);
    }
    writeSync(file, Buffer.alloc((ALIGN - (sizes[index] % ALIGN)) % ALIGN));
  }
  closeSync(file);
}
