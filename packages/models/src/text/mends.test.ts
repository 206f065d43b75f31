// Expected values are those of the Rust library (tokenizers 0.23.3).

import { expect, test } from 'vitest';
import { decodeByteRuns, splitDigits } from './mends.ts';
import { createTokenizer } from './tokenizer.ts';

/** A byte-level tokenizer whose tokens are single bytes: pieces show as what merges could not cross, so the vocabulary has two merges. */
const byteLevel = (preTokenizer: object) => {
  const letters = Object.fromEntries(
    ['Ġ', 'Â', '½', 'Ļ', 'Ċ', 'Ħ', 'ï', '»', '¿', '1', '2', '0', 'a', 'ĠÂ', 'ĊĊ', '12'].map((token, id) => [token, id]),
  );
  return createTokenizer({
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: preTokenizer as never,
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: {
      type: 'BPE',
      vocab: letters,
      merges: [
        ['Ġ', 'Â'],
        ['Ċ', 'Ċ'],
        ['1', '2'],
      ],
    },
  });
};
const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
const digits = { type: 'Digits', individual_digits: true };

test('Digits cuts at every numeric character of Unicode', () => {
  const tokenizer = byteLevel({ type: 'Sequence', pretokenizers: [digits, bytes] });
  expect(tokenizer.encode('a ½')).toEqual([12, 0, 1, 2]); // without the cut: 'ĠÂ' in one
  expect(tokenizer.encode('12')).toEqual([9, 10]);
  expect(splitDigits('ab12 ½٣x', { individual: false })).toEqual(['ab', '12', ' ', '½٣', 'x']);
  expect(splitDigits('', { individual: true })).toEqual([]);
});

test('ByteLevel takes white space from Unicode, not from JavaScript', () => {
  const tokenizer = byteLevel(bytes);
  expect(tokenizer.encode('\n\n\ufeff')).toEqual([4, 4, 6, 7, 8]); // the mark is no white space: the last line end stays apart
  expect(tokenizer.encode('\n\n')).toEqual([14]);
});

test('runs of byte tokens', () => {
  const run = (...values: number[]) => values.map((value) => `<0x${value.toString(16).toUpperCase().padStart(2, '0')}>`);
  expect(decodeByteRuns(['a', ...run(0xc3, 0xa9), 'b'])).toEqual(['a', 'é', 'b']);
  expect(decodeByteRuns(run(0xc3, 0xa9, 0xf0, 0x9f))).toEqual(['\ufffd', '\ufffd', '\ufffd', '\ufffd']);
  expect(decodeByteRuns(run(0xef, 0xbb, 0xbf, 0x61))).toEqual(['\ufeffa']);
  expect(decodeByteRuns(['<0xZZ>', '<0x1>'])).toEqual(['<0xZZ>', '<0x1>']);
});
