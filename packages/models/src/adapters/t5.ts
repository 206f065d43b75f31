// T5, T5 v1.1 and flan-t5: an encoder and a decoder, with biases by distance in place of positions.

import type { Activation, Entries, JsonObject, ModelAdapter } from '@lowbit/core';
import { badConfig, given, readBoolean, readInteger, readNumber } from '../config.ts';
import {
  buildStacks,
  type EncoderDecoderSpec,
  type StackAttention,
  type StackBlock,
  stackSites,
  stackTensors,
} from '../decoder/encoder-decoder.ts';
import { checkTensors, refuseFurtherBlocks, refuseFurtherTensors } from '../decoder/modules.ts';
import type { LinearSpec, MlpSpec } from '../decoder/spec.ts';
import { ACTIVATIONS, COUNT, EPS, kept, linear, POSITIONS, rmsNorm, SIZE, unsupported, VOCAB } from './common.ts';

/** What feed_forward_proj says: `relu`, or `gated-` and a function, of which gelu is the one by tanh. */
function feedForward(config: JsonObject): { readonly gated: boolean; readonly activation: Activation } {
  const value = given(config, 'feed_forward_proj') ?? 'relu';
  const [, gated, name] = typeof value === 'string' ? (/^(gated-)?(\w+)$/.exec(value) ?? []) : [];
  if (name === undefined || !Object.hasOwn(ACTIVATIONS, name))
    throw unsupported('feed_forward_proj', value, 'relu, gated-gelu, gated-silu');
  const activation = gated && name === 'gelu' ? 'gelu_tanh' : ACTIVATIONS[name]!;
  return { gated: gated !== undefined, activation };
}

/** What config.json of a T5 says, as two stacks. Throws as `llamaSpec`. */
function t5Spec(config: JsonObject, entries: Entries): EncoderDecoderSpec {
  const hidden = readInteger(config, 'd_model', SIZE, 512);
  const width = readInteger(config, 'd_ff', SIZE, 2048);
  const headDim = readInteger(config, 'd_kv', COUNT, 64);
  const heads = readInteger(config, 'num_heads', COUNT, 8);
  const layers = readInteger(config, 'num_layers', COUNT, 6);
  const decoderLayers = readInteger(config, 'num_decoder_layers', COUNT, layers);
  const vocab = readInteger(config, 'vocab_size', VOCAB, 32128);
  const eps = readNumber(config, 'layer_norm_epsilon', EPS, 1e-6);
  const buckets = readInteger(config, 'relative_attention_num_buckets', { min: 4, max: 2 ** 16 }, 32);
  if (buckets % 4 !== 0) throw badConfig('relative_attention_num_buckets', buckets, 'a multiple of 4');
  const maxDistance = readInteger(config, 'relative_attention_max_distance', { min: buckets / 2 + 1, max: POSITIONS.max }, 128);
  const start = readInteger(
    config,
    'decoder_start_token_id',
    { min: 0, max: vocab - 1 },
    readInteger(config, 'pad_token_id', { min: 0, max: vocab - 1 }, 0),
  );
  const { gated, activation } = feedForward(config);
  // Original T5 has the head in common with the embeddings and scales in front of it, v1.1 neither. Later versions of the library say `tied` of both, and
  // keep what was meant in scale_decoder_outputs.
  const tied = readBoolean(config, 'tie_word_embeddings', true);
  const scaled = readBoolean(config, 'scale_decoder_outputs', tied);

  const attention = (at: string, name: string): StackAttention => {
    const module = (part: string, out: number, inp: number): LinearSpec => linear(`${at}.${name}.${part}`, out, inp);
    return {
      input: rmsNorm(`${at}.layer_norm`, hidden, eps),
      q: module('q', heads * headDim, hidden),
      k: module('k', heads * headDim, hidden),
      v: module('v', heads * headDim, hidden),
      o: module('o', hidden, heads * headDim),
    };
  };
  const mlp = (at: string): MlpSpec => {
    // What comes out of the MLP passes the range of float16; the Python library keeps these layers in float32.
    const down = kept(linear(`${at}.wo`, hidden, width));
    if (!gated) return { kind: 'plain', up: linear(`${at}.wi`, width, hidden), down, activation };
    return { kind: 'gated', gate: linear(`${at}.wi_0`, width, hidden), up: linear(`${at}.wi_1`, width, hidden), down, activation };
  };
  const block = (stack: 'encoder' | 'decoder', index: number): StackBlock => {
    const at = `${stack}.block.${index}.layer`;
    const last = stack === 'encoder' ? 1 : 2;
    return {
      self: attention(`${at}.0`, 'SelfAttention'),
      ...(stack === 'decoder' && { cross: attention(`${at}.1`, 'EncDecAttention') }),
      mlp: { input: rmsNorm(`${at}.${last}.layer_norm`, hidden, eps), module: mlp(`${at}.${last}.DenseReluDense`) },
    };
  };
  const stack = (name: 'encoder' | 'decoder', count: number) => ({
    bias: `${name}.block.0.layer.0.SelfAttention.relative_attention_bias`,
    blocks: Array.from({ length: count }, (_, index) => block(name, index)),
    norm: rmsNorm(`${name}.final_layer_norm`, hidden, eps),
  });
  const tables = ['shared', 'encoder.embed_tokens', 'decoder.embed_tokens'];
  const table = tables.find((path) => entries.has(`${path}.weight`)) ?? tables[0]!;
  return {
    vocab,
    hidden,
    contextLength: readInteger(config, 'n_positions', POSITIONS, 512),
    start,
    embedding: { path: table },
    heads,
    headDim,
    buckets,
    maxDistance,
    encoder: stack('encoder', layers),
    decoder: stack('decoder', decoderLayers),
    output: {
      ...((entries.has('lm_head.weight') || !tied) && { head: kept(linear('lm_head', vocab, hidden)) }),
      ...(scaled && { factor: hidden ** -0.5 }),
    },
    // Copies of the one table, and a table that early files carry along.
    unread: /^(?:shared|(?:en|de)coder\.embed_tokens)\.weight$|\.EncDecAttention\.relative_attention_bias\.weight$/,
  };
}

/** T5, T5 v1.1 and flan-t5: `model_type` "t5". */
export const t5: ModelAdapter = {
  spec: 1,
  modelTypes: ['t5'],
  linears(config, entries) {
    const spec = t5Spec(config, entries);
    refuseBlocks(spec, entries);
    return stackSites(spec);
  },
  async describe(config, { entries, read, observe }) {
    const spec = t5Spec(config, entries);
    const needed = stackTensors(spec);
    checkTensors(needed.tensors, entries);
    refuseBlocks(spec, entries);
    refuseFurtherTensors(needed, entries, spec.unread);
    const { encoder, decoder } = await buildStacks(spec, read, observe ? { observe } : {});
    const { vocab, contextLength, start } = spec;
    return { program: decoder, vocab, contextLength, layers: spec.decoder.blocks.length, encoder: { program: encoder, start } };
  },
};

function refuseBlocks({ encoder, decoder }: EncoderDecoderSpec, entries: Entries): void {
  refuseFurtherBlocks('encoder.block.', encoder.blocks.length, entries, 'num_layers');
  refuseFurtherBlocks('decoder.block.', decoder.blocks.length, entries, 'num_decoder_layers');
}
