// What the adapters share: bounds of the numbers in config.json, names of activations, modules by their path, and what most decoders say in one way.

import { type Activation, type Entries, type JsonObject, LowbitError } from '@lowbit/core';
import { badConfig, given, readBoolean, readChoice, readInteger, readList, readOptionalInteger } from '../config.ts';
import type { AttentionSpec, DecoderLayer, DecoderSpec, LinearSpec, NormSpec } from '../decoder/spec.ts';

/** Names of activations in config.json. */
export const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  relu2: 'relu2',
};

// Far above every published model, far below what could exhaust memory before the tensors are compared.
export const SIZE = { min: 1, max: 2 ** 20 };
export const COUNT = { min: 1, max: 4096 };
export const VOCAB = { min: 1, max: 2 ** 24 };
export const POSITIONS = { min: 1, max: 2 ** 27 };
export const EPS = { min: 0, max: 1 };
/** Multipliers and caps. */
export const FACTOR = { min: 1e-6, max: 1e6 };

export const linear = (path: string, out: number, inp: number, { bias = false }: { readonly bias?: boolean } = {}): LinearSpec => ({
  path,
  shape: [out, inp],
  bias,
});
export const rmsNorm = (path: string, width: number, eps: number): NormSpec => ({ path, kind: 'rms', width, eps, bias: false });
export const layerNorm = (path: string, width: number, eps: number): NormSpec => ({ path, kind: 'layer', width, eps, bias: true });

/** Stays in floating point unless a rule names it. */
export const kept = (module: LinearSpec): LinearSpec => ({ ...module, keep: true });

/** Throws ERR_UNSUPPORTED_ARCH about a key whose value this adapter does not know how to run. */
export function unsupported(key: string, value: unknown, supported: string): LowbitError {
  return new LowbitError('ERR_UNSUPPORTED_ARCH', `config.json: ${key} ${JSON.stringify(value)} is not supported`, {
    hint: `Supported: ${supported}. Pass an adapter of your own as \`adapters\` for others.`,
    details: { file: 'config.json', key, value },
  });
}

/** Throws ERR_UNSUPPORTED_ARCH if a switch is on that this adapter does not run. */
export function requireOff(config: JsonObject, key: string): void {
  if (readBoolean(config, key, false)) throw unsupported(key, true, 'false');
}

/** Throws ERR_UNSUPPORTED_ARCH if a switch is off without which this adapter does not run. */
export function requireOn(config: JsonObject, key: string): void {
  if (!readBoolean(config, key, true)) throw unsupported(key, false, 'true');
}

export interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** num_attention_heads, num_key_value_heads and head_dim, which may be absent: then all heads, and `headDim` or hidden_size / num_attention_heads. */
export function readHeads(config: JsonObject, hidden: number, headDim?: number): Heads {
  const heads = readInteger(config, 'num_attention_heads', COUNT);
  const kvHeads = readInteger(config, 'num_key_value_heads', COUNT, heads);
  if (heads % kvHeads !== 0) throw badConfig('num_key_value_heads', kvHeads, `a divisor of num_attention_heads (${heads})`);
  if (given(config, 'head_dim') === undefined && headDim === undefined) return { heads, kvHeads, headDim: dividedHeads(hidden, heads) };
  return { heads, kvHeads, headDim: readInteger(config, 'head_dim', COUNT, headDim) };
}

/** hidden / heads. */
export function dividedHeads(hidden: number, heads: number, keys = ['num_attention_heads', 'hidden_size']): number {
  if (hidden % heads === 0) return hidden / heads;
  throw badConfig(keys[0]!, heads, `a divisor of ${keys[1]} (${hidden}), as there is no head_dim`);
}

/**
 * The output head, or none where it is the table of embeddings. A file that has a head of its own keeps it, whatever the config says: later versions of the
 * library write such checkpoints.
 */
export function readHead(
  config: JsonObject,
  entries: Entries,
  module: LinearSpec,
  { tied }: { readonly tied: boolean },
): { readonly head?: LinearSpec } {
  const shared = readBoolean(config, 'tie_word_embeddings', tied) && !entries.has(`${module.path}.weight`);
  return shared ? {} : { head: kept(module) };
}

const LAYER_TYPES = { full_attention: false, sliding_attention: true };

/**
 * Which layers slide: `layer_types` where the config has it, as transformers 5 writes, else what `slides` says of the layer. With the window, whose key may
 * hold null for none.
 */
export function readWindows(
  config: JsonObject,
  layers: number,
  { slides, window }: { readonly slides: (layer: number) => boolean; readonly window: number | undefined },
): readonly (number | undefined)[] {
  const types = readList(config, 'layer_types', { length: layers }, (list, key) => readChoice(list, key, LAYER_TYPES, ''));
  const size = readOptionalInteger(config, 'sliding_window', POSITIONS, window);
  return Array.from({ length: layers }, (_, layer) => ((types?.[layer] ?? slides(layer)) ? size : undefined));
}

/** The layers with some settings of their attention replaced. */
export function mapAttention(spec: DecoderSpec, change: (attention: AttentionSpec, layer: number) => Partial<AttentionSpec>): DecoderSpec {
  return mapLayers(spec, (layer, index) => {
    const { module } = layer.attention;
    return { ...layer, attention: { ...layer.attention, module: { ...module, ...change(module, index) } } };
  });
}

/** Windows by layer, as `readWindows` gives them. */
export function withWindows(spec: DecoderSpec, windows: readonly (number | undefined)[]): DecoderSpec {
  return mapAttention(spec, (_, layer) => (windows[layer] === undefined ? {} : { window: windows[layer] }));
}

export function mapLayers(spec: DecoderSpec, change: (layer: DecoderLayer, index: number) => DecoderLayer): DecoderSpec {
  return { ...spec, layers: spec.layers.map(change) };
}
