// Attention of a decoder layer, as operations.

import type { TensorId } from '@lowbit/core';
import type { Parts } from './parts.ts';
import type { AttentionSpec } from './spec.ts';

export async function attention(parts: Parts, module: AttentionSpec, x: TensorId): Promise<TensorId> {
  const { b, norm } = parts;
  const { heads, kvHeads, headDim, scale, position, window, softcap, qNorm, kNorm } = module;
  const [q, k, v] = await queriesKeysValues(parts, module, x);
  const turn = (tensor: TensorId, count: number): TensorId =>
    position.kind === 'rope'
      ? b.rope(tensor, { heads: count, dim: position.rotated, style: 'half', rope: parts.ropes[position.rope]! })
      : tensor;
  const query = turn(qNorm ? await norm(qNorm, q) : q, heads);
  const key = turn(kNorm ? await norm(kNorm, k) : k, kvHeads);
  const causal = module.causal ?? true;
  const cache = causal ? b.addCache({ heads: kvHeads, keyDim: headDim, valueDim: headDim }) : undefined;
  const bias = position.kind === 'alibi' ? position : undefined;
  const mixed = b.attend(query, { k: key, v, cache, heads, kvHeads, keyDim: headDim, scale, causal, window, softcap, bias });
  return parts.linear(module.o, mixed);
}

async function queriesKeysValues(
  parts: Parts,
  { qkv, heads, kvHeads, headDim }: AttentionSpec,
  x: TensorId,
): Promise<readonly [q: TensorId, k: TensorId, v: TensorId]> {
  const { b, linear } = parts;
  if (qkv.kind === 'separate') return [await linear(qkv.q, x), await linear(qkv.k, x), await linear(qkv.v, x)];
  const all = await linear(qkv.qkv, x);
  if (qkv.order === 'heads') {
    const of = (which: number): TensorId => b.slice(all, { groups: heads, offset: which * headDim, width: headDim });
    return [of(0), of(1), of(2)];
  }
  const [queries, keys] = [heads * headDim, kvHeads * headDim];
  return [
    b.slice(all, { offset: 0, width: queries }),
    b.slice(all, { offset: queries, width: keys }),
    b.slice(all, { offset: queries + keys, width: keys }),
  ];
}
