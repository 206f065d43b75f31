// Which bytes may follow: a pushdown automaton over the bytes of JSON. A frame says what is expected next and, in `after`, what once that is complete; where a
// schema leaves several ways open, several frames stand side by side. From every frame that is reachable the text can be completed.

import type { LiteralNode } from './literals.ts';
import {
  type ArraySchema,
  elementOf,
  MAX_DEPTH,
  type NumberSchema,
  type ObjectSchema,
  type Schema,
  type StringSchema,
  type ValueSchema,
  valuesOf,
} from './nodes.ts';
import { NUMBER_START, type NumberState, numberByte, numberEnds } from './numbers.ts';
import { PLAIN, stringByte } from './strings.ts';

/** Blanks so far between two parts: see `blank`. */
type Blanks = number;

export type Frame =
  | { readonly kind: 'done' }
  | { readonly kind: 'value'; readonly schema: Schema; readonly blanks: Blanks; readonly depth: number; readonly after: Frame }
  | { readonly kind: 'text'; readonly at: LiteralNode; readonly after: Frame }
  | { readonly kind: 'string'; readonly schema: StringSchema; readonly state: number; readonly count: number; readonly after: Frame }
  | { readonly kind: 'number'; readonly schema: NumberSchema; readonly state: NumberState; readonly after: Frame }
  | ArrayFrame
  | ObjectFrame
  | { readonly kind: 'name'; readonly at: LiteralNode; readonly in: ObjectFrame }
  | { readonly kind: 'key'; readonly at: LiteralNode | undefined; readonly state: number; readonly in: ObjectFrame }
  | { readonly kind: 'colon'; readonly blanks: Blanks; readonly value: Schema; readonly in: ObjectFrame };

interface ArrayFrame {
  readonly kind: 'array';
  readonly schema: ArraySchema;
  /** Elements that are complete. */
  readonly count: number;
  readonly blanks: Blanks;
  readonly depth: number;
  readonly after: Frame;
}

interface ObjectFrame {
  readonly kind: 'object';
  readonly schema: ObjectSchema;
  /** The first property that may follow. */
  readonly next: number;
  /** Where: after the bracket, after a value, after a comma. */
  readonly stage: 'open' | 'value' | 'comma';
  readonly blanks: Blanks;
  readonly depth: number;
  readonly after: Frame;
}

const DONE: Frame = { kind: 'done' };

/** Ways that are kept open side by side. Of more, the first: each of them can be completed, and what is written stays valid. */
const MAX_FRAMES = 256;
const QUOTE = 0x22;
const NO_MORE: Blanks = 1;
/** After a line end; one more for each blank of the indentation. */
const LINE: Blanks = 2;

/** Where a text begins: no line ends stand before the value. */
export function beginning(schema: Schema): readonly Frame[] {
  return [{ kind: 'value', schema, blanks: 0, depth: 0, after: DONE }];
}

/**
 * Between two parts stands nothing, a space, or one line end and an indentation of spaces or tabs: as many as two for each bracket that is open, and two. A
 * small model otherwise goes on with blanks, of which it is sure, until its tokens are spent. -1 for what is no blank there.
 */
function blank(blanks: Blanks, byte: number, depth: number): Blanks {
  if (byte === 0x0a) return blanks === 0 && depth > 0 ? LINE : -1;
  if (byte === 0x20 && blanks === 0) return NO_MORE;
  return (byte === 0x20 || byte === 0x09) && blanks >= LINE && blanks < LINE + 2 * depth + 2 ? blanks + 1 : -1;
}

const fits = (schema: Schema, depth: number): boolean => schema.depth + depth <= MAX_DEPTH;

/** Whether property `i` may be the next key. */
function mayFollow({ schema, next, depth }: ObjectFrame, i: number): boolean {
  return i >= next && i <= schema.mustCome[next]! && fits(schema.properties[i]!.schema, depth);
}

/** Whether no property must come any more. */
const satisfied = ({ schema, next }: ObjectFrame): boolean => schema.mustCome[next] === schema.properties.length;

/** Whether further keys may come that are no properties. */
function mayExtend(frame: ObjectFrame): boolean {
  const { extra } = frame.schema;
  return extra !== undefined && fits(extra, frame.depth) && satisfied(frame);
}

const anyKey = (frame: ObjectFrame): boolean => frame.schema.properties.some((_, i) => mayFollow(frame, i)) || mayExtend(frame);

/** Steps from frames to frames. */
export class Machine {
  readonly #ascii: boolean;

  /** `ascii`: for vocabularies that cannot write every byte. */
  constructor(ascii: boolean) {
    this.#ascii = ascii;
  }

  /** All frames after one more byte: none where it cannot stand. */
  step(frames: readonly Frame[], byte: number): readonly Frame[] {
    const out: Frame[] = [];
    for (const frame of frames) this.#put(frame, byte, out);
    return out.length > 1 ? distinct(out) : out;
  }

  #put(frame: Frame, byte: number, out: Frame[]): void {
    switch (frame.kind) {
      case 'done':
        return;
      case 'value': {
        const blanks = blank(frame.blanks, byte, frame.depth);
        if (blanks >= 0) out.push({ ...frame, blanks });
        else
          for (const value of valuesOf(frame.schema)) if (fits(value, frame.depth)) this.#begin(value, byte, frame.depth, frame.after, out);
        return;
      }
      case 'text':
        text(frame.at, byte, frame.after, out);
        return;
      case 'string':
        this.#string(frame, byte, out);
        return;
      case 'number': {
        const state = numberByte(frame.schema.range, frame.state, byte);
        if (state) out.push({ ...frame, state });
        else if (numberEnds(frame.schema.range, frame.state)) this.#put(frame.after, byte, out);
        return;
      }
      case 'array':
        this.#array(frame, byte, out);
        return;
      case 'object':
        this.#object(frame, byte, out);
        return;
      case 'name': {
        if (byte === QUOTE && frame.at.ends >= 0 && mayFollow(frame.in, frame.at.ends)) {
          out.push(colon(frame.in, frame.in.schema.properties[frame.at.ends]!.schema, frame.at.ends + 1));
          return;
        }
        const at = frame.at.next.get(byte);
        if (at?.all.some((i) => mayFollow(frame.in, i))) out.push({ ...frame, at });
        return;
      }
      case 'key':
        this.#key(frame, byte, out);
        return;
      case 'colon': {
        const blanks = blank(frame.blanks, byte, 0);
        if (blanks >= 0) out.push({ ...frame, blanks });
        else if (byte === 0x3a) out.push({ kind: 'value', schema: frame.value, blanks: 0, depth: frame.in.depth, after: frame.in });
        return;
      }
    }
  }

  /** The first byte of a value, inside `depth` brackets. */
  #begin(schema: ValueSchema, byte: number, depth: number, after: Frame, out: Frame[]): void {
    switch (schema.kind) {
      case 'literal':
        text(schema.texts, byte, after, out);
        return;
      case 'string':
        if (byte === QUOTE) out.push({ kind: 'string', schema, state: PLAIN, count: 0, after });
        return;
      case 'number': {
        const state = numberByte(schema.range, NUMBER_START, byte);
        if (state) out.push({ kind: 'number', schema, state, after });
        return;
      }
      case 'array':
        if (byte === 0x5b) out.push({ kind: 'array', schema, count: 0, blanks: 0, depth: depth + 1, after });
        return;
      case 'object':
        if (byte === 0x7b) out.push({ kind: 'object', schema, next: 0, stage: 'open', blanks: 0, depth: depth + 1, after });
        return;
    }
  }

  #string(frame: Frame & { kind: 'string' }, byte: number, out: Frame[]): void {
    const { schema, state, count, after } = frame;
    if (state === PLAIN && byte === QUOTE) {
      if (count >= schema.min) out.push(after);
      return;
    }
    if ((state === PLAIN && count >= schema.max) || (this.#ascii && byte > 0x7e)) return;
    const next = stringByte(state, byte);
    if (next < 0) return;
    // Where no count can matter any more it stays, so that states recur.
    const counted = state === PLAIN && (schema.max < Number.POSITIVE_INFINITY || count < schema.min) ? count + 1 : count;
    out.push({ ...frame, state: next, count: counted });
  }

  #array(frame: ArrayFrame, byte: number, out: Frame[]): void {
    const { schema, count, depth, after } = frame;
    const blanks = blank(frame.blanks, byte, frame.depth);
    if (blanks >= 0) {
      out.push({ ...frame, blanks });
      return;
    }
    if (byte === 0x5d) {
      if (count >= schema.min) out.push(after);
      return;
    }
    const element = count < schema.max ? elementOf(schema, count) : undefined;
    if (!element || !fits(element, depth)) return;
    // From the last of the described elements and of those that must be there, all places are alike.
    const more =
      count < Math.max(schema.prefix.length, schema.min) || schema.max < Number.POSITIVE_INFINITY ? count + 1 : Math.max(count, 1);
    const value: Frame = { kind: 'value', schema: element, blanks: 0, depth, after: { ...frame, count: more, blanks: 0 } };
    if (count === 0) this.#put(value, byte, out);
    else if (byte === 0x2c) out.push(value);
  }

  #object(frame: ObjectFrame, byte: number, out: Frame[]): void {
    const { schema, stage, after } = frame;
    const blanks = blank(frame.blanks, byte, frame.depth);
    if (blanks >= 0) out.push({ ...frame, blanks });
    else if (byte === 0x7d) {
      if (stage !== 'comma' && satisfied(frame)) out.push(after);
    } else if (stage === 'value') {
      if (byte === 0x2c && anyKey(frame)) out.push({ ...frame, stage: 'comma', blanks: 0 });
    } else if (byte === QUOTE) {
      if (schema.names.all.some((i) => mayFollow(frame, i))) out.push({ kind: 'name', at: schema.names, in: frame });
      if (mayExtend(frame)) out.push({ kind: 'key', at: schema.names, state: PLAIN, in: frame });
    }
  }

  /** A key that is none of the properties, written without escapes. */
  #key(frame: Frame & { kind: 'key' }, byte: number, out: Frame[]): void {
    const { at, state } = frame;
    const { schema } = frame.in;
    if (byte === QUOTE) {
      if (state === PLAIN && (at === undefined || at.ends < 0)) out.push(colon(frame.in, schema.extra!, schema.properties.length));
      return;
    }
    const next = byte === 0x5c || (this.#ascii && byte > 0x7e) ? -1 : stringByte(state, byte);
    if (next >= 0) out.push({ ...frame, at: at?.next.get(byte), state: next });
  }
}

function colon(object: ObjectFrame, value: Schema, next: number): Frame {
  return { kind: 'colon', blanks: 0, value, in: { ...object, next, stage: 'value', blanks: 0 } };
}

function text(at: LiteralNode, byte: number, after: Frame, out: Frame[]): void {
  const child = at.next.get(byte);
  if (!child) return;
  if (child.ends >= 0) out.push(after);
  if (child.next.size > 0) out.push({ kind: 'text', at: child, after });
}

/** Whether the text may end here. */
export function complete(frames: readonly Frame[]): boolean {
  return frames.some(
    (frame) =>
      frame.kind === 'done' || (frame.kind === 'number' && frame.after.kind === 'done' && numberEnds(frame.schema.range, frame.state)),
  );
}

const keys = new WeakMap<Frame, string>();

/** Frames with equal keys expect the same. */
export function keyOf(frame: Frame): string {
  const known = keys.get(frame);
  if (known !== undefined) return known;
  const key = describe(frame);
  keys.set(frame, key);
  return key;
}

function describe(frame: Frame): string {
  switch (frame.kind) {
    case 'done':
      return '.';
    case 'value':
      return `v${frame.schema.id},${frame.blanks},${frame.depth}|${keyOf(frame.after)}`;
    case 'text':
      return `t${frame.at.id}|${keyOf(frame.after)}`;
    case 'string':
      return `s${frame.schema.id},${frame.state},${frame.count}|${keyOf(frame.after)}`;
    case 'number':
      return `n${frame.schema.id},${frame.state.negative ? '-' : ''}${frame.state.digits},${frame.state.decimals}|${keyOf(frame.after)}`;
    case 'array':
      return `a${frame.schema.id},${frame.count},${frame.blanks},${frame.depth}|${keyOf(frame.after)}`;
    case 'object':
      return `o${frame.schema.id},${frame.next},${frame.stage},${frame.blanks},${frame.depth}|${keyOf(frame.after)}`;
    case 'name':
      return `p${frame.at.id}|${keyOf(frame.in)}`;
    case 'key':
      return `k${frame.at?.id ?? ''},${frame.state}|${keyOf(frame.in)}`;
    case 'colon':
      return `:${frame.value.id},${frame.blanks}|${keyOf(frame.in)}`;
  }
}

function distinct(frames: readonly Frame[]): readonly Frame[] {
  const found = new Map<string, Frame>();
  for (const frame of frames) {
    const key = keyOf(frame);
    if (!found.has(key)) found.set(key, frame);
    if (found.size === MAX_FRAMES) break;
  }
  return [...found.values()];
}
