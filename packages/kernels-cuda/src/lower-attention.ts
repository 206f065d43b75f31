// Attention of a program as launches.

import { type OpOf, type PositionBias, relativeBiasTable, toFloat32 } from '@lowbit/core';
import type { Argument, StoredFloat } from './binding.ts';
import type { Fused } from './fuse.ts';
import { ATTEND_PARTS, fewRows } from './fused-launches.ts';
import { blocks, DOMAIN, FEW_ROWS, float, int, type RowCount } from './launches.ts';
import { type LoweringContext, STEP, tensor } from './lower-context.ts';
import type { ProductLowering } from './lower-products.ts';

const FLOATS: Readonly<Record<StoredFloat, number>> = { f32: 0, f16: 1, bf16: 2 };

export function appendLaunch(context: LoweringContext, k: number, v: number, cache: number): void {
  const width = (id: number): Argument => int(context.program.tensors[id]!.width);
  context.launches.push({
    kernel: 'append',
    grid: [blocks(context.rows(k)), 1, 1],
    block: 128,
    arguments: [
      ...[tensor(k), tensor(v), STEP, int(context.domain(k)), int(cache), width(k), width(v)],
      int(FLOATS[context.settings.kvDtype]),
    ],
  });
}

export function attendLaunches(context: LoweringContext, op: OpOf<'attend'>, rows: RowCount): void {
  const { q, k, v, cache, heads, keyDim, valueDim, out } = op;
  if (cache !== undefined && k !== undefined && v !== undefined) appendLaunch(context, k, v, cache);
  const own = cache === undefined;
  context.launches.push({
    kernel: 'attend',
    grid: [heads, blocks(rows), 1],
    block: 128,
    shared: 4 * (keyDim + 2 * valueDim),
    arguments: [
      ...[tensor(q), tensor(out), own ? tensor(k!) : null, own ? tensor(v!) : null, STEP],
      ...[int(context.domain(out)), int(cache ?? -1), ...attendArguments(context, op)],
    ],
  });
}

/** From the number of key heads to the dtype of keys and values. */
function attendArguments(
  context: LoweringContext,
  { heads, kvHeads, keyDim, valueDim, scale, causal, window = 0, softcap = 0, bias }: OpOf<'attend'>,
): readonly Argument[] {
  const added = positionBias(context, bias, heads);
  return [
    ...[int(kvHeads), int(keyDim), int(valueDim), float(scale), int(causal ? 1 : 0), int(window), float(softcap)],
    ...[int(added.kind), added.table, int(added.reach), int(FLOATS[context.settings.kvDtype])],
  ];
}

export function attendFew(context: LoweringContext, products: ProductLowering, { op, ropes }: Extract<Fused, { kind: 'attend' }>): void {
  const { q, k, v, cache, heads, keyDim, valueDim, out } = op;
  const domain = context.domain(out);
  const turn = ropes?.q;
  const partial = context.temporary(DOMAIN.once, FEW_ROWS * heads * ATTEND_PARTS * (valueDim + 2));
  const ended = context.buffer(`ended ${heads}`, () => new Uint8Array(4 * FEW_ROWS * heads));
  const planes = context.fusion.planes.has(out) ? products.planesFor(out) : undefined;
  const given = (id: number | undefined): Argument => (id === undefined ? null : tensor(id));
  context.launches.push(
    fewRows(domain, {
      kernel: 'attend_few',
      grid: [heads, blocks({ domain }), ATTEND_PARTS],
      block: 128,
      shared: 4 * (3 * keyDim + 4 * valueDim),
      arguments: [
        ...[tensor(ropes ? ropes.q.x : q), given(ropes ? ropes.k.x : k), given(v), STEP, int(cache!), ...attendArguments(context, op)],
        ...[
          int(turn?.rope ?? 0),
          int(turn?.dim ?? 0),
          int(turn?.style === 'interleaved' ? 1 : 0),
          float(turn ? context.ropeFactor(turn) : 1),
        ],
        ...[partial, ended, planes ? null : tensor(out), planes?.planes ?? null, planes?.numbers ?? null],
        int(planes?.order === 'natural' ? 1 : 0),
      ],
    }),
  );
}

function positionBias(
  context: LoweringContext,
  bias: PositionBias | undefined,
  heads: number,
): { kind: number; table: Argument; reach: number } {
  if (bias === undefined) return { kind: 0, table: null, reach: 0 };
  if (bias.kind === 'alibi') {
    return { kind: 1, table: context.floats(`slopes ${bias.slopes}`, () => Float32Array.from(bias.slopes)), reach: 0 };
  }
  const { table, buckets, maxDistance, bidirectional } = bias;
  const key = `relative ${table} ${buckets} ${maxDistance} ${bidirectional}`;
  const values = (): Float32Array => relativeBiasTable(toFloat32(context.program.constants[table]!), bias, heads);
  return { kind: 2, table: context.floats(key, values), reach: maxDistance };
}
