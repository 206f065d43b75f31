// tokenizer.json and tokenizer_config.json of a GGUF file: byte-level BPE (`gpt2`) from its tokens and merges, SentencePiece BPE (`llama`) from its tokens and scores.

import { type Json, type JsonObject, LowbitError, quote } from '@lowbit/core';
import type { GgufMetadata } from './metadata.ts';
import { SPLIT_NAMES, splitOf } from './splits.ts';

/** Values of tokenizer.ggml.token_type (llama_token_type of llama.h). */
const KIND = { unknown: 2, control: 3, userDefined: 4 } as const;
const SPACE = '▁';

export interface TokenizerFiles {
  readonly tokenizer: JsonObject;
  readonly config: JsonObject;
}

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly kinds: ArrayLike<number>;
  readonly ids: ReadonlyMap<string, number>;
}

/** Undefined for a file without a tokenizer. Throws ERR_TOKENIZER for one of a kind that is not known here, or that contradicts itself. */
export function ggufTokenizer(meta: GgufMetadata): TokenizerFiles | undefined {
  const kind = meta.text('.tokenizer.ggml.model');
  if (kind === undefined || kind === 'none' || kind === 'no_vocab') return undefined;
  const vocabulary = readVocabulary(meta);
  if (kind === 'gpt2') return byteLevelTokenizer(meta, vocabulary);
  if (kind === 'llama') return piecesTokenizer(meta, vocabulary);
  throw unknownTokenizer(meta, `a tokenizer of the kind ${quote(kind)}`, 'gpt2 (byte-level BPE) and llama (SentencePiece BPE)');
}

function readVocabulary(meta: GgufMetadata): Vocabulary {
  const tokens = meta.texts('.tokenizer.ggml.tokens');
  if (tokens === undefined || tokens.length === 0) throw badTokenizer(meta, 'it has no tokenizer.ggml.tokens');
  const kinds = meta.numbers('.tokenizer.ggml.token_type') ?? new Int32Array(tokens.length).fill(1);
  if (kinds.length !== tokens.length) throw badTokenizer(meta, `it has ${tokens.length} tokens and the types of ${kinds.length}`);
  const ids = new Map<string, number>();
  // Of tokens that are spelled alike the first counts, as it does to llama.cpp.
  for (const [id, token] of tokens.entries()) if (!ids.has(token)) ids.set(token, id);
  return { tokens, kinds, ids };
}

function byteLevelTokenizer(meta: GgufMetadata, vocabulary: Vocabulary): TokenizerFiles {
  const pre = meta.text('.tokenizer.ggml.pre') ?? 'default';
  const split = splitOf(pre);
  if (split === undefined)
    throw unknownTokenizer(meta, `texts split in the way ${quote(pre)} (tokenizer.ggml.pre)`, SPLIT_NAMES.join(', '));
  const merges = (meta.texts('.tokenizer.ggml.merges') ?? []).map((merge) => {
    // A token may begin with the space: no byte-level token has one further on.
    const at = merge.indexOf(' ', 1);
    if (at < 0) throw badTokenizer(meta, `the merge ${quote(merge)} is not of two tokens`);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
  const addBos = meta.flag('.tokenizer.ggml.add_bos_token') ?? split.addBos;
  return {
    tokenizer: {
      ...common(meta, vocabulary, addBos),
      normalizer: split.normalizer,
      pre_tokenizer: split.preTokenizer,
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { ...BPE, ignore_merges: split.ignoreMerges, vocab: Object.fromEntries(vocabulary.ids), merges },
    },
    config: tokenizerConfig(meta, vocabulary, addBos),
  };
}

function piecesTokenizer(meta: GgufMetadata, vocabulary: Vocabulary): TokenizerFiles {
  const { tokens, kinds, ids } = vocabulary;
  const scores = meta.numbers('.tokenizer.ggml.scores');
  if (scores?.length !== tokens.length) throw badTokenizer(meta, `it has ${tokens.length} tokens and the scores of ${scores?.length ?? 0}`);
  if (Array.prototype.some.call(scores, Number.isNaN)) throw badTokenizer(meta, 'a score is NaN');
  const unknown = meta.whole('.tokenizer.ggml.unknown_token_id') ?? Array.from(kinds).indexOf(KIND.unknown);
  const prefix = meta.flag('.tokenizer.ggml.add_space_prefix') ?? true;
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: SPACE };
  const unspace = [{ type: 'Replace', pattern: { String: SPACE }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }];
  const addBos = meta.flag('.tokenizer.ggml.add_bos_token') ?? true;
  return {
    tokenizer: {
      ...common(meta, vocabulary, addBos),
      normalizer: prefix ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: SPACE }, replace] } : replace,
      pre_tokenizer: null,
      decoder: { type: 'Sequence', decoders: prefix ? [...unspace, { type: 'Strip', content: ' ', start: 1, stop: 0 }] : unspace },
      model: {
        ...BPE,
        unk_token: tokens[unknown] ?? null,
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        vocab: Object.fromEntries(ids),
        merges: mergesOf(vocabulary, scores),
      },
    },
    config: tokenizerConfig(meta, vocabulary, addBos),
  };
}

/**
 * The merges of SentencePiece's BPE, which stores none: two neighbours become the token of both, best score first (llm_tokenizer_spm of llama-vocab.cpp). So each
 * way to cut a token into two is a merge, ranked by the token's score.
 */
function mergesOf({ kinds, ids }: Vocabulary, scores: ArrayLike<number>): [string, string][] {
  const merges: { readonly pair: [string, string]; readonly score: number; readonly left: number; readonly right: number }[] = [];
  for (const [token, id] of ids) {
    const kind = kinds[id]!;
    if (kind === KIND.control || kind === KIND.unknown || token.length > MAX_PIECE) continue;
    const characters = [...token];
    let left = '';
    for (let i = 1; i < characters.length; i++) {
      left += characters[i - 1]!;
      const right = token.slice(left.length);
      const [a, b] = [ids.get(left), ids.get(right)];
      if (a !== undefined && b !== undefined) merges.push({ pair: [left, right], score: scores[id]!, left: a, right: b });
    }
  }
  return merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right).map(({ pair }) => pair);
}

/** Longer pieces (there are none) would make quadratic work. */
const MAX_PIECE = 512;

const BPE = {
  type: 'BPE',
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
};

/** What both kinds have: tokens that are found before anything else, and what is put around a text. */
function common(meta: GgufMetadata, { tokens, kinds }: Vocabulary, addBos: boolean): JsonObject {
  const added: Json[] = [];
  for (let id = 0; id < tokens.length; id++) {
    const kind = kinds[id];
    if (kind !== KIND.unknown && kind !== KIND.control && kind !== KIND.userDefined) continue;
    const special = kind !== KIND.userDefined;
    added.push({ id, content: tokens[id]!, single_word: false, lstrip: false, rstrip: false, normalized: false, special });
  }
  const bos = addBos ? specialToken(meta, tokens, 'bos_token_id') : undefined;
  const eos = meta.flag('.tokenizer.ggml.add_eos_token') ? specialToken(meta, tokens, 'eos_token_id') : undefined;
  return { version: '1.0', truncation: null, padding: null, added_tokens: added, post_processor: template(bos, eos) };
}

type SpecialToken = readonly [id: number, token: string];

function template(bos: SpecialToken | undefined, eos: SpecialToken | undefined): JsonObject | null {
  if (bos === undefined && eos === undefined) return null;
  const put = (token: SpecialToken | undefined, type_id: number) => (token ? [{ SpecialToken: { id: token[1], type_id } }] : []);
  const around = (sequence: string, type_id: number) => [
    ...put(bos, type_id),
    { Sequence: { id: sequence, type_id } },
    ...put(eos, type_id),
  ];
  const used = [bos, eos].filter((token) => token !== undefined);
  return {
    type: 'TemplateProcessing',
    single: around('A', 0),
    pair: [...around('A', 0), ...around('B', 1)],
    special_tokens: Object.fromEntries(used.map(([id, token]) => [token, { id: token, ids: [id], tokens: [token] }])),
  };
}

function specialToken(meta: GgufMetadata, tokens: readonly string[], key: string): SpecialToken | undefined {
  const id = meta.whole(`.tokenizer.ggml.${key}`);
  if (id === undefined) return undefined;
  const token = tokens[id];
  if (token === undefined) throw badTokenizer(meta, `tokenizer.ggml.${key} is ${id}, and it has ${tokens.length} tokens`);
  return [id, token];
}

const SPECIAL = {
  bos_token: 'bos_token_id',
  eos_token: 'eos_token_id',
  unk_token: 'unknown_token_id',
  pad_token: 'padding_token_id',
} as const;

function tokenizerConfig(meta: GgufMetadata, { tokens }: Vocabulary, addBos: boolean): JsonObject {
  const special: Record<string, string> = {};
  for (const [name, key] of Object.entries(SPECIAL)) {
    const token = specialToken(meta, tokens, key);
    if (token !== undefined) [, special[name]] = token;
  }
  const one = meta.text('.tokenizer.chat_template');
  const named = (meta.texts('.tokenizer.chat_templates') ?? []).flatMap((name) => {
    const more = meta.text(`.tokenizer.chat_template.${name}`);
    return more === undefined ? [] : [{ name, template: more }];
  });
  const templates: Json | undefined =
    named.length === 0 ? one : [...(one === undefined ? [] : [{ name: 'default', template: one }]), ...named];
  return {
    add_bos_token: addBos,
    add_eos_token: meta.flag('.tokenizer.ggml.add_eos_token') ?? false,
    ...special,
    ...(templates === undefined ? {} : { chat_template: templates }),
    clean_up_tokenization_spaces: false,
    model_max_length: meta.count('context_length'),
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
}

function badTokenizer({ file }: GgufMetadata, problem: string): LowbitError {
  return new LowbitError('ERR_TOKENIZER', `${file}: ${problem}`, { hint: 'The file is damaged: fetch it again.', details: { file } });
}

function unknownTokenizer({ file, architecture }: GgufMetadata, what: string, known: string): LowbitError {
  return new LowbitError('ERR_TOKENIZER', `${file} (${architecture}) has ${what}, which is not known here`, {
    hint: `Known are ${known}. Pass token ids instead of text, or start from the safetensors version of the model.`,
    details: { file, architecture },
  });
}
