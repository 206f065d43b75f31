// Families of models by GGUF's names of them: what their config.json says, and in what their tensors differ from Hugging Face's. After the classes of
// convert_hf_to_gguf.py and the loaders of src/llama-model.cpp (llama.cpp, MIT); numbers that those keep in code rather than in the file are named where they are.

import type { JsonObject } from '@lowbit/core';
import { unsupportedGguf } from './bad.ts';
import type { GgufMetadata } from './metadata.ts';

/** One architecture, of one file. */
export interface Architecture {
  /** GGUF's name. */
  readonly name: string;
  readonly modelType: string;
  /** transformers' class. */
  readonly className: string;
  /** Keys of config.json beside those that all have. */
  readonly config: JsonObject;
  /** Names within a layer that differ from, or add to, Llama's. */
  readonly layer: Readonly<Record<string, string>>;
  /** Rows of q and k are in the order of llama.cpp's rotation. */
  readonly permuted: boolean;
  /** 1 was added to the weights of norms. */
  readonly normsAdded: boolean;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly expertCount: number;
  /** Tensors that hold all experts of a layer, and what each is called. */
  readonly experts?: Readonly<Record<string, (index: number) => string>>;
}

/** Tensors that are numbers of config.json. */
export const ROPE_TENSORS: ReadonlySet<string> = new Set(['rope_freqs.weight', 'rope_factors_long.weight', 'rope_factors_short.weight']);

/** A head is read at once: a bound on what that takes. */
const MAX_HEAD_DIM = 1024;

type Numbers = Pick<Architecture, 'heads' | 'kvHeads' | 'headDim' | 'expertCount'> & { readonly hidden: number; readonly layers: number };
type Family = (meta: GgufMetadata, numbers: Numbers) => Partial<Architecture> & Pick<Architecture, 'modelType' | 'className'>;

const SILU = { hidden_act: 'silu' };
const GELU = { hidden_act: 'gelu_pytorch_tanh', hidden_activation: 'gelu_pytorch_tanh' };
const MIXED = (at: string, [gate, up, down]: readonly [string, string, string]): NonNullable<Architecture['experts']> => ({
  ffn_gate_exps: (i) => `${at}.experts.${i}.${gate}`,
  ffn_up_exps: (i) => `${at}.experts.${i}.${up}`,
  ffn_down_exps: (i) => `${at}.experts.${i}.${down}`,
});
const QWEN_EXPERTS = MIXED('mlp', ['gate_proj', 'up_proj', 'down_proj']);
/** Both sides of attention and MLP are normalised. */
const FOUR_NORMS = {
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};

const FAMILIES: Readonly<Record<string, Family>> = {
  llama: (meta, { headDim, expertCount }) =>
    expertCount > 0
      ? {
          modelType: 'mixtral',
          className: 'MixtralForCausalLM',
          permuted: true,
          config: { ...SILU, head_dim: headDim, num_local_experts: expertCount, num_experts_per_tok: meta.count('expert_used_count') },
          layer: { ffn_gate_inp: 'block_sparse_moe.gate' },
          experts: MIXED('block_sparse_moe', ['w1', 'w3', 'w2']),
        }
      : { modelType: 'llama', className: 'LlamaForCausalLM', permuted: true, config: { ...SILU, head_dim: headDim } },
  qwen2: () => ({ modelType: 'qwen2', className: 'Qwen2ForCausalLM', config: { ...SILU, use_sliding_window: false } }),
  qwen2moe: (meta, { expertCount }) => ({
    modelType: 'qwen2_moe',
    className: 'Qwen2MoeForCausalLM',
    config: {
      ...SILU,
      ...expertsConfig(meta, expertCount),
      norm_topk_prob: false, // build_moe_ffn of qwen2moe
      shared_expert_intermediate_size: meta.count('expert_shared_feed_forward_length'),
      use_sliding_window: false,
    },
    layer: {
      ffn_gate_inp: 'mlp.gate',
      ffn_gate_inp_shexp: 'mlp.shared_expert_gate',
      ffn_gate_shexp: 'mlp.shared_expert.gate_proj',
      ffn_up_shexp: 'mlp.shared_expert.up_proj',
      ffn_down_shexp: 'mlp.shared_expert.down_proj',
    },
    experts: QWEN_EXPERTS,
  }),
  qwen3: (_, { headDim }) => ({
    modelType: 'qwen3',
    className: 'Qwen3ForCausalLM',
    config: { ...SILU, head_dim: headDim, use_sliding_window: false },
  }),
  qwen3moe: (meta, { headDim, expertCount }) => ({
    modelType: 'qwen3_moe',
    className: 'Qwen3MoeForCausalLM',
    config: {
      ...SILU,
      ...expertsConfig(meta, expertCount),
      head_dim: headDim,
      norm_topk_prob: true, // build_moe_ffn of qwen3moe
      use_sliding_window: false,
    },
    layer: { ffn_gate_inp: 'mlp.gate' },
    experts: QWEN_EXPERTS,
  }),
  gemma: (_, { headDim }) => ({
    modelType: 'gemma',
    className: 'GemmaForCausalLM',
    normsAdded: true,
    config: { ...GELU, head_dim: headDim },
  }),
  gemma2: (meta, numbers) => ({
    modelType: 'gemma2',
    className: 'Gemma2ForCausalLM',
    normsAdded: true,
    layer: FOUR_NORMS,
    config: {
      ...GELU,
      head_dim: numbers.headDim,
      // The file does not say: llama.cpp knows the 27B by its 46 layers.
      query_pre_attn_scalar: numbers.layers === 46 ? numbers.hidden / numbers.heads : numbers.headDim,
      attn_logit_softcapping: meta.number('attn_logit_softcapping') ?? 50,
      final_logit_softcapping: meta.number('final_logit_softcapping') ?? 30,
      sliding_window: meta.whole('attention.sliding_window', 1) ?? 4096,
    },
  }),
  gemma3: (meta, numbers) => ({
    modelType: 'gemma3_text',
    className: 'Gemma3ForCausalLM',
    normsAdded: true,
    layer: FOUR_NORMS,
    config: {
      ...GELU,
      head_dim: numbers.headDim,
      // As above: 62 layers are the 27B.
      query_pre_attn_scalar: numbers.layers === 62 ? numbers.hidden / numbers.heads : numbers.headDim,
      sliding_window: meta.count('attention.sliding_window'),
      sliding_window_pattern: meta.whole('attention.sliding_window_pattern', 1) ?? 6,
      rope_local_base_freq: meta.number('rope.freq_base_swa') ?? 10_000,
      attn_logit_softcapping: null,
      final_logit_softcapping: null,
    },
  }),
  phi3: (meta, { headDim }) => ({
    modelType: 'phi3',
    className: 'Phi3ForCausalLM',
    layer: { attn_qkv: 'self_attn.qkv_proj', ffn_up: 'mlp.gate_up_proj' },
    config: {
      ...SILU,
      sliding_window: meta.whole('attention.sliding_window', 1) ?? null,
      partial_rotary_factor: (meta.whole('rope.dimension_count', 1) ?? headDim) / headDim,
      original_max_position_embeddings: meta.whole('rope.scaling.original_context_length', 1) ?? meta.count('context_length'),
    },
  }),
  granite: (meta) => ({
    modelType: 'granite',
    className: 'GraniteForCausalLM',
    permuted: true,
    config: {
      ...SILU,
      attention_multiplier: need(meta, 'attention.scale'),
      embedding_multiplier: need(meta, 'embedding_scale'),
      residual_multiplier: need(meta, 'residual_scale'),
      logits_scaling: need(meta, 'logit_scale'),
    },
  }),
  smollm3: () => ({
    modelType: 'smollm3',
    className: 'SmolLM3ForCausalLM',
    permuted: true,
    config: { ...SILU, no_rope_layer_interval: 4, use_sliding_window: false }, // n_no_rope_layer_step of llama.cpp
  }),
};

/** Names of the architectures that are read. */
export const GGUF_ARCHITECTURES: readonly string[] = Object.keys(FAMILIES);

/** What a file's architecture is. Throws ERR_UNSUPPORTED_ARCH, and ERR_BAD_CHECKPOINT for missing or impossible numbers. */
export function architectureOf(meta: GgufMetadata): Architecture {
  const { architecture: name, file } = meta;
  if (!Object.hasOwn(FAMILIES, name)) {
    throw unsupportedGguf(
      file,
      name,
      'is not read from GGUF files',
      `Read are ${GGUF_ARCHITECTURES.join(', ')}. Start from the safetensors version of others.`,
    );
  }
  const hidden = meta.count('embedding_length');
  const heads = evenly(meta, 'attention.head_count');
  const kvHeads = meta.has('attention.head_count_kv') ? evenly(meta, 'attention.head_count_kv') : heads;
  const headDim = meta.whole('attention.key_length', 1) ?? hidden / heads;
  const valueDim = meta.whole('attention.value_length', 1) ?? headDim;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0 || headDim > MAX_HEAD_DIM || valueDim !== headDim || heads % kvHeads !== 0) {
    throw unsupportedGguf(
      file,
      name,
      `has ${heads} heads of keys of ${headDim} and values of ${valueDim}, ${kvHeads} of them its own`,
      'Such attention is not known here.',
    );
  }
  const numbers = { heads, kvHeads, headDim, hidden, layers: meta.count('block_count'), expertCount: expertCountOf(meta) };
  const family = FAMILIES[name]!(meta, numbers);
  return {
    name,
    layer: {},
    permuted: false,
    normsAdded: false,
    heads,
    kvHeads,
    headDim,
    expertCount: numbers.expertCount,
    config: {},
    ...family,
  };
}

/** Each expert becomes tensors of its own: a bound on how many. */
const MAX_EXPERTS = 4096;

function expertCountOf(meta: GgufMetadata): number {
  const count = meta.whole('expert_count') ?? 0;
  if (count <= MAX_EXPERTS) return count;
  throw unsupportedGguf(
    meta.file,
    meta.architecture,
    `has ${count} experts, more than ${MAX_EXPERTS}`,
    'The file may be damaged: fetch it again.',
  );
}

/** A count that may be given for each layer, if it is the same in all. Throws ERR_UNSUPPORTED_ARCH where layers differ. */
export function evenly(meta: GgufMetadata, key: string): number {
  if (!meta.isList(key)) return meta.count(key);
  const list = Array.from(meta.numbers(key)!);
  const [first] = list;
  if (first !== undefined && Number.isInteger(first) && first >= 1 && list.every((value) => value === first)) return first;
  throw unsupportedGguf(
    meta.file,
    meta.architecture,
    `has layers that differ in ${key}`,
    'Start from the safetensors version of the model.',
  );
}

function expertsConfig(meta: GgufMetadata, count: number): JsonObject {
  return {
    num_experts: count,
    num_experts_per_tok: meta.count('expert_used_count'),
    moe_intermediate_size: meta.count('expert_feed_forward_length'),
    decoder_sparse_step: 1,
    mlp_only_layers: [],
  };
}

function need(meta: GgufMetadata, key: string): number {
  const value = meta.number(key);
  if (value !== undefined) return value;
  throw unsupportedGguf(
    meta.file,
    meta.architecture,
    `needs ${key}, which the file does not have`,
    'Make the file with a current llama.cpp.',
  );
}
