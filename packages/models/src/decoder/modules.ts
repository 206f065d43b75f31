// What follows from a decoder's modules alone: its linear layers, and whether a checkpoint's tensors fit them.

import { type Entries, type LinearSite, LowbitError, linearTag, type Shape } from '@lowbit/core';
import type { DecoderLayer, DecoderSpec, GatedMlp, LinearSpec, MlpSpec, NormSpec, Sublayer } from './spec.ts';

function gatedLinears(mlp: GatedMlp): readonly LinearSpec[] {
  return mlp.kind === 'gated' ? [mlp.gate, mlp.up, mlp.down] : [mlp.gateUp, mlp.down];
}

/** The linear layers of an MLP. */
export function mlpLinears(mlp: MlpSpec): readonly LinearSpec[] {
  if (mlp.kind === 'plain') return [mlp.up, mlp.down];
  if (mlp.kind !== 'experts') return gatedLinears(mlp);
  const { router, experts, shared } = mlp;
  return [router, ...experts.flatMap(gatedLinears), ...(shared ? gatedLinears(shared.mlp) : []), ...(shared?.gate ? [shared.gate] : [])];
}

/** The linear layers of one decoder layer, in the order of the published models. */
export function layerLinears({ attention: { module }, mlp }: DecoderLayer): readonly LinearSpec[] {
  const { qkv, o } = module;
  return [...(qkv.kind === 'fused' ? [qkv.qkv] : [qkv.q, qkv.k, qkv.v]), o, ...mlpLinears(mlp.module)];
}

/** The norms of one decoder layer. */
export function layerNorms({ attention, mlp }: DecoderLayer): readonly NormSpec[] {
  const around = ({ input, output, sum }: Sublayer<unknown>) => [input, output, sum];
  return [...around(attention), attention.module.qNorm, attention.module.kNorm, ...around(mlp)].filter((norm) => norm !== undefined);
}

/** Linears in front of the layers and behind them. */
const outerLinears = ({ embedding, output }: DecoderSpec): readonly LinearSpec[] =>
  [embedding.project, output.project, output.head].filter((module) => module !== undefined);

/** Makes sites of the linear layers of one layer; -1 is outside of layers. */
export const siteOf =
  (layer: number) =>
  ({ path, shape, bias, transposed, stacked, expert, keep }: LinearSpec): LinearSite => ({
    path,
    tag: linearTag(path),
    layer,
    shape,
    bias,
    ...(expert === undefined ? {} : { expert }),
    ...(transposed && { transposed }),
    ...(stacked && { stacked }),
    ...(keep && { keep }),
  });

/** Every linear layer as a site; a tied head is no layer of its own. */
export function decoderSites(spec: DecoderSpec): LinearSite[] {
  return [...spec.layers.flatMap((layer, i) => layerLinears(layer).map(siteOf(i))), ...outerLinears(spec).map(siteOf(-1))];
}

/** What a model reads of a checkpoint. */
export interface Needed {
  /** Name and shape of every tensor, as a checkpoint has it that is not quantized. */
  readonly tensors: ReadonlyMap<string, Shape>;
  /** Paths of the linears, which have parts beside their weight where they are quantized. */
  readonly linears: ReadonlySet<string>;
}

/** The tensors of modules; `tables` are paths of tables, with their shapes. */
export function tensorList(modules: {
  readonly linears: readonly LinearSpec[];
  readonly norms: readonly NormSpec[];
  readonly tables: readonly (readonly [path: string, shape: Shape])[];
}): Needed {
  const tensors = new Map<string, Shape>(modules.tables.map(([path, shape]) => [`${path}.weight`, shape]));
  for (const { path, width, bias } of modules.norms) {
    tensors.set(`${path}.weight`, [width]);
    if (bias) tensors.set(`${path}.bias`, [width]);
  }
  for (const { path, shape, bias, transposed, stacked } of modules.linears) {
    if (stacked) tensors.set(stacked.tensor, [(tensors.get(stacked.tensor)?.[0] ?? 0) + 1, ...shape]);
    else tensors.set(`${path}.weight`, transposed ? shape.toReversed() : shape);
    if (bias) tensors.set(`${path}.bias`, [shape[0]]);
  }
  return { tensors, linears: new Set(modules.linears.map(({ path }) => path)) };
}

/** The tensors of a decoder. */
export function decoderTensors(spec: DecoderSpec): Needed {
  const { vocab, hidden, embedding, layers } = spec;
  const { width = hidden, positions } = embedding;
  return tensorList({
    linears: [...layers.flatMap(layerLinears), ...outerLinears(spec)],
    norms: [...layers.flatMap(layerNorms), ...[embedding.norm, spec.norm].filter((norm) => norm !== undefined)],
    tables: [[embedding.path, [vocab, width]], ...(positions ? [[positions.path, [positions.rows, hidden]] as const] : [])],
  });
}

/**
 * Throws ERR_TENSOR_MISMATCH if the checkpoint has tensors of layers beyond those of the config: a model cut short would run and talk nonsense.
 */
export function refuseFurtherLayers(spec: DecoderSpec, entries: Entries): void {
  const parts = layerLinears(spec.layers[0]!)[0]!.path.split('.');
  const prefix = parts.slice(0, parts.indexOf('0')).map((part) => `${part}.`);
  refuseFurtherBlocks(prefix.join(''), spec.layers.length, entries, 'num_hidden_layers');
}

/** The same of one stack of blocks: `prefix` is what stands before their numbers, `key` counts them in config.json. */
export function refuseFurtherBlocks(prefix: string, count: number, entries: Entries, key: string): void {
  for (const tensor of entries.keys()) {
    const [layer] = tensor.startsWith(prefix) ? tensor.slice(prefix.length).split('.') : [];
    if (layer === undefined || !/^\d+$/.test(layer) || Number(layer) < count) continue;
    throw new LowbitError('ERR_TENSOR_MISMATCH', `the checkpoint has ${tensor}, but config.json says ${count} layers`, {
      hint: `config.json and the weights do not belong together: check ${key}.`,
      details: { tensor, layers: count },
    });
  }
}

/**
 * Throws ERR_TENSOR_MISMATCH if the checkpoint has tensors that the model would not read: a bias or a norm that nothing adds makes the model talk nonsense.
 * What hangs off a linear (the parts of a quantized one) and what `unread` matches may be there.
 */
export function refuseFurtherTensors({ tensors, linears }: Needed, entries: Entries, unread: RegExp | undefined): void {
  const further = [...entries.keys()].filter((name) => {
    if (tensors.has(name) || unread?.test(name)) return false;
    if (/\.bias$/.test(name)) return true;
    for (let end = name.lastIndexOf('.'); end > 0; end = name.lastIndexOf('.', end - 1)) if (linears.has(name.slice(0, end))) return false;
    return true;
  });
  if (further.length === 0) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `the checkpoint has ${listed(further)}, which this architecture does not read`, {
    hint: 'config.json says another architecture or other settings than the weights have (a missing attention_bias, say). If the tensors may be left out, take them out of the file, or pass an adapter whose `unread` names them.',
    details: { tensors: further },
  });
}

/** The first names, and how many more there are. */
function listed(names: readonly string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(', ')} and ${names.length - 5} others` : names.join(', ');
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
  const others = wrong.slice(1).map(({ tensor }) => tensor);
  const more = others.length > 0 ? ` (and ${others.length} more tensors do not fit: ${listed(others)})` : '';
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${first.tensor} ${found}, expected [${first.expected.join(', ')}]${more}`, {
    hint: 'config.json (vocab_size, hidden_size, ...) and the weights do not belong together, or a file of the checkpoint is missing.',
    details: { file: 'config.json', ...first, tensors: wrong.map(({ tensor }) => tensor) },
  });
}
