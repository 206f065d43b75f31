// Decoding token by token. A token may end in the middle of a character, and decoders treat the first token of a text unlike the rest, so the
// only safe way is to decode a short run of tokens again and give out what the last one added, once it ends in a whole character.

/** Turns token ids into text, piece by piece. */
export interface DecodeStream {
  /** The text that is certain after this token; empty while a character is incomplete. */
  push(id: number): string;
  /** The rest: replacement characters where the last character never became whole. */
  end(): string;
}

const INCOMPLETE = '\ufffd';
/**
 * Most ids that wait for a text to become certain, since each step decodes them all. A character has at most 4 bytes, so more than that wait only where
 * tokens have no text (special ones) or bytes are no UTF-8.
 */
const MAX_SILENT = 16;
const MAX_WAITING = 32;

/**
 * A stream over `decode`. The pieces together are `decode` of all ids (for invalid UTF-8 in the middle: up to the number of replacement characters).
 * After the algorithm of tokenizers' DecodeStream.
 */
export function decodeStream(decode: (ids: readonly number[]) => string): DecodeStream {
  let ids: number[] = [];
  let shown = ''; // text of the ids that were given out and are kept as context
  let context = 0; // how many ids that are

  const take = (text: string): string => {
    const piece = text.slice(text.startsWith(shown) ? shown.length : commonLength(text, shown));
    ids = ids.slice(context);
    context = ids.length;
    shown = decode(ids);
    return piece;
  };
  return {
    push(id) {
      ids.push(id);
      const text = decode(ids);
      const waiting = ids.length - context;
      if (text.length > shown.length && (!text.endsWith(INCOMPLETE) || waiting > MAX_WAITING)) return take(text);
      if (text.length <= shown.length && waiting > MAX_SILENT) ids.pop();
      return '';
    },
    end() {
      if (ids.length === context) return '';
      const text = decode(ids);
      return text.length > shown.length ? take(text) : '';
    },
  };
}

function commonLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}
