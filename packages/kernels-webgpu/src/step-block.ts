// What a step brings, as one block of words: `STEP` of wgsl/kernel.ts says where what is.

import { injectedRows, inputRows, type Rope, ropeInForce, type SequenceState, type Share, type StepPlan } from '@lowbit/core';
import { SHARE_WORDS, STEP } from './wgsl/kernel.ts';

/** Keys and values of a sequence in one cache, as the step sees them. */
export interface CacheView {
  /** After the step, before, and that there is room for. */
  readonly rows: number;
  readonly before: number;
  readonly room: number;
}

/** Operations whose rows come with each step, in order. `inject` has two sections: a map of tokens, and values. */
export interface NamedRows {
  readonly op: 'input' | 'inject';
  readonly name: string;
  readonly rows: 'tokens' | 'outputs' | 'encoder' | 'routed';
  readonly width: number;
}

/** Angles that some operation needs, of rows of a domain. */
export interface Rotation {
  readonly rope: Rope;
  readonly rows: 'tokens' | 'outputs' | 'encoder';
}

/** What the blocks of a program's steps have. */
export interface StepShape {
  readonly named: readonly NamedRows[];
  readonly rotations: readonly Rotation[];
}

export const sectionsOf = (named: readonly NamedRows[]): number => named.reduce((count, { op }) => count + (op === 'input' ? 1 : 2), 0);

interface Parts {
  readonly plan: StepPlan<SequenceState>;
  readonly shape: StepShape;
  /** Rows and first numbers by domain. */
  readonly rows: readonly number[];
  readonly bases: readonly number[];
  /** Of each share, of each cache. */
  readonly caches: readonly (readonly CacheView[])[];
}

type Shares = readonly Share<SequenceState>[];

export function stepBlock({ plan, shape, rows, bases, caches }: Parts): Uint8Array {
  const { shares } = plan;
  const { named, rotations } = shape;
  const sections: { readonly at: number; readonly words: Uint32Array }[] = [];
  const namedSections = sectionsOf(named);
  let at = STEP.sections + namedSections + rotations.length;
  const put = (values: Uint32Array | Int32Array | Float32Array): number => {
    const from = at;
    sections.push({ at, words: new Uint32Array(values.buffer, values.byteOffset, values.length) });
    at += values.length;
    return from;
  };
  const header = new Uint32Array(at);
  header.set(rows, STEP.rows);
  header.set(bases, STEP.base);
  const tokens = new Uint32Array(plan.rows.tokens);
  for (const share of shares) tokens.set(share.given.tokens, share.tokens.from);
  header[STEP.tokens] = put(tokens);
  header[STEP.shares] = put(shareTable(shares));
  const source = new Uint32Array(plan.rows.outputs);
  for (const { wanted, tokens: span, outputs } of shares)
    for (const [i, index] of wanted.entries()) source[outputs.from + i] = span.from + index;
  header[STEP.source] = put(source);
  header[STEP.cacheCount] = caches[0]?.length ?? 0;
  header[STEP.caches] = put(Uint32Array.from(caches.flat().flatMap(({ rows: all, before, room }) => [all, before, room, 0])));
  const positions = {
    tokens: positionsOf(shares, 'tokens', plan.rows.tokens, (share, i) => share.start + i),
    outputs: positionsOf(shares, 'outputs', plan.rows.outputs, (share, i) => share.start + share.wanted[i]!),
    encoder: positionsOf(shares, 'encoder', plan.rows.encoder, (_, i) => i),
  };
  header[STEP.positions] = put(positions.tokens);
  header[STEP.positions + 1] = put(positions.outputs);
  header[STEP.positions + 3] = put(positions.encoder);
  let section: number = STEP.sections;
  for (const { op, name, rows: domain, width } of named) {
    if (op === 'inject') for (const part of injected(name, shares, plan.rows.tokens)) header[section++] = put(part);
    else header[section++] = put(inputRows(name, { rows: domain, width }, plan));
  }
  for (const { rope, rows: domain } of rotations) header[section++] = put(angles(rope, domain, shares, positions[domain]));
  const block = new Uint32Array(at);
  block.set(header);
  for (const { at: to, words } of sections) block.set(words, to);
  return new Uint8Array(block.buffer);
}

/** The block of a product by itself: so many rows of tokens, and what they are. */
export function plainBlock(rows: readonly number[], bases: readonly number[], tokens: Uint32Array): Uint8Array {
  const block = new Uint32Array(STEP.sections + tokens.length);
  block.set(rows, STEP.rows);
  block.set(bases, STEP.base);
  block[STEP.tokens] = STEP.sections;
  block.set(tokens, STEP.sections);
  return new Uint8Array(block.buffer);
}

function shareTable(shares: Shares): Uint32Array {
  const table = new Uint32Array(shares.length * SHARE_WORDS);
  for (const [i, { start, tokens, outputs, encoder }] of shares.entries()) {
    const from = [tokens.from, outputs.from, 0, encoder.from];
    const count = [tokens.count, outputs.count, 0, encoder.count];
    table.set([...from, ...count, start], i * SHARE_WORDS);
  }
  return table;
}

function positionsOf(
  shares: Shares,
  domain: 'tokens' | 'outputs' | 'encoder',
  rows: number,
  positionOf: (share: Share<SequenceState>, i: number) => number,
): Uint32Array {
  const positions = new Uint32Array(rows);
  for (const share of shares) {
    const { from, count } = share[domain];
    for (let i = 0; i < count; i++) positions[from + i] = positionOf(share, i);
  }
  return positions;
}

/** Cosine and sine of each row and pair, times the factor of the rotation. In float64: a GPU's angles of long sequences are not exact. */
function angles(rope: Rope, domain: Rotation['rows'], shares: Shares, positions: Uint32Array): Float32Array {
  const pairs = pairsOf(rope);
  const values = new Float32Array(positions.length * pairs * 2);
  for (const share of shares) {
    const { from, count } = share[domain];
    const force = ropeInForce(rope, domain === 'encoder' ? share.encoder.count : share.length);
    const { scale } = force;
    const frequencies = force.frequencies();
    for (let row = from; row < from + count; row++) {
      for (let i = 0; i < pairs; i++) {
        const angle = positions[row]! * frequencies[i]!;
        values[(row * pairs + i) * 2] = Math.cos(angle) * scale;
        values[(row * pairs + i) * 2 + 1] = Math.sin(angle) * scale;
      }
    }
  }
  return values;
}

function pairsOf(rope: Rope): number {
  if (rope.kind === 'dynamic') return rope.dim / 2;
  return rope.kind === 'fixed' ? rope.frequencies.length : rope.short.length;
}

/** For each token the row of the values that replaces it, or -1; and the values. */
function injected(name: string, shares: Shares, tokens: number): readonly [Int32Array, Float32Array] {
  const { at, values } = injectedRows(name, shares);
  const map = new Int32Array(tokens).fill(-1);
  for (const [i, row] of at.entries()) map[row] = i;
  return [map, values];
}
