// Attention of a program as launches.

import { type OpOf, type PositionBias, relativeBiasTable, toFloat32 } from '@lowbit/core';
import type { Argument, StoredFloat } from './binding.ts';
import type { Fused } from './fuse.ts';
import { ATTEND_PARTS, fewRows } from './fused-launches.ts';
import { blocks, DOMAIN, FEW_ROWS, float, int, type RowCount, rowArgument } from './launches.ts';
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

/** Rows of a sequence in a step from which tensor cores multiply them. */
const TILED_ROWS = 16;
/** Of native/kernels/attention-tiles.cuh: rows to a block, keys at a time, and channels of values that a kernel has sums for. */
const TILE = { rows: 64, keys: 32, channels: [64, 128, 256] } as const;
const MOST_KEY_DIM = 256;
/** More than a step has. */
const MOST_ROWS = 2 ** 31 - 1;

/** The kernel that attends in tiles; undefined: none takes such heads. */
function tiledKernel({ keyDim, valueDim }: OpOf<'attend'>): string | undefined {
  const channels = TILE.channels.find((most) => valueDim <= most);
  const fits = keyDim % 8 === 0 && valueDim % 8 === 0 && keyDim <= MOST_KEY_DIM;
  return fits && channels !== undefined ? `attend_tiles${channels}` : undefined;
}

export function attendLaunches(context: LoweringContext, op: OpOf<'attend'>, rows: RowCount): void {
  const { q, k, v, cache, heads, keyDim, valueDim, out } = op;
  if (cache !== undefined && k !== undefined && v !== undefined) appendLaunch(context, k, v, cache);
  const own = cache === undefined;
  const domain = context.domain(out);
  const list = [
    ...[tensor(q), tensor(out), own ? tensor(k!) : null, own ? tensor(v!) : null, STEP],
    ...[int(domain), int(cache ?? -1), ...attendArguments(context, op)],
  ];
  const tiled = tiledKernel(op);
  const shared = 4 * (keyDim + 2 * valueDim);
  const each = { kernel: 'attend', grid: [heads, blocks(rows), 1], block: 128, shared } as const;
  context.launches.push({ ...each, arguments: [...list, int(tiled ? TILED_ROWS : MOST_ROWS)] });
  if (tiled === undefined) return;
  const stride = Math.max(Math.ceil(keyDim / 32) * 32 + 8, Math.ceil(valueDim / 16) * 16 + 4);
  context.launches.push({
    kernel: tiled,
    grid: [heads, blocks(rows, { per: TILE.rows }), 1],
    block: 128,
    shared: 4 * TILE.keys * stride,
    arguments: [...list, int(TILED_ROWS), rowArgument(rows)],
    where: { rows: domain, least: TILED_ROWS },
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
