// From a decoder's description to the program of one step.

import { type HostTensor, type LinearId, LowbitError, type Program, type TensorId } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import { attention } from './attention.ts';
import { mlp } from './mlp.ts';
import { type Parts, partsOf } from './parts.ts';
import type { DecoderLayer, DecoderSpec, EmbeddingSpec, OutputSpec, Sublayer } from './spec.ts';

/**
 * Names that `observe` takes: `hidden.k` is the input of layer k (k = layers: the output of the last one), `final_norm` what comes out of the last norm (in a
 * model without one: what the head sees).
 */
function observable(spec: DecoderSpec): string[] {
  return [...Array.from({ length: spec.layers.length + 1 }, (_, k) => `hidden.${k}`), 'final_norm'];
}

/**
 * Builds the program. Its output `logits` is [outputs, vocab]; observed `hidden.*` have a row for every new token, `final_norm` one for every wanted row.
 * `read` fetches norms, biases and tables of positions. `inject` names rows that a step may hand in for tokens, in place of their embeddings. Throws ERR_BAD_ARGUMENT for an unknown name in `observe`.
 */
export async function buildDecoder(
  spec: DecoderSpec,
  read: (name: string) => Promise<HostTensor>,
  options: { readonly observe?: readonly string[] | undefined; readonly inject?: string } = {},
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
  const ropes = spec.ropes.map((rope) => b.addRope(rope));
  const parts = partsOf(b, read, ropes);

  const { embedding } = spec;
  const { inject } = options;
  const table = b.addLinear(embedding.path, [spec.vocab, embedding.width ?? spec.hidden], { use: spec.output.head ? 'embedding' : 'both' });
  let x = await embed(parts, embedding, table);
  if (inject !== undefined) x = b.inject(x, inject);
  for (const [index, layer] of spec.layers.entries()) {
    b.layer = index;
    watch(`hidden.${index}`, x);
    x = await decoderLayer(parts, layer, x);
  }
  b.layer = spec.layers.length;
  watch(`hidden.${spec.layers.length}`, x);
  const selected = b.select(x);
  const { project } = spec.output;
  const normed = spec.norm ? watch('final_norm', await parts.norm(spec.norm, selected)) : selected;
  const last = project ? await parts.linear(project, normed) : normed;
  if (!spec.norm) watch('final_norm', last);
  b.output('logits', await logits(parts, spec.output, table, last));
  return b.build();
}

async function embed({ b, norm, linear, constant }: Parts, embedding: EmbeddingSpec, table: LinearId): Promise<TensorId> {
  const { scale = 1, project, positions, norm: after } = embedding;
  let x = b.embed(table, { scale });
  if (project) x = await linear(project, x);
  if (positions) x = b.positionEmbed(x, await constant(`${positions.path}.weight`), { offset: positions.offset });
  return after ? norm(after, x) : x;
}

async function logits(parts: Parts, { head, factor = 1, softcap }: OutputSpec, table: LinearId, x: TensorId): Promise<TensorId> {
  const { b } = parts;
  let y = b.linear(x, head ? await parts.addLinear(head) : table);
  if (factor !== 1) y = b.scale(y, factor);
  return softcap === undefined ? y : b.softcap(y, softcap);
}

/** One layer: attention and MLP with what is around them. */
export async function decoderLayer(parts: Parts, layer: DecoderLayer, input: TensorId): Promise<TensorId> {
  const { b, norm } = parts;
  const { residual, residualFactor = 1 } = layer;
  const branch = async <M>(
    { module, input: before, output: after }: Sublayer<M>,
    x: TensorId,
    run: (parts: Parts, module: M, x: TensorId) => Promise<TensorId>,
  ): Promise<TensorId> => {
    const y = await run(parts, module, before ? await norm(before, x) : x);
    return after ? norm(after, y) : y;
  };
  const summed = ({ sum }: Sublayer<unknown>, x: TensorId): Promise<TensorId> | TensorId => (sum ? norm(sum, x) : x);
  const attended = await branch(layer.attention, input, attention);
  const x = await summed(layer.attention, b.add(input, attended, residualFactor));
  const fed = await branch(layer.mlp, residual === 'parallel' ? input : x, mlp);
  return summed(layer.mlp, b.add(x, fed, residualFactor));
}
