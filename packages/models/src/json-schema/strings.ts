// The inside of a JSON string, byte by byte: well-formed UTF-8 and escapes, of which only whole characters are counted.

/** Between two characters. */
export const PLAIN = 0;
const ESCAPE = 1; // after a backslash
const HEX_FIRST = 2; // after \u; surrogates are not written
const HEX_D = 3; // after \ud: 0 to 7
const HEX_2 = 4; // two more hexadecimal digits; HEX_3 and HEX_1 are that many
const HEX_3 = 5;
const HEX_1 = 6;
const TAIL_1 = 7; // one more continuation byte
const TAIL_2 = 8;
const TAIL_3 = 9;
const AFTER_E0 = 10; // bounds of the second byte: no overlong forms, no surrogates, nothing above U+10FFFF
const AFTER_ED = 11;
const AFTER_F0 = 12;
const AFTER_F4 = 13;

const SIMPLE = new Set(Array.from('"\\/bfnrt', (character) => character.charCodeAt(0)));

const isHex = (byte: number): boolean => (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x46) || (byte >= 0x61 && byte <= 0x66);
const within = (byte: number, low: number, high: number, next: number): number => (byte >= low && byte <= high ? next : -1);

/** The state after a byte that begins a character of a string, a quotation mark aside; -1 for what cannot stand there. */
function first(byte: number): number {
  if (byte === 0x5c) return ESCAPE;
  if (byte < 0x20 || byte === 0x22) return -1;
  if (byte < 0x80) return PLAIN;
  if (byte < 0xc2) return -1;
  if (byte < 0xe0) return TAIL_1;
  if (byte < 0xf0) return byte === 0xe0 ? AFTER_E0 : byte === 0xed ? AFTER_ED : TAIL_2;
  if (byte < 0xf5) return byte === 0xf0 ? AFTER_F0 : byte === 0xf4 ? AFTER_F4 : TAIL_3;
  return -1;
}

/** The state after one more byte, quotation marks aside; -1 for what cannot stand there. A character begins wherever `state` is PLAIN. */
export function stringByte(state: number, byte: number): number {
  switch (state) {
    case PLAIN:
      return first(byte);
    case ESCAPE:
      return byte === 0x75 ? HEX_FIRST : SIMPLE.has(byte) ? PLAIN : -1;
    case HEX_FIRST:
      return isHex(byte) ? ((byte | 0x20) === 0x64 ? HEX_D : HEX_3) : -1;
    case HEX_D:
      return within(byte, 0x30, 0x37, HEX_2);
    case HEX_3:
      return isHex(byte) ? HEX_2 : -1;
    case HEX_2:
      return isHex(byte) ? HEX_1 : -1;
    case HEX_1:
      return isHex(byte) ? PLAIN : -1;
    case TAIL_1:
      return within(byte, 0x80, 0xbf, PLAIN);
    case TAIL_2:
      return within(byte, 0x80, 0xbf, TAIL_1);
    case TAIL_3:
      return within(byte, 0x80, 0xbf, TAIL_2);
    case AFTER_E0:
      return within(byte, 0xa0, 0xbf, TAIL_1);
    case AFTER_ED:
      return within(byte, 0x80, 0x9f, TAIL_1);
    case AFTER_F0:
      return within(byte, 0x90, 0xbf, TAIL_2);
    default:
      return within(byte, 0x80, 0x8f, TAIL_2);
  }
}

/** Characters of a token that fits into any string as it is: whole ones, no escapes; -1 for other tokens. */
export function plainLength(token: Uint8Array): number {
  let state = PLAIN;
  let length = 0;
  for (const byte of token) {
    if (state === PLAIN) length++;
    state = byte === 0x5c ? -1 : stringByte(state, byte);
    if (state < 0) return -1;
  }
  return state === PLAIN ? length : -1;
}
