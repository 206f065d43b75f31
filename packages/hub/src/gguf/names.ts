// Which tensors of Hugging Face's files the tensors of a GGUF file are, after gguf-py's tensor_mapping.py and the classes of convert_hf_to_gguf.py (llama.cpp, MIT).

import { type DType, LowbitError, quote } from '@lowbit/core';
import { type Architecture, ROPE_TENSORS } from './architectures.ts';
import { badGguf, unsupportedGguf } from './bad.ts';
import type { GgufHeader, GgufTensor } from './header.ts';
import { GGML_TYPES } from './types.ts';

/** A tensor as it is given out, and how it is made of the file's. */
export interface MappedTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly from: GgufTensor;
  /** Elements of `from` before its first. */
  readonly offset: number;
  /** Rows of so many heads were put in the order of llama.cpp's rotation: undone when read. */
  readonly heads?: number | undefined;
  /** Was added to every number, and is taken off. */
  readonly added?: number | undefined;
}

/** Names of whole models; `blk.N.` has the layers. */
const MODEL: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
};

const LAYER: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  ffn_norm: 'post_attention_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/** The largest mixtures have some 70,000: a small file must not ask for millions. */
const MAX_MAPPED = 1 << 18;

const PARTS = /^(?:blk\.(\d{1,6})\.)?(\w+)\.(weight|bias)$/;

/**
 * Tensors by their names at Hugging Face, in the order of the file.
 * @throws ERR_LIMIT for more tensors than any model has, ERR_UNSUPPORTED_ARCH for a tensor that the architecture has no name for, ERR_UNSUPPORTED_FORMAT for a type whose numbers nothing here makes
 */
export function mapTensors(header: GgufHeader, architecture: Architecture, file: string): ReadonlyMap<string, MappedTensor> {
  const mapped = new Map<string, MappedTensor>();
  for (const [name, tensor] of header.tensors) {
    if (ROPE_TENSORS.has(name)) continue;
    for (const [to, made] of mapTensor(name, tensor, architecture, file)) {
      if (mapped.has(to)) throw unknown(name, architecture, file);
      mapped.set(to, made);
    }
    if (mapped.size > MAX_MAPPED) {
      throw new LowbitError('ERR_LIMIT', `${file}: more than ${MAX_MAPPED} tensors, each expert's counted`, {
        hint: 'Nothing of that size is a language model.',
        details: { file, limit: MAX_MAPPED },
      });
    }
  }
  return mapped;
}

function mapTensor(name: string, tensor: GgufTensor, architecture: Architecture, file: string): readonly [string, MappedTensor][] {
  const [, layer, stem, kind] = PARTS.exec(name) ?? [];
  if (stem === undefined || kind === undefined) throw unknown(name, architecture, file);
  const experts = layer === undefined ? undefined : architecture.experts?.[stem];
  if (experts !== undefined) return mapExperts(`model.layers.${Number(layer)}`, experts, name, tensor, architecture, file);
  const names = layer === undefined ? MODEL : { ...LAYER, ...architecture.layer };
  if (!Object.hasOwn(names, stem)) throw unknown(name, architecture, file);
  const to = `${layer === undefined ? '' : `model.layers.${Number(layer)}.`}${names[stem]}.${kind}`;
  const heads = architecture.permuted ? { attn_q: architecture.heads, attn_k: architecture.kvHeads }[stem] : undefined;
  if (heads !== undefined && tensor.shape[0] !== heads * architecture.headDim) {
    throw badGguf(file, `tensor ${quote(name)} has ${tensor.shape[0]} rows, not ${heads} heads of ${architecture.headDim}`, {
      tensor: name,
    });
  }
  const added = architecture.normsAdded && /norm$/.test(stem) ? 1 : undefined;
  // One row is a matrix at Hugging Face: [hidden] of a gate is [1, hidden].
  const shape = stem === 'ffn_gate_inp_shexp' && tensor.shape.length === 1 ? [1, ...tensor.shape] : tensor.shape;
  return [[to, { dtype: added === undefined ? dtypeOf(name, tensor, file) : 'f32', shape, from: tensor, offset: 0, heads, added }]];
}

/** One tensor of all experts becomes one for each. */
function mapExperts(
  layer: string,
  expert: (index: number) => string,
  name: string,
  tensor: GgufTensor,
  architecture: Architecture,
  file: string,
): [string, MappedTensor][] {
  const [count, ...shape] = tensor.shape;
  if (shape.length !== 2 || count !== architecture.expertCount) throw unknown(name, architecture, file);
  const dtype = dtypeOf(name, tensor, file);
  const elements = shape[0]! * shape[1]!;
  return Array.from({ length: count }, (_, i) => [
    `${layer}.${expert(i)}.weight`,
    { dtype, shape, from: tensor, offset: i * elements, heads: undefined, added: undefined },
  ]);
}

function dtypeOf(name: string, { type }: GgufTensor, file: string): DType {
  if (type.dtype !== undefined) return type.dtype;
  throw unreadType(name, type.name, file);
}

function unreadType(name: string, type: string, file: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_FORMAT', `${file}: tensor ${quote(name)} is stored as ${type}, which is not read`, {
    hint: `Read are ${[...GGML_TYPES.values()]
      .filter(({ dtype }) => dtype)
      .map(({ name }) => name)
      .join(', ')}. Fetch another file of the model.`,
    details: { file, tensor: name, type },
  });
}

function unknown(name: string, { name: architecture }: Architecture, file: string): LowbitError {
  return unsupportedGguf(
    file,
    architecture,
    `is not known to have the tensor ${quote(name)} of shape and kind as here`,
    'Start from the safetensors version of the model.',
  );
}
