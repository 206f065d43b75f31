// Rotary frequencies from config.json: the rules of transformers' modeling_rope_utils, in both of its config forms.
//
//   published:       "rope_theta": 1e4, "rope_scaling": { "rope_type" (once "type"): "linear", "factor": 2 }
//   transformers 5:  "rope_parameters": { "rope_theta": 1e4, "rope_type": "linear", "factor": 2 }

import { type JsonObject, LowbitError, type Rope } from '@lowbit/core';
import { badConfig, given, readBoolean, readInteger, readList, readNumber, readObject } from '../config.ts';

/** Numbers of the model that rotary frequencies depend on. */
export interface RopeContext {
  /** Elements of a head that are rotated. */
  readonly dim: number;
  /** max_position_embeddings of the config. */
  readonly positions: number;
}

const FACTOR = { min: 1, max: 1e6 };
const POSITIONS = { min: 1, max: 2 ** 27 };
const POSITIVE = { min: 1e-6, max: 1e6 };

/** rope_scaling and rope_parameters as one record that has rope_theta and rope_type; both absent gives the default kind. */
export function ropeParameters(config: JsonObject, theta: number): JsonObject {
  const scaling = readObject(config, 'rope_parameters') ?? readObject(config, 'rope_scaling') ?? {};
  const rope_type = given(scaling, 'rope_type') ?? given(scaling, 'type') ?? 'default';
  return { ...scaling, rope_type, rope_theta: given(scaling, 'rope_theta') ?? given(config, 'rope_theta') ?? theta };
}

/** theta^(-2i/dim) for i in 0 .. dim/2 - 1. */
function inverseFrequencies(theta: number, dim: number): number[] {
  return Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
}

const fixed = (frequencies: readonly number[], scale = 1): Rope => ({ kind: 'fixed', frequencies, scale });

type RopeReader = (parameters: JsonObject, theta: number, context: RopeContext) => Rope;
/** By rope_type. */
export type RopeReaders = Readonly<Record<string, RopeReader>>;

const READERS: RopeReaders = {
  default: (_, theta, { dim }) => fixed(inverseFrequencies(theta, dim)),
  linear: (p, theta, { dim }) => {
    const factor = readNumber(p, 'factor', FACTOR, undefined, 'rope factor');
    return fixed(inverseFrequencies(theta, dim).map((f) => f / factor));
  },
  dynamic: (p, theta, { dim, positions }) => ({
    kind: 'dynamic',
    base: theta,
    dim,
    factor: readNumber(p, 'factor', FACTOR, undefined, 'rope factor'),
    original: positions,
  }),
  llama3,
  yarn,
};

/** Llama 3.1: high frequencies stay, low ones are divided by the factor, those between are blended. */
function llama3(p: JsonObject, theta: number, { dim, positions }: RopeContext): Rope {
  const factor = readNumber(p, 'factor', FACTOR, undefined, 'rope factor');
  const low = readNumber(p, 'low_freq_factor', POSITIVE);
  const high = readNumber(p, 'high_freq_factor', POSITIVE);
  if (high <= low) throw badConfig('high_freq_factor', high, `more than low_freq_factor (${low})`);
  const original = readInteger(p, 'original_max_position_embeddings', POSITIONS, positions);
  const frequencies = inverseFrequencies(theta, dim).map((f) => {
    const turns = (original * f) / (2 * Math.PI); // full turns within the original context
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return (1 - kept) * (f / factor) + kept * f;
  });
  return fixed(frequencies);
}

/** YaRN (arXiv 2309.00071): a ramp over the dimensions from interpolated to original frequencies; cos and sin times the attention factor. */
function yarn(p: JsonObject, theta: number, { dim, positions }: RopeContext): Rope {
  const original = readInteger(p, 'original_max_position_embeddings', POSITIONS, positions);
  const factor = readNumber(p, 'factor', FACTOR, positions / original, 'rope factor');
  const fast = readNumber(p, 'beta_fast', POSITIVE, 32);
  const slow = readNumber(p, 'beta_slow', POSITIVE, 1);
  const whole = readBoolean(p, 'truncate', true);
  /** The dimension that turns `turns` times within the original context. */
  const dimension = (turns: number): number => (dim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const from = Math.max(0, whole ? Math.floor(dimension(fast)) : dimension(fast));
  let to = Math.min(dim - 1, whole ? Math.ceil(dimension(slow)) : dimension(slow));
  if (to === from) to += 0.001; // as the original does against division by zero
  const frequencies = inverseFrequencies(theta, dim).map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - from) / (to - from)));
    return (f / factor) * ramp + f * (1 - ramp);
  });
  return fixed(frequencies, yarnAttentionFactor(p, factor));
}

function yarnAttentionFactor(p: JsonObject, factor: number): number {
  const grown = (mscale: number): number => 0.1 * mscale * Math.log(factor) + 1;
  const mscale = readNumber(p, 'mscale', { min: 0, max: 1e3 }, 0);
  const mscaleAll = readNumber(p, 'mscale_all_dim', { min: 0, max: 1e3 }, 0);
  const implied = mscale && mscaleAll ? grown(mscale) / grown(mscaleAll) : grown(1);
  return readNumber(p, 'attention_factor', POSITIVE, implied);
}

/**
 * LongRoPE (arXiv 2402.13753): the frequencies are divided by one list of factors up to the original length and by another beyond; cos and sin times
 * sqrt(1 + ln(positions / original) / ln(original)).
 */
export function longRope(p: JsonObject, theta: number, { dim, positions }: RopeContext): Rope {
  const original = readInteger(p, 'original_max_position_embeddings', POSITIONS, positions);
  const factor = readNumber(p, 'factor', { min: 1e-6, max: 1e6 }, positions / original, 'rope factor');
  const implied = factor <= 1 || original === 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
  const scale = readNumber(p, 'attention_factor', POSITIVE, implied);
  const frequencies = inverseFrequencies(theta, dim);
  const divided = (key: string): number[] => {
    const factors = readList(p, key, { length: dim / 2 }, (list, name) => readNumber(list, name, POSITIVE));
    if (!factors) throw badConfig(key, undefined, `a list of ${dim / 2}`);
    return frequencies.map((f, i) => f / factors[i]!);
  };
  return { kind: 'long', short: divided('short_factor'), long: divided('long_factor'), original, scale };
}

/** How many elements of a head turn: partial_rotary_factor of them, or of all that are there. Throws ERR_BAD_CHECKPOINT for an odd number or none. */
export function rotatedDim(parameters: JsonObject, config: JsonObject, headDim: number, fallback = 1): number {
  const source = given(parameters, 'partial_rotary_factor') === undefined ? config : parameters;
  const dim = Math.floor(headDim * readNumber(source, 'partial_rotary_factor', { min: 0, max: 1 }, fallback));
  if (dim < 2 || dim % 2 !== 0) throw badConfig('head_dim', headDim, 'a head of which an even, positive number of elements is rotated');
  return dim;
}

/**
 * The rotary embedding that config.json asks for: one of the kinds default, linear, dynamic, llama3 and yarn, or of `more`.
 * Throws ERR_BAD_CHECKPOINT for unusable numbers and ERR_UNSUPPORTED_ARCH for another rope_type.
 */
export function ropeOf(parameters: JsonObject, context: RopeContext, more: RopeReaders = {}): Rope {
  const readers = { ...READERS, ...more };
  const type = parameters.rope_type;
  if (typeof type !== 'string' || !Object.hasOwn(readers, type)) {
    throw new LowbitError('ERR_UNSUPPORTED_ARCH', `config.json: rope_type ${JSON.stringify(type)} is not supported`, {
      hint: `Supported: ${Object.keys(readers).join(', ')}. Pass an adapter of your own as \`adapters\` for others.`,
      details: { file: 'config.json', key: 'rope_type', value: type, supported: Object.keys(readers) },
    });
  }
  const theta = readNumber(parameters, 'rope_theta', { min: 1.0001, max: 1e12 });
  return readers[type]!(parameters, theta, context);
}
