// State dicts of single layers: the tensors that transformers' HiggsLinear has (weight, scales, tables, tables2), or those of the portable form (codes,
// scales, grid), and a bias.

import {
  checkBias,
  type FluteTile,
  firstNonFinite,
  type HostTensor,
  isLowbitError,
  LowbitError,
  memorySource,
  type QuantizedTensor,
} from '@lowbit/core';
import { encodeHiggsLinear, layerEntries, layoutBytes, readHiggsLinear, readStoredLinear, type StateDict } from '@lowbit/layouts';
import { checkHadamardSize } from './options.ts';
import { refusal, shown } from './refuse.ts';

export type { StateDict } from '@lowbit/layouts';

/** What the tensors of a layer do not say. */
export interface LayerFacts {
  /** Weights of a row that were rotated together. Default 512. */
  readonly hadamardSize?: number;
  /** `tile_P` of FLUTE's packing, which `template_id` of `tune_metadata` says. Default 32. */
  readonly tile?: FluteTile;
  /** Weights of a code, for a table that is no grid of transformers. */
  readonly p?: 1 | 2;
  /** Columns of the weight, where rows were filled up to whole Hadamard blocks. Default: all that is stored. */
  readonly inFeatures?: number;
}

/** Throws ERR_BAD_ARGUMENT for facts that can be those of no layer. */
export function checkFacts({ hadamardSize, tile, p, inFeatures }: LayerFacts): void {
  const bad = (name: string, value: unknown, hint: string) =>
    refusal('HiggsLinear', `${name} cannot be ${shown(value)}`, hint, { option: name, value });
  if (hadamardSize !== undefined) checkHadamardSize('HiggsLinear', hadamardSize);
  if (tile !== undefined && tile !== 32 && tile !== 64) throw bad('tile', tile, 'Use 32 or 64.');
  if (p !== undefined && p !== 1 && p !== 2) throw bad('p', p, 'Use 1 or 2.');
  if (inFeatures !== undefined && !(Number.isSafeInteger(inFeatures) && inFeatures > 0)) {
    throw bad('inFeatures', inFeatures, 'Give the columns that the weight had.');
  }
}

/** Throws ERR_UNSUPPORTED_FORMAT for scales in f32, which the layout does not have. */
export function encodeState({ format, shape, parts }: QuantizedTensor, bias: HostTensor | undefined): StateDict {
  const tensors = encodeHiggsLinear({ path: '', shape, format });
  const state = Object.fromEntries(tensors.map((tensor) => [tensor.name, { ...tensor.spec, data: layoutBytes(tensor, parts) }]));
  return bias === undefined ? state : { ...state, bias };
}

/**
 * Reads what `encodeState` or Python wrote.
 * @throws ERR_BAD_ARGUMENT (no state dict), and what reading the layout throws, naming the tensor: ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT, ERR_NON_FINITE,
 * ERR_UNSUPPORTED_FORMAT
 */
export async function decodeState(
  state: StateDict | ReadonlyMap<string, HostTensor>,
  path: string,
  { hadamardSize: hadamard = 512, tile, p, inFeatures }: LayerFacts,
): Promise<{ readonly weight: QuantizedTensor; readonly bias: HostTensor | undefined }> {
  if (typeof state !== 'object' || state === null || Array.isArray(state)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a state dict is an object or a map of tensors', { hint: 'Pass what stateDict() gave.' });
  }
  const tensors: StateDict = state instanceof Map ? Object.fromEntries(state) : (state as StateDict);
  const source = memorySource(layerEntries(tensors, path, OWN));
  const linear = await readHiggsLinear(source, path, { hadamard, tile, p, inFeatures }).catch(blameOptions);
  const weight = await readStoredLinear(source, linear, { path: path === '' ? 'state dict' : path });
  checkScales(linear.parts.scale!, weight.parts.scale!);
  const bias = linear.bias === undefined ? undefined : await source.read(linear.bias);
  if (bias) checkBias(bias, weight.shape[0]);
  return { weight, bias };
}

/** What config.json says of a checkpoint, here the options say. */
function blameOptions(error: unknown): never {
  if (!isLowbitError(error) || !/config\.json|no multiple of hadamard_size/.test(`${error.message} ${error.hint ?? ''}`)) throw error;
  const message = error.message
    .replace('config.json says in_features', 'the option inFeatures is')
    .replace('what config.json says (p 1)', 'what the option p says');
  throw new LowbitError(error.code, message.replace('hadamard_size', 'the option hadamardSize,'), {
    hint: 'The options hadamardSize, tile, p and inFeatures must be those that the layer was made with.',
    details: error.details,
    cause: error,
  });
}

/** Throws ERR_NON_FINITE. */
function checkScales(name: string, tensor: HostTensor): void {
  const index = firstNonFinite(tensor);
  if (index < 0) return;
  throw new LowbitError('ERR_NON_FINITE', `state dict: ${JSON.stringify(name)}: element ${index} is NaN or infinite`, {
    hint: 'The state dict is damaged. Quantize the layer again.',
    details: { tensor: name, index },
  });
}

/** Names that a layer has; what else is beside them is not looked at. */
const OWN = /^(?:weight|scales|tables|tables2|codes|grid|bias)$/;
