// Reading bits, and codes of variable length, of a scan. ITU-T T.81, annex F.

import { bad } from './bad.ts';

/** Codes by length: the largest of each, and where its values begin; short ones are looked up. */
export interface HuffmanTable {
  readonly largest: Int32Array;
  readonly offset: Int32Array;
  readonly values: Uint8Array;
  /** By the next 8 bits: length << 8 | value, 0 for longer codes. */
  readonly short: Uint16Array;
}

/** Undefined for counts that no code has. */
export function huffmanTable(counts: Uint8Array, values: Uint8Array): HuffmanTable | undefined {
  const largest = new Int32Array(18).fill(-1);
  const offset = new Int32Array(18);
  const short = new Uint16Array(256);
  let code = 0;
  let at = 0;
  for (let length = 1; length <= 16; length++, code <<= 1) {
    const count = counts[length - 1]!;
    if (code + count > 1 << length) return undefined;
    offset[length] = at - code;
    for (let i = 0; i < count; i++, code++, at++) {
      if (length > 8) continue;
      short.fill((length << 8) | values[at]!, code << (8 - length), (code + 1) << (8 - length));
    }
    if (count > 0) largest[length] = code - 1;
  }
  return { largest, offset, values: values.slice(), short };
}

/** Bits of the coded pixels, from a place of the file on: 0xff is followed by 0, or is a mark and ends them. */
export class BitReader {
  readonly #bytes: Uint8Array;
  /** The next byte. */
  at: number;
  #held = 0;
  #count = 0;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  /** So many bits, at most 16. Throws ERR_BAD_IMAGE where there are no more. */
  bits(count: number): number {
    if (count === 0) return 0;
    while (this.#count < count) if (!this.#tryFill()) throw bad('ends within its pixels');
    this.#count -= count;
    return (this.#held >> this.#count) & ((1 << count) - 1);
  }

  /** A number of so many bits, the lower half of them negative. */
  signed(count: number): number {
    const value = this.bits(count);
    return count > 0 && value < 1 << (count - 1) ? value - (1 << count) + 1 : value;
  }

  /** The next code's value. */
  code({ largest, offset, values, short }: HuffmanTable): number {
    if (this.#count < 8) this.#tryFill();
    if (this.#count >= 8) {
      const found = short[(this.#held >> (this.#count - 8)) & 255]!;
      if (found !== 0) {
        this.#count -= found >> 8;
        return found & 255;
      }
    }
    let code = 0;
    for (let length = 1; length <= 16; length++) {
      code = (code << 1) | this.bits(1);
      if (code <= largest[length]!) return values[offset[length]! + code]!;
    }
    throw bad('has a code that is in no table');
  }

  /** Drops what is left of a byte, and goes past the mark between two stretches of a scan. */
  restart(): void {
    this.#count = 0;
    const [mark, which] = [this.#bytes[this.at], this.#bytes[this.at + 1]];
    if (mark !== 0xff || which === undefined || which < 0xd0 || which > 0xd7) throw bad('lacks a mark within its pixels');
    this.at += 2;
  }

  #tryFill(): boolean {
    const byte = this.#bytes[this.at];
    if (byte === undefined || (byte === 0xff && this.#bytes[this.at + 1] !== 0)) return false;
    this.at += byte === 0xff ? 2 : 1;
    this.#held = ((this.#held << 8) | byte) & 0xffffff;
    this.#count += 8;
    return true;
  }
}
