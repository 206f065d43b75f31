// The tokens of a vocabulary in the order of their bytes, so that those with a common beginning are tried together, and which of them may come next.

import { LowbitError } from '@lowbit/core';
import type { TokenBytes } from '../text/token-bytes.ts';
import { type Frame, keyOf, type Machine } from './machine.ts';
import { PLAIN, plainLength } from './strings.ts';

/** Masks that are kept: states recur, above all the inside of a string. */
const KEPT = 128;

interface Sorted {
  readonly ids: Int32Array;
  /** All bytes, and where each token's begin. */
  readonly bytes: Uint8Array;
  readonly starts: Int32Array;
  /** Bytes that a token has in common with the one before. */
  readonly common: Uint16Array;
}

const LONGEST = 2 ** 15;

/** Sorted as one-byte strings, which engines compare fast. */
function sorted(tokens: readonly (readonly [text: string, id: number])[]): Sorted {
  const order = [...tokens].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const starts = new Int32Array(order.length + 1);
  for (const [i, [text]] of order.entries()) starts[i + 1] = starts[i]! + text.length;
  const bytes = new Uint8Array(starts[order.length]!);
  const common = new Uint16Array(order.length);
  let last = '';
  for (const [i, [text]] of order.entries()) {
    for (let k = 0; k < text.length; k++) bytes[starts[i]! + k] = text.charCodeAt(k);
    let same = 0;
    while (same < last.length && same < text.length && last.charCodeAt(same) === text.charCodeAt(same)) same++;
    common[i] = same;
    last = text;
  }
  return { ids: Int32Array.from(order, ([, id]) => id), bytes, starts, common };
}

const isWhole = (token: Uint8Array): boolean => {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(token);
    return true;
  } catch {
    return false;
  }
};

/** A vocabulary, ready to be asked. */
export class Vocabulary {
  /** Ids from 0; a mask has a bit for each. */
  readonly size: number;
  /** Some bytes have no token of their own: only ASCII can be promised. */
  readonly ascii: boolean;
  readonly #tokens: readonly (Uint8Array | undefined)[];
  readonly #all: Sorted;
  /** Tokens that are more than characters of a string, or less. */
  readonly #unlike: Sorted;
  /** The others, shortest first, and their lengths in characters. */
  readonly #plain: readonly { readonly id: number; readonly length: number }[];

  /** Throws ERR_TOKENIZER for a vocabulary that cannot write every ASCII character. */
  constructor(tokens: TokenBytes) {
    const single = new Set(tokens.filter((token) => token?.length === 1).map((token) => token![0]!));
    const missing = Array.from({ length: 0x7f - 0x20 }, (_, i) => i + 0x20).find((byte) => !single.has(byte));
    if (missing !== undefined) {
      throw new LowbitError(
        'ERR_TOKENIZER',
        `the vocabulary has no token for ${JSON.stringify(String.fromCharCode(missing))}, so not every JSON text can be written`,
        {
          details: { byte: missing },
        },
      );
    }
    // 0xc0, 0xc1 and those above 0xf4 are in no text.
    this.ascii = Array.from({ length: 0xf5 - 0x80 }, (_, i) => i + 0x80).some(
      (byte) => byte !== 0xc0 && byte !== 0xc1 && !single.has(byte),
    );
    this.#tokens = tokens.map((token) => (token && token.length <= LONGEST && !(this.ascii && !isWhole(token)) ? token : undefined));
    this.size = tokens.length;
    const texts: [text: string, id: number, plain: number][] = [];
    for (const [id, token] of this.#tokens.entries()) {
      // In pieces: an argument list has a limit.
      if (token)
        texts.push([
          Array.from(token, (byte) => String.fromCharCode(byte)).join(''),
          id,
          this.ascii && token.some((byte) => byte > 0x7e) ? -1 : plainLength(token),
        ]);
    }
    this.#all = sorted(texts.map(([text, id]) => [text, id]));
    this.#unlike = sorted(texts.filter(([, , plain]) => plain < 0).map(([text, id]) => [text, id]));
    this.#plain = texts
      .filter(([, , plain]) => plain >= 0)
      .map(([, id, length]) => ({ id, length }))
      .sort((a, b) => a.length - b.length);
  }

  /** The bytes of a token; undefined for what never comes in a text. */
  bytes(id: number): Uint8Array | undefined {
    return this.#tokens[id];
  }

  /** A bit for each token that may come next. */
  mask(machine: Machine, frames: readonly Frame[]): Uint32Array {
    const mask = new Uint32Array(Math.ceil(this.size / 32));
    const room = roomOf(frames);
    if (room >= 0) {
      for (const { id, length } of this.#plain) {
        if (length > room) break;
        mask[id >>> 5]! |= 1 << (id & 31);
      }
    }
    walk(room >= 0 ? this.#unlike : this.#all, machine, frames, mask);
    return mask;
  }
}

/** Characters that still fit, where all that is expected is more of a string; else -1. */
function roomOf(frames: readonly Frame[]): number {
  let room = frames.length > 0 ? 0 : -1;
  for (const frame of frames) {
    if (frame.kind !== 'string' || frame.state !== PLAIN) return -1;
    room = Math.max(room, frame.schema.max - frame.count);
  }
  return room;
}

function walk({ ids, bytes, starts, common }: Sorted, machine: Machine, frames: readonly Frame[], mask: Uint32Array): void {
  const path: (readonly Frame[])[] = [frames]; // after so many bytes of the last token that was tried
  let alive = 0; // bytes of it that can stand
  for (let i = 0; i < ids.length; i++) {
    let depth = common[i]!;
    if (depth > alive) continue; // it begins as that one failed
    const start = starts[i]!;
    const length = starts[i + 1]! - start;
    while (depth < length) {
      const next = machine.step(path[depth]!, bytes[start + depth]!);
      if (next.length === 0) break;
      path[++depth] = next;
    }
    alive = depth;
    const id = ids[i]!;
    if (depth === length) mask[id >>> 5]! |= 1 << (id & 31);
  }
}

/** Masks of a machine's states, the last used kept. */
export class Masks {
  readonly #vocabulary: Vocabulary;
  readonly #machine: Machine;
  readonly #kept = new Map<string, Uint32Array>();

  constructor(vocabulary: Vocabulary, machine: Machine) {
    this.#vocabulary = vocabulary;
    this.#machine = machine;
  }

  of(frames: readonly Frame[]): Uint32Array {
    const key = frames.map(keyOf).join('&');
    let mask = this.#kept.get(key);
    if (mask) this.#kept.delete(key);
    else mask = this.#vocabulary.mask(this.#machine, frames);
    this.#kept.set(key, mask);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!);
    return mask;
  }
}
