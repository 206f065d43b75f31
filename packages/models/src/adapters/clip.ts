// The image tower of CLIP: by itself, in a model of both towers, or within LLaVA. After transformers' modeling_clip.

import type { Activation, DescribeOptions, Entries, JsonObject, ModelAdapter, ModelDescription } from '@lowbit/core';
import { badConfig, given, readChoice, readInteger, readNumber, readObject } from '../config.ts';
import { checkTensors, layerLinears, refuseFurtherBlocks, refuseFurtherTensors, siteOf } from '../decoder/modules.ts';
import type { DecoderLayer, LinearSpec, QkvSpec } from '../decoder/spec.ts';
import { buildTower } from '../tower/build.ts';
import { towerSites, towerTensors } from '../tower/modules.ts';
import { type TowerSpec, towerRows } from '../tower/spec.ts';
import { ACTIVATIONS, COUNT, dividedHeads, EPS, kept, layerNorm, linear, SIZE } from './common.ts';

/** Pixels of a side, and rows that come of an image: attention over all of them is one step. */
const SIDE = { min: 1, max: 2 ** 14 };
const MOST_ROWS = 2 ** 14;

/** Bounds the rows of an image; ERR_BAD_CHECKPOINT for sides that the patches do not fill. */
export function checkImage(key: string, { height, width, patch }: { height: number; width: number; patch: number }): void {
  if (height % patch !== 0 || width % patch !== 0) throw badConfig('patch_size', patch, `a divisor of ${key} (${height} x ${width})`);
  const rows = (height / patch) * (width / patch);
  if (rows > MOST_ROWS) throw badConfig(key, [height, width], `at most ${MOST_ROWS} patches of ${patch}`);
}

/** What the layers of a tower have in common. */
export interface TowerWidths {
  readonly hidden: number;
  /** Of the MLP. */
  readonly width: number;
  readonly heads: number;
  readonly eps: number;
  readonly activation: Activation;
}

/** Attention and MLP, each with a norm before it; `modules` are their linears. */
export function towerLayer(
  norms: readonly [attention: string, mlp: string],
  modules: { readonly qkv: QkvSpec; readonly o: LinearSpec; readonly up: LinearSpec; readonly down: LinearSpec },
  { hidden, heads, eps, activation }: TowerWidths,
): DecoderLayer {
  const { qkv, o, up, down } = modules;
  const headDim = hidden / heads;
  return {
    residual: 'sequential',
    attention: {
      input: layerNorm(norms[0], hidden, eps),
      module: { qkv, o, heads, kvHeads: heads, headDim, scale: headDim ** -0.5, position: { kind: 'none' }, causal: false },
    },
    mlp: { input: layerNorm(norms[1], hidden, eps), module: { kind: 'plain', up, down, activation } },
  };
}

function clipLayer(at: string, widths: TowerWidths): DecoderLayer {
  const { hidden, width } = widths;
  const biased = (name: string, out: number, inp: number): LinearSpec => linear(`${at}.${name}`, out, inp, { bias: true });
  const projection = (name: string): LinearSpec => biased(`self_attn.${name}`, hidden, hidden);
  return towerLayer(
    [`${at}.layer_norm1`, `${at}.layer_norm2`],
    {
      qkv: { kind: 'separate', q: projection('q_proj'), k: projection('k_proj'), v: projection('v_proj') },
      o: projection('out_proj'),
      up: biased('mlp.fc1', width, hidden),
      down: biased('mlp.fc2', hidden, width),
    },
    widths,
  );
}

/** What a `clip_vision_model` config says, as a tower without its output. `at` is what stands before `embeddings` and `encoder` in names, with its dot. */
export function clipTower(config: JsonObject, at: string): Omit<TowerSpec, 'output'> & { readonly eps: number } {
  const hidden = readInteger(config, 'hidden_size', SIZE, 768);
  const width = readInteger(config, 'intermediate_size', SIZE, 3072);
  const layers = readInteger(config, 'num_hidden_layers', COUNT, 12);
  const heads = readInteger(config, 'num_attention_heads', COUNT, 12);
  const channels = readInteger(config, 'num_channels', { min: 1, max: 16 }, 3);
  const side = readInteger(config, 'image_size', SIDE, 224);
  const patch = readInteger(config, 'patch_size', SIDE, 32);
  const eps = readNumber(config, 'layer_norm_eps', EPS, 1e-5);
  const activation = readChoice(config, 'hidden_act', ACTIVATIONS, 'quick_gelu');
  dividedHeads(hidden, heads);
  const image = { channels, height: side, width: side, patch };
  checkImage('image_size', image);
  return {
    image,
    hidden,
    eps,
    patches: { path: `${at}embeddings.patch_embedding`, bias: false },
    classToken: { tensor: `${at}embeddings.class_embedding`, shape: [hidden] },
    positions: { tensor: `${at}embeddings.position_embedding.weight`, shape: [1 + (side / patch) ** 2, hidden] },
    // The name is misspelt in the files.
    norm: layerNorm(`${at}pre_layrnorm`, hidden, eps),
    layers: Array.from({ length: layers }, (_, index) =>
      clipLayer(`${at}encoder.layers.${index}`, { hidden, width, heads, eps, activation }),
    ),
    unused: [],
  };
}

/** All linears of a CLIP layer stay in floating point unless a rule names them. */
export function keptLayer(layer: DecoderLayer): DecoderLayer {
  const { attention, mlp } = layer;
  const { qkv, o } = attention.module;
  if (mlp.module.kind !== 'plain' || qkv.kind !== 'separate') throw new Error('internal: no layer of a CLIP tower');
  const all = { kind: 'separate', q: kept(qkv.q), k: kept(qkv.k), v: kept(qkv.v) } as const;
  return {
    ...layer,
    attention: { ...attention, module: { ...attention.module, qkv: all, o: kept(o) } },
    mlp: { ...mlp, module: { ...mlp.module, up: kept(mlp.module.up), down: kept(mlp.module.down) } },
  };
}

/** What stands before `encoder` in the names of a tower: later versions of the library leave `vision_model.` out. */
export function towerPrefix(entries: Entries, ...prefixes: readonly string[]): string {
  return prefixes.find((prefix) => entries.has(`${prefix}embeddings.class_embedding`)) ?? prefixes[0]!;
}

function clipSpec(config: JsonObject, entries: Entries): TowerSpec {
  const { eps, ...tower } = clipTower(config, towerPrefix(entries, 'vision_model.', ''));
  const norm = layerNorm(tower.norm!.path.replace('pre_layrnorm', 'post_layernorm'), tower.hidden, eps);
  const width = readInteger(config, 'projection_dim', SIZE, 512);
  const project = entries.has('visual_projection.weight') && kept(linear('visual_projection', width, tower.hidden));
  return { ...tower, output: { kind: 'clip', norm, ...(project && { project }) } };
}

/** Throws ERR_TENSOR_MISMATCH if the checkpoint has more layers than config.json says. */
export function refuseLayers({ layers, unused }: Pick<TowerSpec, 'layers' | 'unused'>, entries: Entries): void {
  const [first] = layerLinears((layers[0] ?? unused[0])!);
  const prefix = first!.path.slice(0, first!.path.indexOf('.0.') + 1);
  refuseFurtherBlocks(prefix, layers.length + unused.length, entries, 'the number of layers');
}

/** Describes a tower on its own. Tensors that `unread` matches may be there besides. */
export async function describeTower(
  spec: TowerSpec,
  { entries, read, observe }: DescribeOptions,
  unread?: RegExp,
): Promise<ModelDescription> {
  const needed = towerTensors(spec);
  checkTensors(needed.tensors, entries);
  refuseLayers(spec, entries);
  refuseFurtherTensors(needed, entries, unread);
  const images = await buildTower(spec, read, { observe });
  return { program: images.program, vocab: 1, contextLength: towerRows(spec), layers: spec.layers.length, images };
}

/** CLIP's image tower: `model_type` "clip_vision_model". Its linears are quantized; the projection stays in floating point. */
export const clipVision: ModelAdapter = {
  spec: 1,
  modelTypes: ['clip_vision_model'],
  linears(config, entries) {
    const spec = clipSpec(config, entries);
    refuseLayers(spec, entries);
    return towerSites(spec);
  },
  describe: (config, options) => describeTower(clipSpec(config, options.entries), options, /\.position_ids$/),
};

/** The image tower of a model of both, in floating point. */
function bothSpec(config: JsonObject, entries: Entries): TowerSpec {
  const vision = readObject(config, 'vision_config') ?? {};
  const width = given(config, 'projection_dim');
  const spec = clipSpec(width === undefined ? vision : { ...vision, projection_dim: width }, entries);
  return { ...spec, layers: spec.layers.map(keptLayer) };
}

/** The layers of the text tower, which is quantized and not run. */
function textLayers(config: JsonObject): readonly DecoderLayer[] {
  const text = readObject(config, 'text_config') ?? {};
  const layers = readInteger(text, 'num_hidden_layers', COUNT, 12);
  const hidden = readInteger(text, 'hidden_size', SIZE, 512);
  const width = readInteger(text, 'intermediate_size', SIZE, 2048);
  const heads = readInteger(text, 'num_attention_heads', COUNT, 8);
  dividedHeads(hidden, heads);
  return Array.from({ length: layers }, (_, index) =>
    clipLayer(`text_model.encoder.layers.${index}`, { hidden, width, heads, eps: 1e-5, activation: 'quick_gelu' }),
  );
}

/** CLIP with both towers: `model_type` "clip". Images are turned into `image_embeds`; the text tower is quantized and written, and not run. */
export const clip: ModelAdapter = {
  spec: 1,
  modelTypes: ['clip'],
  linears(config, entries) {
    const text = textLayers(config);
    const image = bothSpec(config, entries);
    for (const layers of [text, image.layers]) refuseLayers({ layers, unused: [] }, entries);
    // Layers are those of the image tower.
    return [...text.flatMap((layer) => layerLinears(layer).map(siteOf(-1))), ...towerSites(image)];
  },
  describe: (config, options) =>
    describeTower(bothSpec(config, options.entries), options, /\.position_ids$|^logit_scale$|^text_projection\.|^text_model\./),
};
