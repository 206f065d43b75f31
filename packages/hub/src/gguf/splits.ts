// How texts are split into words before byte-level BPE, by `tokenizer.ggml.pre`. The names are those of src/llama-vocab.cpp (llama.cpp, MIT); what they stand for is
// given as the tokenizer.json of the models has it, not as llama.cpp puts it for its own regex engine.

import type { JsonObject } from '@lowbit/core';

export interface Split {
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject;
  /** Words that are tokens are taken whole. */
  readonly ignoreMerges: boolean;
  /** Texts begin with a start token unless the file says otherwise. */
  readonly addBos: boolean;
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const UPPER = '\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}';
const LOWER = '\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}';
const cased = (after: string, digits: string): string =>
  [
    `[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]*[${LOWER}]+${after}`,
    `[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]+[${LOWER}]*${after}`,
    digits,
    ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
  ].join('|');

const byteLevel = (use_regex: boolean): JsonObject => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex });
const sequence = (...pretokenizers: JsonObject[]): JsonObject => ({ type: 'Sequence', pretokenizers });
const byRegex = (Regex: string): JsonObject =>
  sequence({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }, byteLevel(false));

const split = (preTokenizer: JsonObject, more: Partial<Split> = {}): Split => ({
  normalizer: null,
  preTokenizer,
  ignoreMerges: false,
  addBos: false,
  ...more,
});

const GPT2 = split(byteLevel(true));
const DIGITS = split(sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)));
const llama3 = (more: Partial<Split>): Split => split(byRegex(`${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|${REST}`), more);
const LLAMA3 = llama3({ ignoreMerges: true, addBos: true });
const QWEN2 = split(byRegex(`${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|${REST}`), { normalizer: { type: 'NFC' } });
const GPT4O = split(byRegex(cased(`${CONTRACTIONS}?`, '\\p{N}{1,3}')));
const TEKKEN = split(byRegex(cased('', '\\p{N}')), { ignoreMerges: true, addBos: true });

const SPLITS: Readonly<Record<string, Split>> = {
  'gpt-2': GPT2,
  'phi-2': GPT2,
  olmo: GPT2,
  smollm: DIGITS,
  starcoder: DIGITS,
  refact: DIGITS,
  codeshell: DIGITS,
  'llama-bpe': LLAMA3,
  llama3: LLAMA3,
  'llama-v3': LLAMA3,
  'smaug-bpe': llama3({}),
  dbrx: llama3({}),
  qwen2: QWEN2,
  'deepseek-r1-qwen': QWEN2,
  'gpt-4o': GPT4O,
  tekken: TEKKEN,
};

/** The split of that name, if it is known. */
export function splitOf(name: string): Split | undefined {
  return Object.hasOwn(SPLITS, name) ? SPLITS[name] : undefined;
}

/** Names that are known. */
export const SPLIT_NAMES: readonly string[] = Object.keys(SPLITS);
