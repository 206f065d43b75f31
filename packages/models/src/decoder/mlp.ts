// MLPs of a decoder layer, as operations.

import type { TensorId } from '@lowbit/core';
import type { Parts } from './parts.ts';
import type { ExpertsMlp, GatedMlp, LinearSpec, MlpSpec } from './spec.ts';

export async function mlp(parts: Parts, module: MlpSpec, x: TensorId): Promise<TensorId> {
  const { b, linear } = parts;
  if (module.kind === 'experts') return experts(parts, module, x);
  if (module.kind === 'plain') return linear(module.down, b.activate(await linear(module.up, x), module.activation));
  return gated(parts, module, x);
}

function gated(parts: Parts, module: GatedMlp, x: TensorId): Promise<TensorId> {
  return gatedBy(parts, module, x, (of, input) => parts.linear(of(module), input));
}

/** The gated MLP, however its linears are applied: `apply` is told which of them by a function that finds it in any module of that kind. */
async function gatedBy(
  { b }: Parts,
  module: GatedMlp,
  x: TensorId,
  apply: (of: (module: GatedMlp) => LinearSpec, x: TensorId) => Promise<TensorId>,
): Promise<TensorId> {
  let inner: TensorId;
  if (module.kind === 'gated') {
    const gate = await apply((m) => (m as typeof module).gate, x);
    inner = b.gate(gate, await apply((m) => (m as typeof module).up, x), module.activation);
  } else {
    const both = await apply((m) => (m as typeof module).gateUp, x);
    const width = module.gateUp.shape[0] / 2;
    inner = b.gate(b.slice(both, { offset: 0, width }), b.slice(both, { offset: width, width }), module.activation);
  }
  return apply((m) => m.down, inner);
}

async function experts(parts: Parts, module: ExpertsMlp, x: TensorId): Promise<TensorId> {
  const { b, linear, addLinear } = parts;
  const { topK, normalize, shared } = module;
  const { ids, weights } = b.route(await linear(module.router, x), { topK, scoring: 'softmax', normalize });
  const routed = await gatedBy(parts, module.experts[0]!, x, async (of, input) => {
    const linears: number[] = [];
    for (const expert of module.experts) linears.push(await addLinear(of(expert)));
    return b.expertLinear(input, ids, linears);
  });
  const mixed = b.combine(routed, weights);
  if (!shared) return mixed;
  const always = await gated(parts, shared.mlp, x);
  return b.add(mixed, shared.gate ? b.gate(await linear(shared.gate, x), always, 'sigmoid') : always);
}
