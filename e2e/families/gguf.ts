// Golden models as GGUF files: what convert_hf_to_gguf.py of llama.cpp makes of a model, written a second time, apart from the reader under test.

import { type HostTensor, type JsonObject, toFloat32 } from '@lowbit/core';
import { f32Bytes, type TensorToWrite, type Value, writeGguf } from '../../packages/hub/src/gguf/testing.ts';

type Config = Record<string, number | boolean | null | undefined> & { readonly rope_scaling?: JsonObject | null };
type Tensors = ReadonlyMap<string, HostTensor>;

/** Of an architecture: its name, whether its q and k are permuted, and metadata of its own. */
interface Kind {
  readonly arch: string;
  readonly permuted?: boolean;
  readonly norms?: 'added';
  readonly more?: (config: Config) => Record<string, Value>;
}

const u32 = (value: unknown): Value => ({ u32: value as number });
const f32 = (value: unknown): Value => ({ f32: value as number });
const experts = (c: Config) => ({
  expert_count: u32(c.num_experts ?? c.num_local_experts),
  expert_used_count: u32(c.num_experts_per_tok),
  ...(c.moe_intermediate_size ? { expert_feed_forward_length: u32(c.moe_intermediate_size) } : {}),
  ...(c.shared_expert_intermediate_size ? { expert_shared_feed_forward_length: u32(c.shared_expert_intermediate_size) } : {}),
});

const KINDS: Readonly<Record<string, Kind>> = {
  llama: { arch: 'llama', permuted: true },
  mistral: { arch: 'llama', permuted: true },
  mixtral: { arch: 'llama', permuted: true, more: experts },
  qwen2: { arch: 'qwen2' },
  qwen2_moe: { arch: 'qwen2moe', more: experts },
  qwen3: { arch: 'qwen3' },
  qwen3_moe: { arch: 'qwen3moe', more: experts },
  gemma: { arch: 'gemma', norms: 'added' },
  gemma2: {
    arch: 'gemma2',
    norms: 'added',
    more: (c) => ({
      attn_logit_softcapping: f32(c.attn_logit_softcapping),
      final_logit_softcapping: f32(c.final_logit_softcapping),
      'attention.sliding_window': u32(c.sliding_window),
    }),
  },
  gemma3_text: {
    arch: 'gemma3',
    norms: 'added',
    more: (c) => ({ 'attention.sliding_window': u32(c.sliding_window), 'attention.sliding_window_pattern': u32(c.sliding_window_pattern) }),
  },
  phi3: {
    arch: 'phi3',
    more: (c) => ({
      'attention.sliding_window': u32(c.sliding_window),
      'rope.scaling.original_context_length': u32(c.original_max_position_embeddings),
    }),
  },
  granite: {
    arch: 'granite',
    permuted: true,
    more: (c) => ({
      'attention.scale': f32(c.attention_multiplier),
      embedding_scale: f32(c.embedding_multiplier),
      residual_scale: f32(c.residual_multiplier),
      logit_scale: f32(c.logits_scaling),
    }),
  },
  smollm3: { arch: 'smollm3', permuted: true },
};

const RENAMED: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens\./, 'token_embd.'],
  [/^model\.norm\./, 'output_norm.'],
  [/^lm_head\./, 'output.'],
  [/^model\.layers\./, 'blk.'],
  [/\.self_attn\.([qkv])_proj\./, '.attn_$1.'],
  [/\.self_attn\.o_proj\./, '.attn_output.'],
  [/\.self_attn\.qkv_proj\./, '.attn_qkv.'],
  [/\.self_attn\.([qk])_norm\./, '.attn_$1_norm.'],
  [/\.mlp\.gate_up_proj\./, '.ffn_up.'],
  [/\.mlp\.shared_expert_gate\./, '.ffn_gate_inp_shexp.'],
  [/\.mlp\.shared_expert\.(gate|up|down)_proj\./, '.ffn_$1_shexp.'],
  [/\.(?:mlp|block_sparse_moe)\.gate\./, '.ffn_gate_inp.'],
  [/\.mlp\.(gate|up|down)_proj\./, '.ffn_$1.'],
  [/\.input_layernorm\./, '.attn_norm.'],
  [/\.pre_feedforward_layernorm\./, '.ffn_norm.'],
  [/\.post_feedforward_layernorm\./, '.post_ffw_norm.'],
];
const EXPERT = /^model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$/;
const ROLE: Readonly<Record<string, string>> = { gate_proj: 'gate', up_proj: 'up', down_proj: 'down', w1: 'gate', w3: 'up', w2: 'down' };

/** GGUF bytes of a Hugging Face model: matrices as they are, vectors f32. `more`: further metadata, of a tokenizer say. */
export function ggufOf(config: JsonObject, tensors: Tensors, more: Readonly<Record<string, Value>> = {}): Buffer {
  const c = config as unknown as Config;
  const kind = KINDS[config.model_type as string]!;
  const { arch } = kind;
  const heads = c.num_attention_heads as number;
  const kvHeads = (c.num_key_value_heads as number) ?? heads;
  const dim = (c.head_dim as number) ?? (c.hidden_size as number) / heads;
  const own: Record<string, Value> = {
    block_count: u32(c.num_hidden_layers),
    context_length: u32(c.max_position_embeddings),
    embedding_length: u32(c.hidden_size),
    feed_forward_length: u32(c.intermediate_size),
    'attention.head_count': u32(heads),
    'attention.head_count_kv': u32(kvHeads),
    'attention.key_length': u32(dim),
    'attention.value_length': u32(dim),
    'attention.layer_norm_rms_epsilon': f32(c.rms_norm_eps),
    'rope.freq_base': f32(c.rope_theta),
    'rope.dimension_count': u32(dim * ((c.partial_rotary_factor as number) ?? 1)),
    vocab_size: u32(c.vocab_size),
    ...kind.more?.(c),
    ...scaling(c),
  };
  const metadata: Record<string, Value> = {
    'general.architecture': { text: arch },
    ...Object.fromEntries(Object.entries(own).map(([key, value]) => [`${arch}.${key}`, value])),
    ...more,
  };
  return writeGguf({ metadata, tensors: [...factors(c, dim), ...converted(tensors, kind, heads, kvHeads)] });
}

function scaling({ rope_scaling: scaling }: Config): Record<string, Value> {
  const kind = scaling?.rope_type ?? scaling?.type;
  if (!scaling || kind === 'llama3' || kind === 'longrope') return {};
  return {
    'rope.scaling.type': { text: kind as string },
    'rope.scaling.factor': f32(scaling.factor),
    ...(scaling.original_max_position_embeddings
      ? { 'rope.scaling.original_context_length': u32(scaling.original_max_position_embeddings) }
      : {}),
    ...(scaling.beta_fast ? { 'rope.scaling.yarn_beta_fast': f32(scaling.beta_fast) } : {}),
    ...(scaling.beta_slow ? { 'rope.scaling.yarn_beta_slow': f32(scaling.beta_slow) } : {}),
  };
}

/** Factors of rotary frequencies that converters store as tensors. */
function factors({ rope_scaling: scaling, rope_theta: theta }: Config, dim: number): TensorToWrite[] {
  const list = (name: string, values: readonly number[]): TensorToWrite => ({
    name,
    shape: [values.length],
    type: 0,
    data: f32Bytes(values),
  });
  const kind = scaling?.rope_type ?? scaling?.type;
  if (kind === 'longrope') {
    return [
      list('rope_factors_long.weight', scaling!.long_factor as number[]),
      list('rope_factors_short.weight', scaling!.short_factor as number[]),
    ];
  }
  if (kind !== 'llama3') return [];
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: old } = scaling as Record<string, number>;
  const values = Array.from({ length: dim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * (theta as number) ** ((2 * i) / dim);
    if (wavelength < old! / high!) return 1;
    if (wavelength > old! / low!) return factor!;
    const smooth = (old! / wavelength - low!) / (high! - low!);
    return 1 / ((1 - smooth) / factor! + smooth);
  });
  return [list('rope_freqs.weight', values)];
}

function converted(tensors: Tensors, { arch, permuted, norms }: Kind, heads: number, kvHeads: number): TensorToWrite[] {
  const written: TensorToWrite[] = [];
  const stacks = new Map<string, HostTensor[]>();
  for (const [name, tensor] of tensors) {
    const [, layer, index, role] = EXPERT.exec(name) ?? [];
    if (role !== undefined) {
      const to = `blk.${layer}.ffn_${ROLE[role]}_exps.weight`;
      stacks.set(to, stacks.get(to) ?? []);
      stacks.get(to)![Number(index)] = tensor;
      continue;
    }
    let to = RENAMED.reduce((text, [from, by]) => text.replace(from, by), name);
    const fourNorms = arch === 'gemma2' || arch === 'gemma3';
    to = to.replace('.post_attention_layernorm.', fourNorms ? '.post_attention_norm.' : '.ffn_norm.');
    const rows = permuted ? (/attn_q\./.test(to) ? heads : /attn_k\./.test(to) ? kvHeads : undefined) : undefined;
    const put = rows === undefined ? tensor : permute(tensor, rows);
    if (norms === 'added' && /norm\.weight$/.test(to)) {
      written.push({ name: to, shape: put.shape, type: 0, data: f32Bytes(toFloat32(put).map((value) => value + 1)) });
    } else if (put.shape.length === 1) written.push({ name: to, shape: put.shape, type: 0, data: f32Bytes(toFloat32(put)) });
    else written.push({ name: to, shape: /_inp_shexp/.test(to) ? [put.shape[1]!] : put.shape, ...stored(put) });
  }
  for (const [name, list] of stacks) {
    const data = Buffer.concat(list.map(({ data }) => data));
    written.push({ name, shape: [list.length, ...list[0]!.shape], ...stored({ ...list[0]!, data }) });
  }
  return written;
}

function stored({ dtype, data }: HostTensor): Pick<TensorToWrite, 'type' | 'data'> {
  return { type: { f32: 0, f16: 1, bf16: 30 }[dtype as 'f32'], data };
}

/** Row i of a head's first half goes to place 2 i, of its second to 2 i + 1. */
function permute(tensor: HostTensor, heads: number): HostTensor {
  const [rows] = tensor.shape as [number];
  const bytes = tensor.data.byteLength / rows;
  const half = rows / heads / 2;
  const data = new Uint8Array(tensor.data.byteLength);
  for (let head = 0; head < heads; head++) {
    for (let part = 0; part < 2; part++) {
      for (let i = 0; i < half; i++) {
        const from = (head * 2 + part) * half + i;
        data.set(tensor.data.subarray(from * bytes, (from + 1) * bytes), (head * 2 * half + 2 * i + part) * bytes);
      }
    }
  }
  return { ...tensor, data };
}
