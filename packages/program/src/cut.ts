// Cuts a program at layer boundaries into programs that run one after another, on one backend or on several.

import type { LinearUse, Op, OpOf, Program, ProgramTensor, TensorId } from '@lowbit/core';
import { LowbitError, opInputs, opLinears, opResults, validateProgram } from '@lowbit/core';

/** A piece of a cut program: a whole program of its own, and where its parts come from. */
export interface ProgramPiece {
  readonly program: Program;
  /** `linears[i]` is the original index of the piece's linear i. A tied table is in two pieces. */
  readonly linears: readonly number[];
  /** `caches[i]` is the original index of the piece's cache i. */
  readonly caches: readonly number[];
  /** Inputs that earlier pieces give, by name (`cut.<n>`): outputs of the same name. */
  readonly takes: readonly string[];
  /** Outputs that exist only for later pieces. */
  readonly gives: readonly string[];
}

/** Gives every index that is asked for a new one, in order of asking. */
function renumber(): { readonly order: number[]; readonly to: (id: number) => number } {
  const order: number[] = [];
  const known = new Map<number, number>();
  const to = (id: number): number => {
    const found = known.get(id);
    if (found !== undefined) return found;
    known.set(id, order.length);
    return order.push(id) - 1;
  };
  return { order, to };
}

/** The operation with every index mapped. */
function mapOp(
  op: Op,
  map: {
    tensor(id: number): number;
    constant(id: number): number;
    linear(id: number): number;
    rope(id: number): number;
    cache(id: number): number;
  },
): Op {
  const { tensor, constant, linear, rope, cache } = map;
  const out = tensor(op.out);
  switch (op.op) {
    case 'embed':
      return { ...op, out, table: linear(op.table) };
    case 'input':
      return { ...op, out };
    case 'positionEmbed':
      return { ...op, out, x: tensor(op.x), table: constant(op.table) };
    case 'norm':
      return {
        ...op,
        out,
        x: tensor(op.x),
        ...(op.weight === undefined ? {} : { weight: constant(op.weight) }),
        ...(op.bias === undefined ? {} : { bias: constant(op.bias) }),
      };
    case 'linear':
      return { ...op, out, x: tensor(op.x), weight: linear(op.weight) };
    case 'rope':
      return { ...op, out, x: tensor(op.x), rope: rope(op.rope) };
    case 'attend':
      return {
        ...op,
        out,
        q: tensor(op.q),
        ...(op.k === undefined ? {} : { k: tensor(op.k) }),
        ...(op.v === undefined ? {} : { v: tensor(op.v) }),
        ...(op.cache === undefined ? {} : { cache: cache(op.cache) }),
        ...(op.bias?.kind === 'relative' ? { bias: { ...op.bias, table: constant(op.bias.table) } } : {}),
      };
    case 'remember':
      return { ...op, out, k: tensor(op.k), v: tensor(op.v), cache: cache(op.cache) };
    case 'gate':
      return { ...op, out, gate: tensor(op.gate), x: tensor(op.x) };
    case 'add':
      return { ...op, out, a: tensor(op.a), b: tensor(op.b) };
    case 'route':
    case 'combine':
      return { ...op, out, x: tensor(op.x), weights: tensor(op.weights) };
    case 'expertLinear':
      return { ...op, out, x: tensor(op.x), ids: tensor(op.ids), linears: op.linears.map(linear) };
    default:
      return { ...op, out, x: tensor(op.x) };
  }
}

/** Index of the piece that runs a layer: the operations before the first layer go with the first piece, those after the last with the last. */
function pieceOf(layer: number, ends: readonly number[]): number {
  if (layer < 0) return 0;
  const found = ends.findIndex((end) => layer < end);
  return found < 0 ? ends.length - 1 : found;
}

/**
 * Cuts `program` into pieces of so many layers each; their sum is `program.layers`. A count of 0 makes a piece of its own of what comes before the
 * first layer (as the first count) or after the last (as the last one). A tensor that is used in a later piece becomes an output `cut.<n>` of the
 * piece that makes it and an `input` of each piece that reads it (n is its id in the whole program). A piece numbers its layers from 0.
 * Run one after another the pieces give the same bytes as the whole. Throws ERR_BAD_ARGUMENT for counts that do not fit, or for a cut through a
 * cache, expert ids or routed rows.
 */
export function cutProgram(program: Program, layers: readonly number[]): readonly ProgramPiece[] {
  const total = layers.reduce((sum, count) => sum + count, 0);
  if (layers.length === 0 || total !== program.layers || layers.some((count) => !Number.isInteger(count) || count < 0)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `cannot cut ${program.layers} layers into [${layers.join(', ')}]`, {
      hint: 'Give the number of layers of each piece; they add up to those of the program.',
      details: { layers: program.layers, cut: layers },
    });
  }
  let sum = 0;
  const ends = layers.map((count) => {
    sum += count;
    return sum;
  });
  const groups: Op[][] = layers.map(() => []);
  for (const op of program.ops) groups[pieceOf(op.layer, ends)]!.push(op);
  return makePieces(
    program,
    groups.map((ops, index) => ({ ops, from: index === 0 ? 0 : ends[index - 1]!, layers: layers[index]! })),
  );
}

/** A piece and what it was cut for. */
export interface PlacedPiece<P> {
  readonly piece: ProgramPiece;
  readonly place: P;
}

/**
 * Cuts `program` wherever the place of its operations changes, in their order: as `cutProgram`, but also within layers. Pieces of one place may be
 * many. Throws ERR_BAD_ARGUMENT for a cut through a cache, expert ids or routed rows.
 */
export function cutByPlace<P>(program: Program, placeOf: (op: Op, index: number) => P): readonly PlacedPiece<P>[] {
  const runs: { readonly place: P; readonly ops: Op[] }[] = [];
  for (const [index, op] of program.ops.entries()) {
    const place = placeOf(op, index);
    const last = runs.at(-1);
    if (last && last.place === place) last.ops.push(op);
    else runs.push({ place, ops: [op] });
  }
  const groups = runs.map(({ ops }): Group => {
    const inside = ops.map(({ layer }) => layer).filter((layer) => layer >= 0 && layer < program.layers);
    if (inside.length === 0) return { ops, from: ops[0]!.layer < 0 ? 0 : program.layers, layers: 0 };
    const from = Math.min(...inside);
    return { ops, from, layers: Math.max(...inside) + 1 - from };
  });
  return makePieces(program, groups).map((piece, i) => ({ piece, place: runs[i]!.place }));
}

/** Operations that make a piece, its first layer in the whole program, and how many layers it spans. */
interface Group {
  readonly ops: readonly Op[];
  readonly from: number;
  readonly layers: number;
}

function makePieces(program: Program, groups: readonly Group[]): readonly ProgramPiece[] {
  const madeIn = new Map<TensorId, number>();
  const readLater = new Set<TensorId>();
  for (const [index, { ops }] of groups.entries()) {
    for (const op of ops) {
      for (const id of opInputs(op)) if (madeIn.get(id) !== index) readLater.add(id);
      for (const id of opResults(op)) madeIn.set(id, index);
    }
  }
  checkCaches(
    program,
    groups.map(({ ops }) => ops),
  );
  return groups.map((group) => makePiece(program, group, readLater));
}

function checkCaches(program: Program, groups: readonly (readonly Op[])[]): void {
  const usedIn = new Map<number, number>();
  for (const [index, ops] of groups.entries()) {
    for (const op of ops) {
      if ((op.op !== 'attend' && op.op !== 'remember') || op.cache === undefined) continue;
      const before = usedIn.get(op.cache) ?? index;
      if (before !== index) {
        throw new LowbitError(
          'ERR_BAD_ARGUMENT',
          `a cut between pieces ${before} and ${index} would part cache ${op.cache} from an operation that reads it`,
          {
            hint: 'Cut elsewhere: layers that share keys and values stay together.',
            details: { cache: op.cache, layers: program.caches[op.cache]?.layer },
          },
        );
      }
      usedIn.set(op.cache, index);
    }
  }
}

function makePiece(program: Program, { ops, ...place }: Group, readLater: ReadonlySet<TensorId>): ProgramPiece {
  const tensors = renumber();
  const constants = renumber();
  const linears = renumber();
  const ropes = renumber();
  const caches = renumber();
  const layer = (original: number): number => Math.max(-1, Math.min(place.layers, original - place.from));
  const map = { tensor: tensors.to, constant: constants.to, linear: linears.to, rope: ropes.to, cache: caches.to };

  const made = new Set(ops.flatMap(opResults));
  const foreign = [...new Set(ops.flatMap(opInputs))].filter((id) => !made.has(id));
  const taken = foreign.map((id): OpOf<'input'> => {
    const { dtype, rows } = program.tensors[id]!;
    if (dtype !== 'f32' || rows === 'routed') {
      throw new LowbitError(
        'ERR_BAD_ARGUMENT',
        `a cut before layer ${place.from} would part the ${rows === 'routed' ? 'routed rows' : 'expert ids'} of tensor ${id} from their reader`,
        {
          hint: 'Cut elsewhere.',
          details: { tensor: id },
        },
      );
    }
    return { op: 'input', name: `cut.${id}`, layer: -1, out: tensors.to(id) };
  });
  const own = ops.map((op) => ({ ...mapOp(op, map), layer: layer(op.layer) }));

  const given = [...made].filter((id) => readLater.has(id));
  const outputs: Record<string, TensorId> = {};
  for (const [name, id] of Object.entries(program.outputs)) if (made.has(id)) outputs[name] = tensors.to(id);
  for (const id of given) outputs[`cut.${id}`] = tensors.to(id);

  const uses = linears.order.map((id): LinearUse => {
    const { bias, ...use } = program.linears[id]!;
    const as = new Set(ops.filter((op) => opLinears(op).ids.includes(id)).map((op) => opLinears(op).as));
    return {
      ...use,
      use: as.size === 2 ? 'both' : [...as][0]!,
      layer: layer(use.layer),
      ...(bias === undefined ? {} : { bias: constants.to(bias) }),
    };
  });
  const piece: Program = {
    spec: 1,
    layers: place.layers,
    tensors: tensors.order.map((id): ProgramTensor => program.tensors[id]!),
    constants: constants.order.map((id) => program.constants[id]!),
    linears: uses,
    ropes: ropes.order.map((id) => program.ropes[id]!),
    caches: caches.order.map((id) => ({ ...program.caches[id]!, layer: layer(program.caches[id]!.layer) })),
    ops: [...taken, ...own],
    outputs,
  };
  validateProgram(piece);
  return {
    program: piece,
    linears: linears.order,
    caches: caches.order,
    takes: taken.map(({ name }) => name),
    gives: given.map((id) => `cut.${id}`),
  };
}
