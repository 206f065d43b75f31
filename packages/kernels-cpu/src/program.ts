// A program as the addon takes it: operations with the names of native/dispatch/program.h, and a place in one arena for every tensor.

import { type Op, opConstants, opInputs, opResults, type Program, placeTensors, type Rope, type RowDomain, toFloat32 } from '@lowbit/core';
import type { StoredFloat, WeightHandle } from './binding.ts';

/** In the order of `Rows` in program.h. */
const DOMAINS: readonly RowDomain[] = ['tokens', 'outputs', 'routed', 'encoder'];

/** A record for the addon: what it does not name is not there. */
type NativeRecord = Readonly<Record<string, unknown>>;

export interface ProgramSpec {
  readonly tensors: readonly { readonly rows: number; readonly width: number; readonly offset: number }[];
  /** Numbers per row of each domain. */
  readonly arena: readonly number[];
  readonly ops: readonly NativeRecord[];
  readonly ropes: readonly NativeRecord[];
  readonly caches: readonly NativeRecord[];
  readonly constants: readonly Float32Array[];
  readonly linears: readonly WeightHandle[];
  readonly contextLength: number;
  readonly kvDtype: StoredFloat;
}

export function programSpec(
  program: Program,
  linears: readonly WeightHandle[],
  settings: Pick<ProgramSpec, 'contextLength' | 'kvDtype'>,
): ProgramSpec {
  const used = new Set(program.ops.flatMap(opConstants));
  const ops = besideAlike(program.ops);
  return {
    ...arenaOf({ ...program, ops }),
    ops: ops.map((op) => nativeOp(op, program)),
    ropes: program.ropes.map(nativeRope),
    caches: program.caches.map(({ rows, heads, keyDim, valueDim }) => ({
      encoder: rows === 'encoder',
      keyWidth: heads * keyDim,
      valueWidth: heads * valueDim,
    })),
    constants: program.constants.map((constant, id) => (used.has(id) ? toFloat32(constant) : new Float32Array(0))),
    linears,
    ...settings,
  };
}

/** Products of the same rows next to each other, where the addon runs them side by side: nothing else reads their results before they were due. */
function besideAlike(ops: readonly Op[]): readonly Op[] {
  const order: Op[] = [];
  for (const op of ops) {
    const alike = op.op === 'linear' ? order.findLastIndex((other) => other.op === 'linear' && other.x === op.x) : -1;
    if (alike < 0) order.push(op);
    else order.splice(alike + 1, 0, op);
  }
  return order;
}

/** Outputs live to the end. */
function arenaOf({ tensors, ops, outputs }: Program): Pick<ProgramSpec, 'tensors' | 'arena'> {
  const lives: { first: number; last: number }[] = [];
  for (const [index, op] of ops.entries()) {
    for (const id of [...opInputs(op), ...opResults(op)]) lives[id] = { first: lives[id]?.first ?? index, last: index };
  }
  for (const id of Object.values(outputs)) lives[id]!.last = ops.length;
  const placed = tensors.map(({ rows, width }) => ({ rows: DOMAINS.indexOf(rows), width }));
  const { offsets, widths } = placeTensors(placed, lives, { domains: DOMAINS.length });
  return { tensors: placed.map((tensor, id) => ({ ...tensor, offset: offsets[id]! })), arena: [...widths] };
}

function nativeRope(rope: Rope): NativeRecord {
  switch (rope.kind) {
    case 'fixed':
      return { kind: 0, frequencies: rope.frequencies, scale: rope.scale };
    case 'dynamic':
      return { ...rope, kind: 1 };
    case 'long':
      return { kind: 2, frequencies: rope.short, longer: rope.long, scale: rope.scale, original: rope.original };
  }
}

function nativeOp(op: Op, { tensors }: Program): NativeRecord {
  const { out } = op;
  switch (op.op) {
    case 'embed':
      return { op: op.op, out, linear: op.table, factor: op.scale };
    case 'input':
    case 'select':
    case 'inject':
      return { op: op.op, out, ...(op.op === 'input' ? {} : { x: op.x }) };
    case 'positionEmbed':
      return { op: op.op, out, x: op.x, constant: op.table, offset: op.offset };
    case 'norm': {
      const { x, eps, groups, weight, weightOffset, bias } = op;
      return { op: op.op, out, x, eps, groups, weightOffset, constant: weight, constant2: bias, layerNorm: op.kind === 'layer' };
    }
    case 'linear':
      return { op: op.op, out, x: op.x, linear: op.weight };
    case 'rope':
      return { op: op.op, out, x: op.x, heads: op.heads, dim: op.dim, interleaved: op.style === 'interleaved', rope: op.rope };
    case 'attend': {
      const { q, k, v, cache, heads, kvHeads, keyDim, valueDim, scale, causal, window, softcap, bias } = op;
      const relative = bias?.kind === 'relative' ? { ...bias, constant: bias.table } : {};
      const slopes = bias?.kind === 'alibi' ? { slopes: bias.slopes } : {};
      return {
        ...relative,
        ...slopes,
        op: op.op,
        out,
        x: q,
        y: k,
        z: v,
        cache,
        heads,
        kvHeads,
        keyDim,
        valueDim,
        factor: scale,
        causal,
        window,
        softcap,
      };
    }
    case 'remember':
      return { op: op.op, y: op.k, z: op.v, cache: op.cache };
    case 'activate':
      return { op: op.op, out, x: op.x, activation: op.kind };
    case 'gate':
      return { op: op.op, out, x: op.x, y: op.gate, activation: op.kind };
    case 'add':
      return { op: op.op, out, x: op.a, y: op.b, factor: op.factor };
    case 'scale':
      return { op: op.op, out, x: op.x, factor: op.factor };
    case 'softcap':
      return { op: op.op, out, x: op.x, softcap: op.cap };
    case 'slice':
      return { op: op.op, out, x: op.x, groups: op.groups, offset: op.offset, width: op.width };
    case 'route': {
      const { x, weights, topK, scoring, normalize, scale } = op;
      return { op: op.op, out, x, y: weights, topK, sigmoid: scoring === 'sigmoid', normalize, factor: scale };
    }
    case 'expertLinear':
      return { op: op.op, out, x: op.x, y: op.ids, experts: op.linears, width: tensors[out]!.width };
    case 'combine':
      return { op: op.op, out, x: op.x, y: op.weights };
  }
}
