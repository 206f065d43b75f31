// What follows from a decoder's modules alone: its linear layers, and whether a checkpoint's tensors fit them.

import { type Entries, type LinearSite, LowbitError, linearTag, type Shape } from '@lowbit/core';
import type { DecoderLayer, DecoderSpec, LinearSpec, NormSpec } from './spec.ts';

/** The linear layers of one decoder layer, in the order of the published models. */
export function layerLinears({ attention, mlp }: DecoderLayer): readonly LinearSpec[] {
  return [attention.q, attention.k, attention.v, attention.o, mlp.gate, mlp.up, mlp.down];
}

/** Every linear layer as a site; a tied head is no layer of its own. */
export function decoderSites(spec: DecoderSpec): LinearSite[] {
  const site =
    (layer: number) =>
    (module: LinearSpec): LinearSite => ({
      path: module.path,
      tag: linearTag(module.path),
      layer,
      shape: module.shape,
      bias: module.bias,
    });
  return [...spec.layers.flatMap((layer, i) => layerLinears(layer).map(site(i))), ...(spec.head ? [site(-1)(spec.head)] : [])];
}

/** Name and shape of every tensor the model reads. */
export function decoderTensors(spec: DecoderSpec): Map<string, Shape> {
  const tensors = new Map<string, Shape>();
  const norm = ({ path }: NormSpec): unknown => tensors.set(`${path}.weight`, [spec.hidden]);
  const linear = ({ path, shape, bias }: LinearSpec): void => {
    tensors.set(`${path}.weight`, shape);
    if (bias) tensors.set(`${path}.bias`, [shape[0]]);
  };
  tensors.set(`${spec.embedding.path}.weight`, [spec.vocab, spec.hidden]);
  for (const layer of spec.layers) {
    norm(layer.attentionNorm);
    norm(layer.mlpNorm);
    for (const module of layerLinears(layer)) linear(module);
  }
  norm(spec.norm);
  if (spec.head) linear(spec.head);
  return tensors;
}

/**
 * Throws ERR_TENSOR_MISMATCH if the checkpoint has tensors of layers beyond those of the config: a model cut short would run and talk nonsense.
 */
export function refuseFurtherLayers(spec: DecoderSpec, entries: Entries): void {
  const first = layerLinears(spec.layers[0]!)[0]!.path;
  const index = first.split('.').indexOf('0');
  const prefix = `${first.split('.').slice(0, index).join('.')}.`;
  for (const tensor of entries.keys()) {
    if (!tensor.startsWith(prefix)) continue;
    const layer = tensor.split('.')[index]!;
    if (!/^\d+$/.test(layer) || Number(layer) < spec.layers.length) continue;
    throw new LowbitError('ERR_TENSOR_MISMATCH', `the checkpoint has ${tensor}, but config.json says ${spec.layers.length} layers`, {
      hint: 'config.json and the weights do not belong together: check num_hidden_layers.',
      details: { tensor, layers: spec.layers.length },
    });
  }
}

/**
 * Compares the tensors a model needs with those there are (of quantized linears: their logical shape).
 * Throws ERR_TENSOR_MISMATCH naming the first tensor that is missing or has another shape, and how many more are.
 */
export function checkTensors(needed: ReadonlyMap<string, Shape>, entries: Entries): void {
  const wrong: { tensor: string; expected: Shape; found: Shape | undefined }[] = [];
  for (const [tensor, expected] of needed) {
    const found = entries.get(tensor)?.shape;
    const same = found !== undefined && found.length === expected.length && found.every((extent, i) => extent === expected[i]);
    if (!same) wrong.push({ tensor, expected, found });
  }
  const first = wrong[0];
  if (!first) return;
  const found = first.found ? `has shape [${first.found.join(', ')}]` : 'is missing';
  const more = wrong.length > 1 ? ` (and ${wrong.length - 1} more tensors do not fit)` : '';
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${first.tensor} ${found}, expected [${first.expected.join(', ')}]${more}`, {
    hint: 'config.json and the weights do not belong together, or a file of the checkpoint is missing.',
    details: { ...first, tensors: wrong.map(({ tensor }) => tensor) },
  });
}
