// Runs one operation of a program on whole row tensors. What the operations mean is in the files beside this one; here is only who reads what.

import { ropeInForce } from '../backend/rope.ts';
import { elements, toFloat32 } from '../dtype.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Attend, Op, Program, RowDomain, TensorId } from '../spec/program.ts';
import { type AttendScratch, attendRow, type KeyValues } from './attention.ts';
import type { Share, Span, StepPlan } from './batch.ts';
import { activate, add, gate, scale, slice, softcap } from './elementwise.ts';
import type { ReferenceLinear } from './linear.ts';
import { norm } from './norm.ts';
import { rotateRow } from './rope.ts';
import type { Rotations } from './rotation.ts';
import { combine, route } from './routing.ts';
import type { Sequences } from './sequences.ts';

export type Values = Float32Array | Int32Array;

/** All that one step reads and writes. */
export interface StepState {
  readonly program: Program;
  readonly plan: StepPlan;
  readonly linears: readonly ReferenceLinear[];
  readonly constants: readonly (Float32Array | undefined)[];
  readonly sequences: Sequences;
  readonly contextLength: number;
  readonly values: (Values | undefined)[];
  readonly rotations: Rotations;
}

function floats(state: StepState, id: TensorId): Float32Array {
  return state.values[id] as Float32Array;
}

function spanOf(share: Share, rows: RowDomain): Span {
  return rows === 'encoder' ? share.encoder : rows === 'outputs' ? share.outputs : share.tokens;
}

/** Calls `visit` with every row of a domain, whose it is, and its position: tokens count from the start of the sequence, encoder rows from 0. */
function eachRow(state: StepState, rows: RowDomain, visit: (row: number, position: number, share: Share) => void): void {
  for (const share of state.plan.shares) {
    const { from, count } = spanOf(share, rows);
    for (let i = 0; i < count; i++) {
      const position = rows === 'encoder' ? i : share.start + (rows === 'outputs' ? share.wanted[i]! : i);
      visit(from + i, position, share);
    }
  }
}

function rowCount(state: StepState, rows: RowDomain): number {
  return rows === 'routed' ? 0 : state.plan.rows[rows];
}

/** The result of `op`, in order of `opResults`. */
export function runOp(op: Op, state: StepState): readonly Values[] {
  const { program, linears, constants } = state;
  const width = program.tensors[op.out]!.width;
  const rows = program.tensors[op.out]!.rows;
  switch (op.op) {
    case 'embed':
      return [embed(op.table, width, op.scale, state)];
    case 'input':
      return [input(op.name, rows, width, state)];
    case 'inject':
      return [inject(floats(state, op.x), op.name, width, state)];
    case 'positionEmbed': {
      const out = floats(state, op.x).slice();
      const table = constants[op.table]!;
      eachRow(state, rows, (row, position) => {
        const from = (position + op.offset) * width;
        for (let i = 0; i < width; i++) out[row * width + i]! += table[from + i]!;
      });
      return [out];
    }
    case 'norm': {
      const weight = op.weight === undefined ? undefined : constants[op.weight];
      const bias = op.bias === undefined ? undefined : constants[op.bias];
      return [norm(floats(state, op.x), width, { ...op, weight, bias })];
    }
    case 'linear':
      return [linears[op.weight]!.apply(floats(state, op.x), state.rotations)];
    case 'rope': {
      const out = floats(state, op.x).slice();
      const rope = program.ropes[op.rope]!;
      const inForce = new Map(
        state.plan.shares.map((share) => {
          const { scale, frequencies } = ropeInForce(rope, rows === 'encoder' ? share.encoder.count : share.length);
          return [share, { scale, frequencies: frequencies() }];
        }),
      );
      eachRow(state, rows, (row, position, share) => {
        rotateRow(out.subarray(row * width, (row + 1) * width), op.heads, op.dim, op.style, position, inForce.get(share)!);
      });
      return [out];
    }
    case 'attend':
      return [attend(op, rows, state)];
    case 'remember':
      append(op.cache, op.k, op.v, 'encoder', state);
      return [];
    case 'activate':
      return [activate(floats(state, op.x), op.kind)];
    case 'gate':
      return [gate(floats(state, op.gate), program.tensors[op.gate]!.width, floats(state, op.x), width, op.kind)];
    case 'add':
      return [add(floats(state, op.a), floats(state, op.b), op.factor)];
    case 'scale':
      return [scale(floats(state, op.x), op.factor)];
    case 'softcap':
      return [softcap(floats(state, op.x), op.cap)];
    case 'slice':
      return [slice(floats(state, op.x), program.tensors[op.x]!.width, op.groups, op.offset, op.width)];
    case 'select': {
      const x = floats(state, op.x);
      const out = new Float32Array(state.plan.rows.outputs * width);
      for (const { wanted, tokens, outputs } of state.plan.shares) {
        for (const [i, index] of wanted.entries())
          out.set(x.subarray((tokens.from + index) * width, (tokens.from + index + 1) * width), (outputs.from + i) * width);
      }
      return [out];
    }
    case 'route': {
      const { ids, weights } = route(floats(state, op.x), program.tensors[op.x]!.width, op);
      return [ids, weights];
    }
    case 'expertLinear':
      return [expertLinear(op, width, state)];
    case 'combine':
      return [combine(floats(state, op.x), width, floats(state, op.weights), program.tensors[op.weights]!.width)];
  }
}

function embed(table: number, width: number, factor: number, state: StepState): Float32Array {
  const out = new Float32Array(state.plan.rows.tokens * width);
  const row = new Float64Array(width);
  for (const { given, tokens } of state.plan.shares) {
    for (let i = 0; i < tokens.count; i++) {
      state.linears[table]!.row(given.tokens[i]!, row);
      const at = (tokens.from + i) * width;
      for (let k = 0; k < width; k++) out[at + k] = row[k]! * factor;
    }
  }
  return out;
}

function input(name: string, rows: RowDomain, width: number, state: StepState): Float32Array {
  const out = new Float32Array(rowCount(state, rows) * width);
  for (const share of state.plan.shares) {
    const tensor = share.given.inputs?.[name];
    if (tensor) out.set(elements({ dtype: 'f32', data: tensor.data }), spanOf(share, rows).from * width);
  }
  return out;
}

function inject(x: Float32Array, name: string, width: number, state: StepState): Float32Array {
  const out = x.slice();
  for (const { given, tokens } of state.plan.shares) {
    const injection = given.injections?.[name];
    if (!injection) continue;
    const rows = toFloat32(injection.rows);
    for (const [i, index] of injection.at.entries()) out.set(rows.subarray(i * width, (i + 1) * width), (tokens.from + index) * width);
  }
  return out;
}

/** Appends each sequence's rows of k and v to its cache. */
function append(cache: number, k: TensorId, v: TensorId, rows: RowDomain, state: StepState): void {
  const { sequences, plan, program, contextLength } = state;
  const keyWidth = program.tensors[k]!.width;
  const valueWidth = program.tensors[v]!.width;
  for (const share of plan.shares) {
    const { from, count } = spanOf(share, rows);
    if (count === 0) continue;
    const keys = floats(state, k).subarray(from * keyWidth, (from + count) * keyWidth);
    const values = floats(state, v).subarray(from * valueWidth, (from + count) * valueWidth);
    sequences.append(share.sequence, cache, keys, values, rows === 'encoder' ? count : contextLength);
  }
}

function attend(op: Attend, rows: RowDomain, state: StepState): Float32Array {
  const { plan } = state;
  const { cache, k, v, kvHeads, keyDim, valueDim } = op;
  if (cache !== undefined && k !== undefined && v !== undefined) append(cache, k, v, 'tokens', state);
  const sources = new Map<Share, KeyValues>();
  for (const share of plan.shares) {
    if (cache !== undefined) sources.set(share, { ...share.sequence.caches[cache]!, from: 0 });
    else {
      const { from, count } = spanOf(share, rows);
      const keys = floats(state, k!).subarray(from * kvHeads * keyDim, (from + count) * kvHeads * keyDim);
      const values = floats(state, v!).subarray(from * kvHeads * valueDim, (from + count) * kvHeads * valueDim);
      sources.set(share, { k: keys, v: values, rows: count, from: rows === 'encoder' ? 0 : share.start });
    }
  }
  const longest = Math.max(...[...sources.values()].map((source) => source.rows));
  const scratch: AttendScratch = { scores: new Float64Array(longest), sum: new Float64Array(valueDim) };
  const q = floats(state, op.q);
  const qWidth = op.heads * keyDim;
  const outWidth = op.heads * valueDim;
  const out = new Float32Array(rowCount(state, rows) * outWidth);
  const table = op.bias?.kind === 'relative' ? state.constants[op.bias.table] : undefined;
  eachRow(state, rows, (row, position, share) => {
    const result = out.subarray(row * outWidth, (row + 1) * outWidth);
    attendRow(op, q.subarray(row * qWidth, (row + 1) * qWidth), position, sources.get(share)!, table, result, scratch);
  });
  return out;
}

/** Rows of each expert are gathered, multiplied together, and put back. */
function expertLinear(op: Op & { op: 'expertLinear' }, width: number, state: StepState): Float32Array {
  const { program } = state;
  const x = floats(state, op.x);
  const ids = state.values[op.ids] as Int32Array;
  const topK = program.tensors[op.ids]!.width;
  const inp = program.tensors[op.x]!.width;
  const perToken = program.tensors[op.x]!.rows === 'tokens';
  const rowsOf = new Map<number, number[]>();
  for (const [row, id] of ids.entries()) {
    const rows = rowsOf.get(id);
    if (rows) rows.push(row);
    else rowsOf.set(id, [row]);
  }
  const out = new Float32Array(ids.length * width);
  for (const [id, rows] of rowsOf) {
    const linear = op.linears[id];
    if (linear === undefined) throw new LowbitError('ERR_BAD_ARGUMENT', `expert ${id} of ${op.linears.length}`);
    const gathered = new Float32Array(rows.length * inp);
    for (const [i, row] of rows.entries()) {
      const from = perToken ? Math.floor(row / topK) : row;
      gathered.set(x.subarray(from * inp, (from + 1) * inp), i * inp);
    }
    const y = state.linears[linear]!.apply(gathered);
    for (const [i, row] of rows.entries()) out.set(y.subarray(i * width, (i + 1) * width), row * width);
  }
  return out;
}
