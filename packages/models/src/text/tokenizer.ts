// Text to token ids and back, from a checkpoint's files. Decoding never "cleans up" spaces before punctuation, whatever tokenizer_config.json says:
// that would make text depend on what follows it, which a stream cannot, and code would lose its spaces.

import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers';
import { type Json, type JsonObject, LowbitError } from '@lowbit/core';
import { type ChatMessage, type ChatTemplateOptions, chatRenderer, chatTemplates } from './chat-template.ts';
import { type DecodeStream, decodeStream } from './decode-stream.ts';
import { jsonFile, type TextFiles, textFile } from './files.ts';
import { mendTokenizer } from './mends.ts';
import { type TokenBytes, tokenBytes } from './token-bytes.ts';

/** Texts to token ids and back. */
export interface Tokenizer {
  /** Token ids of a text. `addSpecialTokens` (default true) adds what the tokenizer puts around a text, such as a start token. */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /** Text of token ids. `skipSpecialTokens` (default true) leaves out start, end and role tokens. */
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecialTokens?: boolean }): string;
  /** Text piece by piece; pieces end between characters. */
  decodeStream(options?: { readonly skipSpecialTokens?: boolean }): DecodeStream;
  /** The text of a conversation, to be encoded with `addSpecialTokens: false`. Throws ERR_TOKENIZER without a template or with its own message. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string;
  /** The bytes that each token adds to a text, for constrained decoding. Throws ERR_TOKENIZER where they depend on the tokens around it. */
  tokenBytes(): TokenBytes;
  /** Id of a token by its exact spelling. */
  tokenId(token: string): number | undefined;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  /** Names of the chat templates, `default` first if there is one. */
  readonly chatTemplates: readonly string[];
}

const RULES = { maxBytes: 64 * 2 ** 20, code: 'ERR_TOKENIZER' } as const;
const SMALL = { maxBytes: 4 * 2 ** 20, code: 'ERR_TOKENIZER' } as const;
/** Characters of one text; a tokenizer takes several bytes for each. */
const MAX_TEXT = 64 * 2 ** 20;

/** The spelling of a special token in tokenizer_config.json or special_tokens_map.json: a string, or an object with `content`. */
function spelling(value: Json | undefined): string | undefined {
  if (typeof value === 'string') return value;
  const content = typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject).content : undefined;
  return typeof content === 'string' ? content : undefined;
}

function specialTokens(map: JsonObject, config: JsonObject): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const source of [map, config]) {
    for (const [key, value] of Object.entries(source)) {
      const token = key.endsWith('_token') ? spelling(value) : undefined;
      if (token !== undefined) tokens[key] = token;
    }
  }
  return tokens;
}

function construct(json: JsonObject, config: JsonObject): HfTokenizer {
  if (!Array.isArray(json?.added_tokens))
    throw new LowbitError('ERR_TOKENIZER', 'tokenizer.json has no list added_tokens', { details: { file: 'tokenizer.json' } });
  return guarded(() => {
    const tokenizer = new HfTokenizer(json, config);
    mendTokenizer(tokenizer);
    return tokenizer;
  });
}

/** The library checks its input little: whatever it throws is the fault of tokenizer.json. */
function guarded<T>(body: () => T): T {
  try {
    return body();
  } catch (cause) {
    throw new LowbitError('ERR_TOKENIZER', `tokenizer.json cannot be used: ${(cause as Error).message}`, {
      hint: 'Its kind may not be supported, or the file is damaged.',
      details: { file: 'tokenizer.json' },
      cause,
    });
  }
}

/**
 * Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja (or chat_template.json). Throws ERR_TOKENIZER where tokenizer.json is missing or
 * any of them malformed, ERR_LIMIT where one is too large.
 */
export async function loadTokenizer(source: TextFiles): Promise<Tokenizer> {
  if (typeof source?.file !== 'function') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'loadTokenizer needs a checkpoint', {
      hint: "Pass await openCheckpoint('./model') of @lowbit/hub.",
    });
  }
  const json = await jsonFile(source, 'tokenizer.json', RULES);
  if (!json) {
    throw new LowbitError('ERR_TOKENIZER', `${source.label} has no tokenizer.json`, {
      hint: 'Pass token ids instead of text, or add the tokenizer files of the original model.',
      details: { file: 'tokenizer.json' },
    });
  }
  const [config = {}, map = {}, template] = await Promise.all([
    jsonFile(source, 'tokenizer_config.json', SMALL),
    jsonFile(source, 'special_tokens_map.json', SMALL),
    textFile(source, 'chat_template.jinja', SMALL),
  ]);
  return createTokenizer(json, config, { specialTokensMap: map, chatTemplate: template ?? (await processorTemplate(source)) });
}

/** Processors of images and text keep the template in a file of their own. */
async function processorTemplate(source: TextFiles): Promise<string | undefined> {
  const template = (await jsonFile(source, 'chat_template.json', SMALL))?.chat_template;
  return typeof template === 'string' ? template : undefined;
}

/** A tokenizer from parsed files: tokenizer.json and tokenizer_config.json. Throws ERR_TOKENIZER. */
export function createTokenizer(
  json: JsonObject,
  config: JsonObject = {},
  options: { readonly specialTokensMap?: JsonObject; readonly chatTemplate?: string | undefined } = {},
): Tokenizer {
  const tokenizer = construct(json, config);
  const special = specialTokens(options.specialTokensMap ?? {}, config);
  const templates = chatTemplates(options.chatTemplate, config);
  const id = (name: string): number | undefined => (special[name] === undefined ? undefined : tokenizer.token_to_id(special[name]));

  const decode = (ids: ArrayLike<number>, skip: boolean): string => {
    if (ids.length === 0) return ''; // the library refuses an empty list
    const unknown = Array.prototype.find.call(ids, (token: number) => !Number.isInteger(token) || token < 0);
    if (unknown !== undefined) throw new LowbitError('ERR_BAD_ARGUMENT', `${unknown} is not a token id`, { details: { id: unknown } });
    // Ids past the vocabulary (padded heads have them) have no text.
    const known = Array.from(ids).filter((token) => tokenizer.id_to_token(token) !== undefined);
    if (known.length === 0) return '';
    return guarded(() => tokenizer.decode(known, { skip_special_tokens: skip, clean_up_tokenization_spaces: false }));
  };
  return {
    encode(text, { addSpecialTokens = true } = {}) {
      if (typeof text !== 'string') throw new LowbitError('ERR_BAD_ARGUMENT', 'the text to encode is not a string');
      if (text.length > MAX_TEXT) throw new LowbitError('ERR_LIMIT', `text of ${text.length} characters, at most ${MAX_TEXT} at once`);
      const ids: (number | undefined)[] = guarded(() => tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids);
      if (!ids.includes(undefined)) return ids as number[];
      throw new LowbitError('ERR_TOKENIZER', 'the text has characters that this tokenizer has no token for', {
        details: { at: ids.indexOf(undefined) },
      });
    },
    decode: (ids, { skipSpecialTokens = true } = {}) => decode(ids, skipSpecialTokens),
    decodeStream: ({ skipSpecialTokens = true } = {}) => decodeStream((ids) => decode(ids, skipSpecialTokens)),
    applyChatTemplate: chatRenderer(templates, special),
    tokenBytes: () => tokenBytes(json),
    tokenId: (token) => tokenizer.token_to_id(token),
    bosId: id('bos_token'),
    eosId: id('eos_token'),
    chatTemplates: [...templates.keys()].sort((a, b) => Number(b === 'default') - Number(a === 'default')),
  };
}
