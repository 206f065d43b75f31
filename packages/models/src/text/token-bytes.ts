// What each token adds to a text, as bytes: what constrained decoding needs to know of a vocabulary. Read from tokenizer.json itself, since the text
// of one token by itself loses bytes that are no whole characters, and spaces at a beginning.

import { type Json, type JsonObject, LowbitError } from '@lowbit/core';

/** Bytes by token id; undefined for ids without a token, special tokens, and tokens whose bytes are not certain. */
export type TokenBytes = readonly (Uint8Array | undefined)[];

const BYTE = /^<0x([0-9A-Fa-f]{2})>$/;
/** More are no vocabulary; an id above leaves a gap that long. */
const MAX_TOKENS = 2 ** 22;
const encoder = new TextEncoder();

const isObject = (value: Json | undefined): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value);

/** Decoders and the kinds inside their chains. */
function kinds(decoder: Json | undefined): JsonObject[] {
  if (!isObject(decoder)) return [];
  const { decoders } = decoder;
  return Array.isArray(decoders) ? (decoders as readonly Json[]).flatMap(kinds) : [decoder];
}

/** The printable stand-ins of GPT-2 for bytes: printable Latin-1 characters are themselves, the other bytes in order follow from U+0100. */
function byteOfCharacter(): ReadonlyMap<string, number> {
  const map = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return map;
}

function byteLevel(): (token: string) => Uint8Array | undefined {
  const map = byteOfCharacter();
  return (token) => {
    const bytes = Array.from(token, (character) => map.get(character));
    return bytes.includes(undefined) ? undefined : Uint8Array.from(bytes as number[]);
  };
}

function pieces(space: string, byteFallback: boolean): (token: string) => Uint8Array | undefined {
  return (token) => {
    const byte = byteFallback ? BYTE.exec(token)?.[1] : undefined;
    if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16));
    return encoder.encode(token.replaceAll(space, ' '));
  };
}

/** How a token's spelling becomes bytes. */
function spellingOf(json: JsonObject): (token: string) => Uint8Array | undefined {
  const chain = kinds(json.decoder);
  const types = chain.map(({ type }) => type);
  if (types.includes('ByteLevel')) return byteLevel();
  const metaspace = chain.find(({ type }) => type === 'Metaspace');
  const replaces = chain.some(({ type, content }) => type === 'Replace' && content === ' ');
  if (metaspace || replaces) {
    return pieces(typeof metaspace?.replacement === 'string' ? metaspace.replacement : '\u2581', types.includes('ByteFallback'));
  }
  throw new LowbitError(
    'ERR_TOKENIZER',
    `tokens of this tokenizer are not told by their bytes: its decoder is ${types.join(', ') || 'none'}`,
    {
      hint: 'Byte-level tokenizers (Llama 3, Qwen, GPT-2) and those of SentencePiece (Llama 2, Mistral, Gemma, T5) are.',
      details: { decoders: types },
    },
  );
}

function* spelled(model: JsonObject): Generator<[token: string, id: Json]> {
  const { vocab } = model;
  if (Array.isArray(vocab)) for (const [id, entry] of vocab.entries()) yield [String(Array.isArray(entry) ? entry[0] : entry), id];
  else if (typeof vocab === 'object' && vocab !== null) yield* Object.entries(vocab);
}

/** Reads the vocabulary of tokenizer.json. Throws ERR_TOKENIZER for decoders that make a token's text depend on its neighbours, and for absurd ids. */
export function tokenBytes(json: JsonObject): TokenBytes {
  const bytesOf = spellingOf(json);
  const found: (Uint8Array | undefined)[] = [];
  const put = (id: Json | undefined, bytes: Uint8Array | undefined): void => {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= MAX_TOKENS) {
      throw new LowbitError('ERR_TOKENIZER', `tokenizer.json has a token with the id ${JSON.stringify(id)}`, { details: { id } });
    }
    while (found.length < id) found.push(undefined);
    found[id] = bytes?.length === 0 ? undefined : bytes;
  };
  const { model, added_tokens: added } = json;
  if (isObject(model)) for (const [token, id] of spelled(model)) put(id, bytesOf(token));
  for (const token of (Array.isArray(added) ? added : []) as readonly Json[]) {
    if (!isObject(token)) continue;
    // Decoders pass added tokens on as they are written, or not: only where both are the same are their bytes certain.
    const certain = token.special !== true && typeof token.content === 'string' && /^[\x21-\x7e]+$/.test(token.content);
    put(token.id, certain ? encoder.encode(token.content as string) : undefined);
  }
  return found;
}
