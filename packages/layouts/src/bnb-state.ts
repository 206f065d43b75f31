// The `quant_state` tensor of a 4-bit weight: JSON as UTF-8 bytes, with what bitsandbytes does not keep in tensors of their own. It is the only place
// where shape, block size and the offset of double quantization are written down.

import type { DType } from '@lowbit/core';
import { LowbitError, quote } from '@lowbit/core';
import { isArray, isNumber, isObject, type JsonTree, parseJson } from './json/parse.ts';
import { pythonFloat } from './json/write.ts';
import { torchNames } from './torch-names.ts';

/** The 4-bit tables. */
export type FourBitType = 'nf4' | 'fp4';

export interface NestedState {
  readonly blocksize: number;
  /** Name of a torch dtype: what scales are restored in. */
  readonly dtype: string;
  /** A float32 value. */
  readonly offset: number;
}

export interface QuantState {
  readonly type: FourBitType;
  readonly blocksize: number;
  /** Of the weight before it was quantized. */
  readonly dtype: DType;
  /** Of the weight, any rank. */
  readonly shape: readonly number[];
  readonly nested?: NestedState | undefined;
}

/** dtypes of weights, as this JSON and config.json name them. */
export const WEIGHT_DTYPES = torchNames(['f16', 'bf16', 'f32']);

/** Longest JSON that is read; Python's has about 170 bytes. */
export const MAX_STATE_BYTES = 1 << 16;
const KEYS: ReadonlySet<string> = new Set([
  'quant_type',
  'blocksize',
  'dtype',
  'shape',
  'nested_blocksize',
  'nested_dtype',
  'nested_offset',
]);
/** Python's longest float has 23 characters: sign, 17 digits, point, `e-38`. */
const LONGEST_FLOAT = 24;

export interface QuantStateOptions {
  /** Take a nested_offset that is NaN or infinite. Default false: ERR_NON_FINITE. */
  readonly allowNonFinite?: boolean | undefined;
}

/**
 * Reads the bytes of the tensor `name`, whose suffix says that the weight is of `type`.
 * @throws ERR_BAD_CHECKPOINT (no JSON, unknown or missing keys, a type that contradicts the suffix), ERR_NON_FINITE, ERR_UNSUPPORTED_FORMAT; all name the tensor
 */
export function parseQuantState(bytes: Uint8Array, name: string, type: FourBitType, options: QuantStateOptions = {}): QuantState {
  const fail = (problem: string) => badState(name, problem);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw fail('is not UTF-8');
  }
  const rules = { maxDepth: 4, maxValues: 64, duplicates: 'last', python: true } as const;
  const tree = parseJson(text, { ...rules, fail: (problem, at) => fail(`is bad JSON: ${problem} (character ${at})`) });
  if (!isObject(tree)) throw fail('is no JSON object');
  for (const key of tree.keys()) if (!KEYS.has(key)) throw fail(`has the key ${quote(key)}, which no version of bitsandbytes writes`);
  const stated = tree.get('quant_type');
  if (stated !== type) throw fail(`says quant_type ${show(stated)}, its own name says ${type}`);
  const named = tree.get('dtype');
  const dtype = typeof named === 'string' ? WEIGHT_DTYPES.get(named) : undefined;
  if (dtype === undefined) throw fail(`says dtype ${show(named)}, not one of ${[...WEIGHT_DTYPES.keys()].join(', ')}`);
  const blocksize = whole(tree.get('blocksize'));
  if (blocksize === undefined) throw fail(`says blocksize ${show(tree.get('blocksize'))}, not a whole number from 1`);
  return { type, blocksize, dtype, shape: shapeOf(tree.get('shape'), fail), nested: nestedOf(tree, name, options, fail) };
}

function shapeOf(tree: JsonTree | undefined, fail: (problem: string) => LowbitError): readonly number[] {
  const extents = tree !== undefined && tree !== null && typeof tree === 'object' && isArray(tree) ? tree.map(whole) : [];
  const shape = extents.filter((extent) => extent !== undefined);
  const count = shape.reduce((product, extent) => product * extent, 1);
  if (shape.length === 0 || shape.length !== extents.length || !Number.isSafeInteger(count)) {
    throw fail(`says shape ${show(tree)}; the weight cannot be restored without one`);
  }
  return shape;
}

function nestedOf(
  tree: ReadonlyMap<string, JsonTree>,
  name: string,
  { allowNonFinite = false }: QuantStateOptions,
  fail: (problem: string) => LowbitError,
): NestedState | undefined {
  const [size, dtype, number] = [tree.get('nested_blocksize'), tree.get('nested_dtype'), tree.get('nested_offset')];
  if (size === undefined && dtype === undefined && number === undefined) return undefined;
  const blocksize = whole(size);
  if (blocksize === undefined) throw fail(`says nested_blocksize ${show(size)}, not a whole number from 1`);
  if (typeof dtype !== 'string') throw fail(`says nested_dtype ${show(dtype)}, not the name of a dtype`);
  if (!isNumber(number)) throw fail(`says nested_offset ${show(number)}, not a number`);
  const offset = Math.fround(Number(number.literal));
  if (Number.isFinite(offset) || allowNonFinite) return { blocksize, dtype, offset };
  throw new LowbitError('ERR_NON_FINITE', `${quote(name)} says nested_offset ${number.literal}`, {
    hint: 'The weight was not finite when it was quantized. Take another copy of the checkpoint; allowNonFinite: true takes it as it is.',
    details: { tensor: name },
  });
}

/** The text that Python writes for a state. */
export function quantStateText({ type, blocksize, dtype, shape, nested }: QuantState): string {
  return stateText({ type, blocksize, dtype, shape, nested: nested && { ...nested, offset: pythonFloat(nested.offset) } });
}

/** Most bytes that the text can take, whatever the offset. */
export function longestQuantState({ type, blocksize, dtype, shape, nested }: QuantState): number {
  return stateText({ type, blocksize, dtype, shape, nested: nested && { ...nested, offset: '0'.repeat(LONGEST_FLOAT) } }).length;
}

/** ASCII alone; separators and order of json.dumps over the library's dict. */
function stateText(
  state: Omit<QuantState, 'nested'> & { readonly nested: (Omit<NestedState, 'offset'> & { offset: string }) | undefined },
): string {
  const { type, blocksize, shape, nested } = state;
  const dtype = [...WEIGHT_DTYPES].find(([, known]) => known === state.dtype)![0];
  const fields = [`"quant_type": "${type}"`, `"blocksize": ${blocksize}`, `"dtype": "${dtype}"`, `"shape": [${shape.join(', ')}]`];
  if (nested) {
    fields.push(`"nested_blocksize": ${nested.blocksize}`, `"nested_dtype": "${nested.dtype}"`, `"nested_offset": ${nested.offset}`);
  }
  return `{${fields.join(', ')}}`;
}

/** The ERR_BAD_CHECKPOINT for a state that is not as bitsandbytes writes it. */
function badState(name: string, problem: string): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `${quote(name)} ${problem}`, {
    hint: 'The checkpoint is damaged, or was not written by bitsandbytes 0.41.3 or later. Fetch it again.',
    details: { tensor: name },
  });
}

/** A whole number from 1, written without point or exponent. */
function whole(tree: JsonTree | undefined): number | undefined {
  if (!isNumber(tree) || !/^[1-9][0-9]*$/.test(tree.literal)) return undefined;
  const value = Number(tree.literal);
  return Number.isSafeInteger(value) ? value : undefined;
}

/** A value for a message: short, and on one line. */
function show(tree: JsonTree | undefined): string {
  if (tree === undefined) return 'nothing';
  if (tree === null || typeof tree === 'boolean') return String(tree);
  if (typeof tree === 'string') return quote(tree);
  if (isNumber(tree)) return tree.literal.slice(0, 40);
  return isArray(tree) ? `[${tree.slice(0, 8).map(show).join(', ')}]` : 'an object';
}
