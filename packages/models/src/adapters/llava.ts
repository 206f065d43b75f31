// LLaVA: the image tower of CLIP without its last layers, two linears, and the rows put in place of the image tokens of a language model. After transformers'
// modeling_llava. Tower and projector stay in floating point; the language model is quantized.

import type { Entries, JsonObject, ModelAdapter, TensorSpec } from '@lowbit/core';
import { badConfig, given, readBoolean, readChoice, readInteger, readObject } from '../config.ts';
import { buildDecoder } from '../decoder/build.ts';
import { checkTensors, decoderSites, decoderTensors, type Needed, refuseFurtherLayers, refuseFurtherTensors } from '../decoder/modules.ts';
import type { DecoderSpec, LinearSpec } from '../decoder/spec.ts';
import { buildTower } from '../tower/build.ts';
import { towerSites, towerTensors } from '../tower/modules.ts';
import type { TowerSpec } from '../tower/spec.ts';
import { clipTower, keptLayer, refuseLayers, towerPrefix } from './clip.ts';
import { ACTIVATIONS, kept, linear, unsupported } from './common.ts';
import { llamaSpec } from './llama.ts';
import { mistralSpec } from './mistral.ts';
import { qwen2Spec } from './qwen.ts';

interface TextFamily {
  readonly spec: (config: JsonObject, entries: Entries) => DecoderSpec;
  /** What published configs leave out, since it is the library's default. */
  readonly defaults: JsonObject;
}

const LLAMA_DEFAULTS = { hidden_size: 4096, num_hidden_layers: 32, num_attention_heads: 32, vocab_size: 32_000 };

const TEXT: Readonly<Record<string, TextFamily>> = {
  llama: { spec: (config, entries) => llamaSpec(config, entries), defaults: { ...LLAMA_DEFAULTS, intermediate_size: 11_008 } },
  mistral: { spec: mistralSpec, defaults: { ...LLAMA_DEFAULTS, intermediate_size: 14_336, num_key_value_heads: 8 } },
  qwen2: { spec: qwen2Spec, defaults: { ...LLAMA_DEFAULTS, intermediate_size: 22_016, vocab_size: 151_936 } },
};

/** Where the parts are in a file: published models have the language model whole, later versions of the library take its head apart. */
interface Names {
  readonly tower: string;
  readonly projector: string;
  /** A name of the language model, such as `model.layers.0.mlp.up_proj`, as the file has it. */
  readonly text: (name: string) => string;
}

function namesOf(entries: Entries): Names {
  const apart = entries.has('model.language_model.embed_tokens.weight');
  const before = apart ? 'model.' : '';
  return {
    tower: towerPrefix(entries, `${before}vision_tower.vision_model.`, `${before}vision_tower.`),
    projector: `${before}multi_modal_projector`,
    text: apart ? (name) => name.replace(/^model\./, 'model.language_model.') : (name) => `language_model.${name}`,
  };
}

/** The entries of the language model under the names that it has alone. */
function textEntries(entries: Entries, { text }: Names): Entries {
  const inner = new Map<string, TensorSpec>();
  for (const [name, spec] of entries) {
    for (const own of [name, name.replace(/^language_model\./, ''), name.replace(/^model\.language_model\./, 'model.')]) {
      if (text(own) === name) inner.set(own, spec);
    }
  }
  return inner;
}

/** Every `path` of a description under another name. */
function renamed<T>(value: T, rename: (name: string) => string): T {
  if (Array.isArray(value)) return value.map((each) => renamed(each, rename)) as T;
  if (typeof value !== 'object' || value === null || value instanceof RegExp) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, each]) => [key, key === 'path' && typeof each === 'string' ? rename(each) : renamed(each, rename)]),
  ) as T;
}

interface LlavaSpec {
  readonly tower: TowerSpec;
  readonly text: DecoderSpec;
  readonly placeholder: number;
}

function textSpec(config: JsonObject, entries: Entries, names: Names): DecoderSpec {
  const text = readObject(config, 'text_config') ?? {};
  const type = given(text, 'model_type') ?? 'llama';
  if (typeof type !== 'string' || !Object.hasOwn(TEXT, type))
    throw unsupported('text_config.model_type', type, Object.keys(TEXT).join(', '));
  const { spec, defaults } = TEXT[type]!;
  const tied = given(config, 'tie_word_embeddings');
  const whole = { ...defaults, ...(tied === undefined ? {} : { tie_word_embeddings: tied }), ...text };
  return renamed(spec(whole, textEntries(entries, names)), names.text);
}

function towerSpec(config: JsonObject, names: Names, width: number): TowerSpec {
  const vision = readObject(config, 'vision_config') ?? {};
  const type = given(vision, 'model_type') ?? 'clip_vision_model';
  if (type !== 'clip_vision_model') throw unsupported('vision_config.model_type', type, 'clip_vision_model');
  const { eps: _, ...tower } = clipTower(vision, names.tower);
  const { hidden } = tower;
  const layers = tower.layers.map(keptLayer);
  const from = given(config, 'vision_feature_layer') ?? -2;
  if (Array.isArray(from)) throw unsupported('vision_feature_layer', from, 'one layer');
  // Of the hidden states: the first is the input of layer 0, so -2 is what the last layer but one gives.
  const at = readInteger(config, 'vision_feature_layer', { min: -layers.length - 1, max: layers.length }, -2);
  const used = at < 0 ? layers.length + 1 + at : at;
  const activation = readChoice(config, 'projector_hidden_act', ACTIVATIONS, 'gelu');
  const bias = readBoolean(config, 'multimodal_projector_bias', true);
  const part = (name: string, inp: number): LinearSpec => kept(linear(`${names.projector}.${name}`, width, inp, { bias }));
  return {
    ...tower,
    layers: layers.slice(0, used),
    unused: layers.slice(used),
    output: {
      kind: 'features',
      projector: { kind: 'plain', up: part('linear_1', hidden), down: part('linear_2', width), activation },
      classToken: readChoice(config, 'vision_feature_select_strategy', { default: false, full: true }, 'default'),
    },
  };
}

function llavaSpec(config: JsonObject, entries: Entries): LlavaSpec {
  const names = namesOf(entries);
  const text = textSpec(config, entries, names);
  const key = given(config, 'image_token_id') === undefined ? 'image_token_index' : 'image_token_id';
  const placeholder = readInteger(config, key, { min: 0, max: 2 ** 24 }, 32_000);
  if (placeholder >= text.vocab) throw badConfig(key, placeholder, `a token below vocab_size (${text.vocab})`);
  return { tower: towerSpec(config, names, text.hidden), text, placeholder };
}

function needed({ tower, text }: LlavaSpec): Needed {
  const [image, words] = [towerTensors(tower), decoderTensors(text)];
  return { tensors: new Map([...image.tensors, ...words.tensors]), linears: new Set([...image.linears, ...words.linears]) };
}

/** In the file of a whole tower, and not needed for its rows: the norm of the class token. */
const UNREAD = /\.post_layernorm\.(?:weight|bias)$|\.position_ids$|\.rotary_emb\.inv_freq$/;

/** LLaVA 1.5 and others of its form: `model_type` "llava". */
export const llava: ModelAdapter = {
  spec: 1,
  modelTypes: ['llava'],
  linears(config, entries) {
    const { text, tower } = llavaSpec(config, entries);
    refuseFurtherLayers(text, entries);
    refuseLayers(tower, entries);
    // Layers are those of the language model.
    return [...towerSites(tower).map((site) => ({ ...site, layer: -1 })), ...decoderSites(text)];
  },
  async describe(config, { entries, read, observe = [] }) {
    const spec = llavaSpec(config, entries);
    const { text, tower, placeholder } = spec;
    const all = needed(spec);
    checkTensors(all.tensors, entries);
    refuseFurtherLayers(text, entries);
    refuseLayers(tower, entries);
    refuseFurtherTensors(all, entries, UNREAD);
    const images = await buildTower(tower, read);
    const program = await buildDecoder(text, read, { observe, inject: 'image' });
    const { vocab, contextLength, layers } = text;
    return { program, vocab, contextLength, layers: layers.length, images: { ...images, placeholder } };
  },
};
