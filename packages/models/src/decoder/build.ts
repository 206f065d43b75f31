// From a decoder's description to the program of one step.

import { type ConstantId, type HostTensor, type LinearId, LowbitError, type Program, ProgramBuilder, type TensorId } from '@lowbit/core';
import type { AttentionSpec, DecoderLayer, DecoderSpec, GatedMlp, LinearSpec, NormSpec } from './spec.ts';

/** Names that `observe` takes: `hidden.k` is the input of layer k (k = layers: the output of the last one), `final_norm` what the head sees. */
export function observable(spec: DecoderSpec): string[] {
  return [...Array.from({ length: spec.layers.length + 1 }, (_, k) => `hidden.${k}`), 'final_norm'];
}

/**
 * Builds the program. Its output `logits` is [outputs, vocab]; observed `hidden.*` have a row for every new token, `final_norm` one for every wanted row.
 * `read` fetches norms and biases. Throws ERR_BAD_ARGUMENT for an unknown name in `observe`.
 */
export async function buildDecoder(
  spec: DecoderSpec,
  read: (name: string) => Promise<HostTensor>,
  options: { readonly observe?: readonly string[] } = {},
): Promise<Program> {
  const observed = new Set(options.observe ?? []);
  const names = observable(spec);
  for (const name of observed) {
    if (!names.includes(name)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `cannot observe ${JSON.stringify(name)}`, {
        hint: `Observable here: hidden.0 .. hidden.${spec.layers.length}, final_norm.`,
        details: { name, observable: names },
      });
    }
  }

  const b = new ProgramBuilder({ layers: spec.layers.length });
  const watch = (name: string, tensor: TensorId): TensorId => {
    if (observed.has(name)) b.output(name, tensor);
    return tensor;
  };
  const parts = partsOf(b, read);

  const table = b.addLinear(`${spec.embedding.path}`, [spec.vocab, spec.hidden], { use: spec.head ? 'embedding' : 'both' });
  const ropes = spec.ropes.map((rope) => b.addRope(rope));
  let x = b.embed(table);
  for (const [index, layer] of spec.layers.entries()) {
    b.layer = index;
    watch(`hidden.${index}`, x);
    x = await decoderLayer(parts, ropes, layer, x);
  }
  b.layer = spec.layers.length;
  watch(`hidden.${spec.layers.length}`, x);
  const last = watch('final_norm', await parts.norm(spec.norm, b.select(x)));
  const head = spec.head ? await parts.addLinear(spec.head) : table;
  b.output('logits', b.linear(last, head));
  return b.build();
}

interface Parts {
  readonly b: ProgramBuilder;
  norm(module: NormSpec, x: TensorId): Promise<TensorId>;
  addLinear(module: LinearSpec): Promise<LinearId>;
  linear(module: LinearSpec, x: TensorId): Promise<TensorId>;
}

function partsOf(b: ProgramBuilder, read: (name: string) => Promise<HostTensor>): Parts {
  const constant = async (name: string): Promise<ConstantId> => b.addConstant(await read(name));
  const addLinear = async ({ path, shape, bias }: LinearSpec): Promise<LinearId> =>
    b.addLinear(path, shape, bias ? { bias: await constant(`${path}.bias`) } : {});
  return {
    b,
    addLinear,
    norm: async ({ path, kind, eps }, x) => b.norm(x, { kind, eps, weight: await constant(`${path}.weight`) }),
    linear: async (module, x) => b.linear(x, await addLinear(module)),
  };
}

async function decoderLayer(parts: Parts, ropes: readonly number[], layer: DecoderLayer, input: TensorId): Promise<TensorId> {
  const { b } = parts;
  const attended = await attention(parts, ropes, layer.attention, await parts.norm(layer.attentionNorm, input));
  const x = b.add(input, attended);
  return b.add(x, await gatedMlp(parts, layer.mlp, await parts.norm(layer.mlpNorm, x)));
}

async function attention(parts: Parts, ropes: readonly number[], module: AttentionSpec, x: TensorId): Promise<TensorId> {
  const { b } = parts;
  const { heads, kvHeads, headDim, rotated } = module;
  const turn = (tensor: TensorId, count: number): TensorId =>
    b.rope(tensor, { heads: count, dim: rotated, style: 'half', rope: ropes[module.rope]! });
  const q = turn(await parts.linear(module.q, x), heads);
  const k = turn(await parts.linear(module.k, x), kvHeads);
  const v = await parts.linear(module.v, x);
  const cache = b.addCache({ heads: kvHeads, keyDim: headDim, valueDim: headDim });
  return parts.linear(module.o, b.attend(q, { k, v, cache, heads, kvHeads, keyDim: headDim, scale: module.scale }));
}

async function gatedMlp(parts: Parts, module: GatedMlp, x: TensorId): Promise<TensorId> {
  const gate = await parts.linear(module.gate, x);
  const up = await parts.linear(module.up, x);
  return parts.linear(module.down, parts.b.gate(gate, up, module.activation));
}
