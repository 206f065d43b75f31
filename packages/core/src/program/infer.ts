// What each operation reads and what it makes: the one place that knows the width and domain rules of program.ts.
// The builder asks it for the result of an operation, the validator compares that with what the program declares.

import { elementCount, FLOAT_DTYPES } from '../dtype.ts';
import { LowbitError } from '../spec/errors.ts';
import type { CacheUse, LinearUse, Op, PositionBias, Program, ProgramTensor, Rope, RowDomain, TensorId } from '../spec/program.ts';
import type { HostTensor } from '../spec/tensor.ts';

/** The tables of a program that operations refer to. */
export type ProgramTables = Pick<Program, 'tensors' | 'constants' | 'linears' | 'ropes' | 'caches'>;

/** Tensors the operation reads. */
export function opInputs(op: Op): readonly TensorId[] {
  switch (op.op) {
    case 'embed':
    case 'input':
      return [];
    case 'attend':
      return [op.q, ...(op.k === undefined ? [] : [op.k]), ...(op.v === undefined ? [] : [op.v])];
    case 'remember':
      return [op.k, op.v];
    case 'gate':
      return [op.gate, op.x];
    case 'add':
      return [op.a, op.b];
    case 'expertLinear':
      return [op.x, op.ids];
    case 'combine':
      return [op.x, op.weights];
    default:
      return [op.x];
  }
}

/** Tensors the operation makes: none for `remember`, ids and weights for `route`, else `out`. */
export function opResults(op: Op): readonly TensorId[] {
  if (op.op === 'remember') return [];
  return op.op === 'route' ? [op.out, op.weights] : [op.out];
}

/** Linears the operation uses, and as what. */
export function opLinears(op: Op): { readonly ids: readonly number[]; readonly as: 'linear' | 'embedding' } {
  if (op.op === 'embed') return { ids: [op.table], as: 'embedding' };
  if (op.op === 'linear') return { ids: [op.weight], as: 'linear' };
  return { ids: op.op === 'expertLinear' ? op.linears : [], as: 'linear' };
}

/** Constants the operation uses (biases of linears apart: those belong to the linear). */
export function opConstants(op: Op): readonly number[] {
  if (op.op === 'positionEmbed') return [op.table];
  if (op.op === 'norm') return [op.weight, op.bias].filter((id) => id !== undefined);
  return op.op === 'attend' && op.bias?.kind === 'relative' ? [op.bias.table] : [];
}

function bad(message: string): never {
  throw new LowbitError('ERR_BAD_ARGUMENT', message);
}

function check(condition: boolean, message: () => string): asserts condition {
  if (!condition) bad(message());
}

/** Every one an integer from `least`: what counts elements or divides a row. */
function checkWhole(values: Readonly<Record<string, number>>, least: 0 | 1 = 1): void {
  for (const [name, value] of Object.entries(values)) {
    check(Number.isSafeInteger(value) && value >= least, () => `${name} ${value} is no whole number from ${least}`);
  }
}

function at<T>(table: readonly T[], id: number, what: string): T {
  const entry = table[id];
  if (!Number.isInteger(id) || entry === undefined) bad(`there is no ${what} ${id}`);
  return entry;
}

function floatTensor(tables: ProgramTables, id: TensorId, what: string, rows?: readonly RowDomain[]): ProgramTensor {
  const tensor = at(tables.tensors, id, 'tensor');
  check(tensor.dtype === 'f32', () => `${what} must be f32, tensor ${id} is ${tensor.dtype}`);
  check(!rows || rows.includes(tensor.rows), () => `${what} has rows ${tensor.rows}, allowed: ${rows?.join(', ')}`);
  return tensor;
}

function floatConstant(tables: ProgramTables, id: number, what: string): HostTensor {
  const constant = at(tables.constants, id, 'constant');
  check(FLOAT_DTYPES.has(constant.dtype), () => `${what} must be floating point, constant ${id} is ${constant.dtype}`);
  return constant;
}

function linear(tables: ProgramTables, id: number, as: 'linear' | 'embedding'): LinearUse {
  const use = at(tables.linears, id, 'linear');
  check(use.use === as || use.use === 'both', () => `${use.path} is declared as ${use.use} and used as ${as}`);
  return use;
}

const PLACED: readonly RowDomain[] = ['tokens', 'outputs', 'encoder'];

function checkRope(rope: Rope, dim: number): void {
  if (rope.kind !== 'fixed') checkWhole({ 'original length': rope.original });
  if (rope.kind === 'dynamic') {
    check(rope.dim === dim, () => `rope is made for ${rope.dim} dimensions, not ${dim}`);
    return;
  }
  for (const list of rope.kind === 'fixed' ? [rope.frequencies] : [rope.short, rope.long]) {
    check(list.length === dim / 2, () => `rope has ${list.length} frequencies for ${dim} dimensions`);
  }
}

function checkBias(tables: ProgramTables, bias: PositionBias, heads: number): void {
  if (bias.kind === 'alibi') {
    check(bias.slopes.length === heads, () => `${bias.slopes.length} slopes for ${heads} heads`);
    return;
  }
  checkWhole({ buckets: bias.buckets, maxDistance: bias.maxDistance });
  const table = floatConstant(tables, bias.table, 'relative bias');
  const shape = `[${table.shape.join(', ')}]`;
  check(elementCount(table.shape) === bias.buckets * heads, () => `relative bias ${shape} is not [${bias.buckets}, ${heads}]`);
  const exact = bias.bidirectional ? Math.floor(bias.buckets / 2) / 2 : bias.buckets / 2;
  check(exact >= 1 && bias.maxDistance > Math.floor(exact), () => `${bias.buckets} buckets do not reach distance ${bias.maxDistance}`);
}

function checkCache(cache: CacheUse, op: { kvHeads: number; keyDim: number; valueDim: number }): void {
  const fits = cache.heads === op.kvHeads && cache.keyDim === op.keyDim && cache.valueDim === op.valueDim;
  check(
    fits,
    () =>
      `cache holds ${cache.heads} heads of ${cache.keyDim} + ${cache.valueDim}, the operation has ${op.kvHeads} of ${op.keyDim} + ${op.valueDim}`,
  );
}

/**
 * The tensor that an operation makes (`ids` for `route`; `k` for `remember`). Throws ERR_BAD_ARGUMENT when it cannot work: an index out of range,
 * widths or domains that do not fit. `out` of `input` is taken as declared.
 */
export function inferResult(tables: ProgramTables, op: Op): ProgramTensor {
  switch (op.op) {
    case 'embed':
      return { rows: 'tokens', width: linear(tables, op.table, 'embedding').shape[1], dtype: 'f32' };
    case 'input':
      return floatTensor(tables, op.out, `input ${op.name}`, PLACED);
    case 'inject':
      return floatTensor(tables, op.x, 'x', ['tokens']);
    case 'positionEmbed': {
      const x = floatTensor(tables, op.x, 'x', PLACED);
      checkWhole({ offset: op.offset }, 0);
      const { shape } = floatConstant(tables, op.table, 'table');
      check(shape.length === 2 && shape[1] === x.width, () => `table [${shape.join(', ')}] does not add to rows of ${x.width}`);
      return x;
    }
    case 'norm': {
      const x = floatTensor(tables, op.x, 'x');
      checkWhole({ groups: op.groups });
      check(Number.isInteger(x.width / op.groups), () => `${op.groups} groups do not divide a row of ${x.width}`);
      for (const id of opConstants(op)) {
        const count = elementCount(floatConstant(tables, id, 'weight and bias').shape);
        check(
          count === x.width || count === x.width / op.groups,
          () => `constant of ${count} elements for ${op.groups} groups of a row of ${x.width}`,
        );
      }
      return x;
    }
    case 'linear': {
      const x = floatTensor(tables, op.x, 'x');
      const { path, shape } = linear(tables, op.weight, 'linear');
      check(x.width === shape[1], () => `${path} takes ${shape[1]} inputs, x has ${x.width}`);
      return { rows: x.rows, width: shape[0], dtype: 'f32' };
    }
    case 'rope': {
      const x = floatTensor(tables, op.x, 'x', PLACED);
      checkWhole({ heads: op.heads, dim: op.dim });
      const width = x.width / op.heads;
      check(Number.isInteger(width), () => `${op.heads} heads do not divide a row of ${x.width}`);
      check(op.dim >= 2 && op.dim % 2 === 0 && op.dim <= width, () => `cannot rotate ${op.dim} of ${width} elements`);
      checkRope(at(tables.ropes, op.rope, 'rope'), op.dim);
      return x;
    }
    case 'attend':
      return inferAttend(tables, op);
    case 'remember': {
      const cache = at(tables.caches, op.cache, 'cache');
      const k = floatTensor(tables, op.k, 'k', ['encoder']);
      const v = floatTensor(tables, op.v, 'v', ['encoder']);
      check(cache.rows === 'encoder', () => `cache ${op.cache} holds tokens, not encoder rows`);
      check(op.out === op.k, () => 'out must name k');
      check(k.width === cache.heads * cache.keyDim, () => `k has ${k.width} elements, the cache ${cache.heads} x ${cache.keyDim}`);
      check(v.width === cache.heads * cache.valueDim, () => `v has ${v.width} elements, the cache ${cache.heads} x ${cache.valueDim}`);
      return k;
    }
    case 'activate':
    case 'scale':
    case 'softcap':
      return floatTensor(tables, op.x, 'x');
    case 'gate': {
      const gate = floatTensor(tables, op.gate, 'gate');
      const x = floatTensor(tables, op.x, 'x', [gate.rows]);
      check(gate.width === 1 || gate.width === x.width, () => `gate has ${gate.width} elements, x ${x.width}`);
      return x;
    }
    case 'add': {
      const a = floatTensor(tables, op.a, 'a');
      const b = floatTensor(tables, op.b, 'b', [a.rows]);
      check(a.width === b.width, () => `a has ${a.width} elements, b ${b.width}`);
      return a;
    }
    case 'slice': {
      const x = floatTensor(tables, op.x, 'x');
      checkWhole({ groups: op.groups, width: op.width });
      checkWhole({ offset: op.offset }, 0);
      const part = x.width / op.groups;
      check(Number.isInteger(part), () => `${op.groups} groups do not divide a row of ${x.width}`);
      check(op.offset + op.width <= part, () => `elements ${op.offset} .. ${op.offset + op.width} of parts of ${part}`);
      return { rows: x.rows, width: op.groups * op.width, dtype: 'f32' };
    }
    case 'select':
      return { ...floatTensor(tables, op.x, 'x', ['tokens']), rows: 'outputs' };
    case 'route': {
      const x = floatTensor(tables, op.x, 'x', ['tokens']);
      check(Number.isInteger(op.topK) && op.topK >= 1 && op.topK <= x.width, () => `topK ${op.topK} of ${x.width} experts`);
      return { rows: 'tokens', width: op.topK, dtype: 'i32' };
    }
    case 'expertLinear':
      return inferExpertLinear(tables, op);
    case 'combine': {
      const x = floatTensor(tables, op.x, 'x', ['routed']);
      floatTensor(tables, op.weights, 'weights', ['tokens']);
      return { rows: 'tokens', width: x.width, dtype: 'f32' };
    }
  }
}

function inferExpertLinear(tables: ProgramTables, op: Op & { op: 'expertLinear' }): ProgramTensor {
  const ids = at(tables.tensors, op.ids, 'tensor');
  check(ids.dtype === 'i32' && ids.rows === 'tokens', () => 'ids must be i32 with rows tokens');
  const x = floatTensor(tables, op.x, 'x', ['tokens', 'routed']);
  check(op.linears.length > 0, () => 'there are no experts');
  const [out, inp] = linear(tables, op.linears[0]!, 'linear').shape;
  for (const id of op.linears) {
    const { path, shape } = linear(tables, id, 'linear');
    check(shape[0] === out && shape[1] === inp, () => `${path} is [${shape.join(', ')}], the first expert [${out}, ${inp}]`);
  }
  check(x.width === inp, () => `the experts take ${inp} inputs, x has ${x.width}`);
  return { rows: 'routed', width: out, dtype: 'f32' };
}

function inferAttend(tables: ProgramTables, op: Op & { op: 'attend' }): ProgramTensor {
  const cache = op.cache === undefined ? undefined : at(tables.caches, op.cache, 'cache');
  const q = floatTensor(tables, op.q, 'q', PLACED);
  checkWhole({ heads: op.heads, kvHeads: op.kvHeads, keyDim: op.keyDim, valueDim: op.valueDim });
  check(q.width === op.heads * op.keyDim, () => `q has ${q.width} elements, not ${op.heads} heads of ${op.keyDim}`);
  check(op.kvHeads <= op.heads, () => `${op.kvHeads} key heads for ${op.heads} heads`);
  check((op.k === undefined) === (op.v === undefined), () => 'k and v go together');
  check(op.k !== undefined || cache !== undefined, () => 'there are neither keys nor a cache');
  if (cache) {
    checkCache(cache, op);
    check(q.rows !== 'encoder', () => 'encoder rows have no cache to attend over');
    check(cache.rows === 'tokens' || op.k === undefined, () => 'an encoder cache is filled by remember');
    check(
      cache.rows === 'tokens' || !(op.causal || op.window !== undefined || op.bias),
      () => 'encoder rows have no positions in the sequence: no causal, window or bias',
    );
  }
  if (op.k !== undefined && op.v !== undefined) {
    // With a cache, q may be the wanted rows alone; without, keys and queries are the same rows.
    const rows: RowDomain[] = cache ? [cache.rows] : [q.rows];
    const k = floatTensor(tables, op.k, 'k', rows);
    const v = floatTensor(tables, op.v, 'v', rows);
    check(k.width === op.kvHeads * op.keyDim, () => `k has ${k.width} elements, not ${op.kvHeads} heads of ${op.keyDim}`);
    check(v.width === op.kvHeads * op.valueDim, () => `v has ${v.width} elements, not ${op.kvHeads} heads of ${op.valueDim}`);
    check(cache !== undefined || q.rows !== 'outputs', () => 'without a cache the queries are all tokens or all encoder rows');
  }
  check(op.window === undefined || (Number.isInteger(op.window) && op.window >= 1), () => `window ${op.window} is no positive integer`);
  check(op.softcap === undefined || op.softcap > 0, () => `softcap ${op.softcap} is not positive`);
  if (op.bias) checkBias(tables, op.bias, op.heads);
  return { rows: q.rows, width: op.heads * op.valueDim, dtype: 'f32' };
}
