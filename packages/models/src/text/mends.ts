// Where @huggingface/tokenizers 0.2 is known to differ from the Rust library, put right. Each was found by a test against the Rust library's ids or text.

import { ByteFallbackDecoder, ByteLevelPreTokenizer, DigitsPreTokenizer, type Tokenizer } from '@huggingface/tokenizers';

const BYTE = /^<0x([0-9A-Fa-f]{2})>$/;

/**
 * Tokens with every run of byte tokens (`<0xF0>` ...) replaced by its text; a run that is not valid UTF-8 as a whole gives one replacement character
 * for each of its bytes. The library decodes such runs leniently and drops a byte order mark.
 */
export function decodeByteRuns(tokens: readonly string[]): string[] {
  const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const out: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    try {
      out.push(strict.decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) out.push('\ufffd');
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = BYTE.exec(token)?.[1];
    if (byte !== undefined) run.push(Number.parseInt(byte, 16));
    else {
      flush();
      out.push(token);
    }
  }
  flush();
  return out;
}

/** Pieces of a text cut at its digits: every numeric character of Unicode (½, ², ٣), where the library knows 0 to 9 alone. */
export function splitDigits(text: string, { individual }: { readonly individual: boolean }): string[] {
  return text.match(individual ? /\P{N}+|\p{N}/gu : /\P{N}+|\p{N}+/gu) ?? [];
}

// White space as Unicode has it. JavaScript's \s has the byte order mark, too, and lacks U+0085.
const SPACE = '\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';

/** How the byte-level pre-tokenizer cuts a text (the pattern of GPT-2). */
const BYTE_LEVEL_PATTERN: RegExp = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`,
  'gu',
);

function visit(component: unknown, mend: (component: unknown) => void): void {
  mend(component);
  const { decoders, tokenizers } = (component ?? {}) as { readonly decoders?: unknown; readonly tokenizers?: unknown };
  for (const list of [decoders, tokenizers]) if (Array.isArray(list)) for (const inner of list) visit(inner, mend);
}

/** Corrects the components of a tokenizer, wherever they stand in its chains. */
export function mendTokenizer(tokenizer: Tokenizer): void {
  visit(tokenizer.decoder, (decoder) => {
    if (decoder instanceof ByteFallbackDecoder) decoder.decode_chain = decodeByteRuns;
  });
  visit(tokenizer.pre_tokenizer, (component) => {
    if (component instanceof ByteLevelPreTokenizer) component.pattern = BYTE_LEVEL_PATTERN;
    if (!(component instanceof DigitsPreTokenizer)) return;
    const { individual_digits: individual } = component.config as { readonly individual_digits?: boolean };
    component.pre_tokenize_text = (text) => splitDigits(text, { individual: individual === true });
  });
}
