// What a step brings, as one block of bytes: `Step` of native/kernels/step.cuh.

import { injectedRows, inputRows, type Rope, ropeInForce, type SequenceState, type Share, type StepPlan } from '@lowbit/core';
import type { NamedRows } from './lower.ts';

/** Keys and values of a sequence in one cache, as the step sees them. */
export interface CacheView {
  readonly k: bigint;
  readonly v: bigint;
  /** After the step, and before. */
  readonly rows: number;
  readonly before: number;
}

/** 32-bit words of the header before the named sections. */
const HEADER_WORDS = 15;
const ALIGN = 16;

interface Parts {
  readonly plan: StepPlan<SequenceState>;
  readonly ropes: readonly Rope[];
  readonly named: readonly NamedRows[];
  /** Of each share, of each cache. */
  readonly caches: readonly (readonly CacheView[])[];
}

export function stepBlock({ plan, ropes, named, caches }: Parts): Uint8Array {
  const { shares, rows } = plan;
  const sections: Uint8Array[] = [];
  const namedCount = named.reduce((count, { op }) => count + (op === 'input' ? 1 : 2), 0);
  let at = aligned(4 * (HEADER_WORDS + namedCount));
  const put = (part: ArrayBufferView): number => {
    const from = at;
    sections.push(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
    at = aligned(at + part.byteLength);
    return from;
  };

  const tokens = new Uint32Array(rows.tokens);
  for (const share of shares) tokens.set(share.given.tokens, share.tokens.from);
  const header: number[] = [put(tokens), put(shareTable(shares))];

  const spans = [
    placesOf(shares, 'tokens', rows.tokens, (share, i) => share.start + i),
    placesOf(shares, 'outputs', rows.outputs, (share, i) => share.start + share.wanted[i]!),
    undefined,
    placesOf(shares, 'encoder', rows.encoder, (_, i) => i),
  ];
  header.push(...spans.map((span) => (span ? put(span.shareOf) : 0)), ...spans.map((span) => (span ? put(span.position) : 0)));

  const source = new Int32Array(rows.outputs);
  for (const { wanted, tokens: span, outputs } of shares)
    for (const [i, index] of wanted.entries()) source[outputs.from + i] = span.from + index;
  header.push(put(source));

  const cacheCount = caches[0]?.length ?? 0;
  header.push(put(cacheTable(caches.flat())));

  // Frequencies first: the table says where they are.
  const lists = new Map<string, number>();
  const ropeTable = new Uint32Array(ropes.length * 2 * shares.length);
  for (const [r, rope] of ropes.entries()) {
    for (const [s, share] of shares.entries()) {
      for (const [kind, length] of [share.length, share.encoder.count].entries()) {
        const { key, frequencies } = ropeInForce(rope, length);
        const name = `${r} ${key}`;
        let where = lists.get(name);
        if (where === undefined) {
          where = put(Float64Array.from(frequencies()));
          lists.set(name, where);
        }
        ropeTable[(r * 2 + kind) * shares.length + s] = where;
      }
    }
  }
  header.push(put(ropeTable), shares.length, cacheCount);

  for (const { op, name, rows: domain, width } of named) {
    if (op === 'inject') header.push(...injected(name, shares, rows.tokens).map(put));
    else header.push(put(inputRows(name, { rows: domain, width }, plan)));
  }

  const block = new Uint8Array(at);
  new Uint32Array(block.buffer).set(header);
  let from = aligned(4 * header.length);
  for (const part of sections) {
    block.set(part, from);
    from = aligned(from + part.byteLength);
  }
  return block;
}

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN;

type Shares = readonly Share<SequenceState>[];

function shareTable(shares: Shares): Int32Array {
  return Int32Array.from(
    shares.flatMap(({ start, length, tokens, outputs, encoder }) => [
      ...[start, length],
      ...[tokens.from, outputs.from, 0, encoder.from],
      ...[tokens.count, outputs.count, 0, encoder.count],
    ]),
  );
}

/** Whose each row is, and its position. */
function placesOf(
  shares: Shares,
  domain: 'tokens' | 'outputs' | 'encoder',
  rows: number,
  positionOf: (share: Share<SequenceState>, i: number) => number,
): { readonly shareOf: Int32Array; readonly position: Int32Array } {
  const shareOf = new Int32Array(rows);
  const position = new Int32Array(rows);
  for (const [index, share] of shares.entries()) {
    const { from, count } = share[domain];
    for (let i = 0; i < count; i++) {
      shareOf[from + i] = index;
      position[from + i] = positionOf(share, i);
    }
  }
  return { shareOf, position };
}

function cacheTable(views: readonly CacheView[]): Uint8Array {
  const bytes = new Uint8Array(24 * views.length);
  const view = new DataView(bytes.buffer);
  for (const [i, { k, v, rows, before }] of views.entries()) {
    view.setBigUint64(24 * i, k, true);
    view.setBigUint64(24 * i + 8, v, true);
    view.setInt32(24 * i + 16, rows, true);
    view.setInt32(24 * i + 20, before, true);
  }
  return bytes;
}

/** For each token the row of the values that replaces it, or -1; and the values. */
function injected(name: string, shares: Shares, tokens: number): readonly [Int32Array, Float32Array] {
  const { at, values } = injectedRows(name, shares);
  const map = new Int32Array(tokens).fill(-1);
  for (const [i, row] of at.entries()) map[row] = i;
  return [map, values];
}
