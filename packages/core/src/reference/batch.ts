// Reads a step's batch: checks everything that can be wrong with it before anything runs, and says which rows belong to whom.

import { byteLength } from '../dtype.ts';
import type { SequenceId, StepSequence } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Program } from '../spec/program.ts';
import type { HostTensor } from '../spec/tensor.ts';
import type { Sequence } from './sequences.ts';

/** Rows [from, from + count) of a domain belong to one sequence. */
export interface Span {
  readonly from: number;
  readonly count: number;
}

/** What a backend knows of a sequence before a step. */
export interface SequenceState {
  /** Tokens stepped so far. */
  readonly length: number;
  /** Whether encoder rows were handed in. */
  readonly remembers: boolean;
}

/** One sequence's share of a step. */
export interface Share<S extends SequenceState = Sequence> {
  readonly sequence: S;
  readonly given: StepSequence;
  /** Position of its first new token. */
  readonly start: number;
  /** Length that dynamic rotary kinds go by. */
  readonly length: number;
  readonly wanted: Uint32Array;
  readonly tokens: Span;
  readonly outputs: Span;
  readonly encoder: Span;
}

/** A checked batch. */
export interface StepPlan<S extends SequenceState = Sequence> {
  readonly shares: readonly Share<S>[];
  readonly rows: { readonly tokens: number; readonly outputs: number; readonly encoder: number };
}

/** What a program asks of every batch. */
export interface Demands {
  readonly contextLength: number;
  /** Smallest table that tokens are looked up in; undefined without `embed`. */
  readonly vocab: number | undefined;
  readonly inputs: ReadonlyMap<string, { readonly rows: string; readonly width: number }>;
  readonly injections: ReadonlyMap<string, number>;
  /** Positions that `positionEmbed` has room for, by domain. */
  readonly positions: { readonly tokens: number; readonly encoder: number };
}

/** What a program asks of the batches of all its steps. */
export function readDemands(program: Program, contextLength: number): Demands {
  const inputs = new Map<string, { rows: string; width: number }>();
  const injections = new Map<string, number>();
  const positions = { tokens: Number.POSITIVE_INFINITY, encoder: Number.POSITIVE_INFINITY };
  let vocab: number | undefined;
  for (const op of program.ops) {
    const { rows, width } = program.tensors[op.out]!;
    if (op.op === 'embed') vocab = Math.min(vocab ?? Number.POSITIVE_INFINITY, program.linears[op.table]!.shape[0]);
    if (op.op === 'input') inputs.set(op.name, { rows, width });
    if (op.op === 'inject') injections.set(op.name, width);
    if (op.op === 'positionEmbed') {
      const domain = rows === 'encoder' ? 'encoder' : 'tokens';
      positions[domain] = Math.min(positions[domain], program.constants[op.table]!.shape[0]! - op.offset);
    }
  }
  return { contextLength, vocab, inputs, injections, positions };
}

function bad(message: string, details: Readonly<Record<string, unknown>>): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', message, { details });
}

// Lists come as typed as TypeScript sees them, or not: a signed array has negative numbers, a plain one anything.

/** Index of the first number that is no integer from 0 and below `end`; -1 if there is none. */
function firstOutside(list: Uint32Array, end: number): number {
  return list.findIndex((value) => !(Number.isInteger(value) && value >= 0 && value < end));
}

/** Whether the list is ascending indices below `end`, none twice. */
function areIndices(list: Uint32Array, end: number): boolean {
  return firstOutside(list, end) < 0 && list.every((index, i) => i === 0 || index > list[i - 1]!);
}

/** Who has which rows of a step. Throws ERR_BAD_ARGUMENT or ERR_LIMIT for an unusable batch, ERR_BAD_ARGUMENT also by `get`; changes nothing. */
export function planStep<S extends SequenceState>(
  batch: readonly StepSequence[],
  sequences: { get(id: SequenceId): S },
  demands: Demands,
): StepPlan<S> {
  if (batch.length === 0) throw bad('a step needs at least one sequence', {});
  const rows = { tokens: 0, outputs: 0, encoder: 0 };
  const seen = new Set<number>();
  const shares = batch.map((given): Share<S> => {
    const { id, tokens } = given;
    const sequence = sequences.get(id);
    if (seen.has(id)) throw bad(`sequence ${id} is in the batch twice`, { sequence: id });
    seen.add(id);
    const count = tokens.length;
    const end = sequence.length + count;
    if (count === 0) throw bad(`sequence ${id} has no new tokens`, { sequence: id });
    const limit = Math.min(demands.contextLength, demands.positions.tokens);
    if (end > limit) {
      throw new LowbitError('ERR_LIMIT', `sequence ${id} would be ${end} tokens long, the limit is ${limit}`, {
        hint: 'Truncate the sequence, or compile with a longer contextLength if the model allows it.',
        details: { sequence: id, length: end, limit },
      });
    }
    const unknown = firstOutside(tokens, demands.vocab ?? Number.POSITIVE_INFINITY);
    if (unknown >= 0) {
      const known = demands.vocab === undefined ? 'no whole number from 0' : `not in a vocabulary of ${demands.vocab}`;
      throw bad(`sequence ${id}: token ${tokens[unknown]} is ${known}`, { sequence: id, token: tokens[unknown] });
    }
    const length = given.length ?? end;
    if (!Number.isInteger(length) || length < end)
      throw bad(`sequence ${id}: length ${length} is less than its ${end} tokens`, { sequence: id, length });
    const wanted = given.wanted ?? Uint32Array.of(count - 1);
    if (!areIndices(wanted, count)) {
      throw bad(`sequence ${id}: wanted must be ascending indices from 0 and below ${count}`, { sequence: id });
    }
    const encoder = checkInputs(given, sequence, count, wanted.length, demands);
    checkInjections(given, count, demands);
    const share: Share<S> = {
      sequence,
      given,
      start: sequence.length,
      length,
      wanted,
      tokens: { from: rows.tokens, count },
      outputs: { from: rows.outputs, count: wanted.length },
      encoder: { from: rows.encoder, count: encoder },
    };
    rows.tokens += count;
    rows.outputs += wanted.length;
    rows.encoder += encoder;
    return share;
  });
  return { shares, rows };
}

function checkRows(what: string, tensor: HostTensor, rows: number | undefined, width: number): number {
  const [count, actual] = tensor.shape;
  const fits = tensor.dtype === 'f32' && tensor.shape.length === 2 && actual === width && (rows === undefined || count === rows);
  if (!fits || tensor.data.byteLength !== byteLength(tensor)) {
    throw bad(`${what} must be f32 [${rows ?? 'positions'}, ${width}], got ${tensor.dtype} [${tensor.shape.join(', ')}]`, {
      shape: tensor.shape,
    });
  }
  return count!;
}

/** Number of encoder rows handed in. */
function checkInputs(given: StepSequence, sequence: SequenceState, tokens: number, wanted: number, demands: Demands): number {
  const inputs = given.inputs ?? {};
  let encoder: number | undefined;
  for (const name of Object.keys(inputs)) {
    if (!demands.inputs.has(name)) throw bad(`sequence ${given.id}: the program takes no input '${name}'`, { sequence: given.id, name });
  }
  for (const [name, { rows, width }] of demands.inputs) {
    const tensor = inputs[name];
    const what = `sequence ${given.id}: input '${name}'`;
    if (rows === 'encoder') {
      const count = tensor ? checkRows(what, tensor, undefined, width) : 0;
      if (encoder !== undefined && encoder !== count)
        throw bad(`${what} has ${count} positions, another encoder input ${encoder}`, { name });
      encoder = count;
    } else {
      if (!tensor) throw bad(`${what} is missing`, { sequence: given.id, name });
      checkRows(what, tensor, rows === 'outputs' ? wanted : tokens, width);
    }
  }
  if (encoder !== undefined && encoder > 0) {
    if (sequence.remembers) throw bad(`sequence ${given.id} has its encoder rows already`, { sequence: given.id });
    if (encoder > demands.positions.encoder) {
      throw new LowbitError('ERR_LIMIT', `sequence ${given.id}: ${encoder} encoder positions, the limit is ${demands.positions.encoder}`, {
        details: { sequence: given.id },
      });
    }
  }
  return encoder ?? 0;
}

function checkInjections(given: StepSequence, tokens: number, demands: Demands): void {
  for (const [name, { at, rows }] of Object.entries(given.injections ?? {})) {
    const width = demands.injections.get(name);
    if (width === undefined) throw bad(`sequence ${given.id}: the program injects no '${name}'`, { sequence: given.id, name });
    checkRows(`sequence ${given.id}: injection '${name}'`, rows, at.length, width);
    if (!areIndices(at, tokens)) {
      throw bad(`sequence ${given.id}: injection '${name}' must be at ascending indices from 0 and below ${tokens}`, {
        sequence: given.id,
        name,
      });
    }
  }
}
