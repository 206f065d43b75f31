// Attention as launches: keys and values into a cache, rotated on the way; then rows of queries one at a time, in tiles where a share has many of them, and
// with their keys in parts where there are few rows and many keys.

import { type ArenaTensor, type OpOf, type PositionBias, type Program, relativeBiasTable, type TensorId, toFloat32 } from '@lowbit/core';
import { DOMAIN, each, type Launch, type Scratch, type ShareUse, type TensorRef } from './launches.ts';
import type { StoredFloat } from './layout.ts';
import type { ProgramData } from './program-data.ts';
import { type AttentionOptions, attentionKernel, mergeKernel, ownWords, SPLIT } from './wgsl/attention.ts';
import { rowsOfTile, tiledAttentionKernel } from './wgsl/attention-tile.ts';
import { appendKernel, ropeKernel } from './wgsl/rope.ts';

export interface AttentionSite {
  readonly program: Program;
  readonly data: ProgramData;
  readonly tensors: readonly ArenaTensor[];
  readonly kvDtype: StoredFloat;
  readonly scratch: Scratch;
}

interface Rotations {
  readonly q?: OpOf<'rope'> | undefined;
  readonly k?: OpOf<'rope'> | undefined;
}

/** Rows of a share from which they are taken in tiles. */
const MANY = 8;

const tensor = (id: TensorId): TensorRef => ({ tensor: id });
const widthOf = ({ tensors }: AttentionSite, id: TensorId): number => tensors[id]!.width;
const domainOf = ({ tensors }: AttentionSite, id: TensorId): number => tensors[id]!.rows;

function ropeValues(site: AttentionSite, name: string, { rope, heads, dim, x }: OpOf<'rope'>): Record<string, number> {
  return { [`${name}_part`]: widthOf(site, x) / heads, [`${name}_dim`]: dim, [`${name}_angles`]: site.data.angles(rope, x) };
}

export function rotate(site: AttentionSite, op: OpOf<'rope'>): Launch {
  const values = { x: tensor(op.x), out: tensor(op.out), ...ropeValues(site, 'x', op) };
  return each(ropeKernel(op.style), domainOf(site, op.out), widthOf(site, op.out), values);
}

/** Rows into a cache, keys rotated on the way; queries beside them. Of shares with `least` rows and more. */
export function append(
  site: AttentionSite,
  { k, v, cache }: { readonly k: TensorId; readonly v: TensorId; readonly cache: number },
  { q: qRope, k: kRope }: Rotations = {},
  least = 1,
): Launch {
  const pairs = (width: number): number => Math.ceil(width / 2);
  const [kWidth, vWidth] = [widthOf(site, k), widthOf(site, v)];
  const qWidth = qRope ? widthOf(site, qRope.x) : 0;
  return {
    kernel: appendKernel({ dtype: site.kvDtype, q: qRope?.style, k: kRope?.style }),
    values: {
      ...{ k: tensor(kRope?.x ?? k), v: tensor(v), k_width: kWidth, v_width: vWidth, cache, q_pairs: pairs(qWidth) },
      ...(qRope ? { q: tensor(qRope.x), q_out: tensor(qRope.out), q_width: qWidth, ...ropeValues(site, 'q', qRope) } : {}),
      ...(kRope ? ropeValues(site, 'k', kRope) : {}),
    },
    x: Math.ceil((pairs(qWidth) + pairs(kWidth) + pairs(vWidth)) / 64),
    y: 1,
    share: { domain: domainOf(site, k), cache, least },
  };
}

export function attend(site: AttentionSite, op: OpOf<'attend'>, ropes: Rotations): readonly Launch[] {
  const { q, k, v, cache, heads, kvHeads, keyDim, valueDim, scale, causal, window = 0, softcap = 0, bias, out } = op;
  const added = positionBias(site, bias, heads);
  const options = {
    ...{ keyDim, valueDim, causal, window: window > 0, softcap: softcap > 0, bias: added.kind },
    cache: cache === undefined ? ('none' as const) : site.kvDtype,
  };
  const values = {
    ...{ q: tensor(q), out: tensor(out), heads, kv_heads: kvHeads, scale, window, cap: softcap, bias: added.table, reach: added.reach },
    ...(cache === undefined ? { k: tensor(k!), v: tensor(v!) } : { cache }),
  };
  const domain = domainOf(site, q);
  const tile = rowsOfTile(options);
  const launches: Launch[] = [];
  /** The new row of a share that has one. */
  const fresh = k !== undefined && v !== undefined && domainOf(site, k) === domain && cache !== undefined && ownWords(options);
  const least = fresh ? 2 : 1;
  if (cache !== undefined && k !== undefined && v !== undefined) launches.push(append(site, { k, v, cache }, ropes, least));
  if (tile > 1) {
    const share = { domain, cache, least: MANY, per: tile };
    launches.push({ kernel: tiledAttentionKernel(options), values, x: heads, y: 1, share });
  }
  const row = (share: Partial<ShareUse>, own: AttentionOptions, given: Launch['values']): readonly Launch[] =>
    rowLaunches(site, { domain, cache, ...share }, own, { ...values, ...given });
  launches.push(...row({ least, ...(tile > 1 ? { most: MANY - 1 } : {}) }, options, {}));
  if (!fresh) return launches;
  const { q: qRope, k: kRope } = ropes;
  const turned = { ...(qRope ? ropeValues(site, 'q', qRope) : {}), ...(kRope ? ropeValues(site, 'k', kRope) : {}) };
  const given = { ...turned, q: tensor(qRope?.x ?? q), k: tensor(kRope?.x ?? k), v: tensor(v) };
  return [...launches, ...row({ most: 1 }, { ...options, fresh: { q: qRope?.style, k: kRope?.style } }, given)];
}

/** Rows of shares that are not taken in tiles; `window` and `heads` are in `values`. */
function rowLaunches(site: AttentionSite, share: ShareUse, options: AttentionOptions, values: Launch['values']): readonly Launch[] {
  const { valueDim } = options;
  const { domain, cache } = share;
  const [window, heads] = [values.window as number, values.heads as number];
  // A row sees no more of a long cache than its window.
  const short = cache === undefined || (window > 0 && window < SPLIT.keys);
  const plain = { kernel: attentionKernel(options), values, x: heads, y: 1 };
  if (short) return [{ ...plain, share }];
  // Of each row and head, parts: what is largest, the sum of the shares, and sums of values.
  const parts = site.scratch(DOMAIN.once, SPLIT.rows * heads * SPLIT.parts * (valueDim + 2));
  const where = { domain, least: 1, most: SPLIT.rows };
  const long = { ...share, keys: { least: SPLIT.keys } };
  return [
    { ...plain, share: { ...share, keys: { most: SPLIT.keys - 1 } }, where },
    { ...plain, share, where: { domain, least: SPLIT.rows + 1 } },
    {
      kernel: attentionKernel({ ...options, split: true }),
      values: { ...values, parts },
      x: heads * SPLIT.parts,
      y: 1,
      share: long,
      where,
    },
    { kernel: mergeKernel(valueDim), values: { out: values.out!, heads, parts }, x: heads, y: 1, share: long, where },
  ];
}

function positionBias(
  { program, data }: AttentionSite,
  bias: PositionBias | undefined,
  heads: number,
): { readonly kind: 'none' | 'alibi' | 'relative'; readonly table: number; readonly reach: number } {
  if (bias === undefined) return { kind: 'none', table: 0, reach: 0 };
  if (bias.kind === 'alibi') {
    return { kind: 'alibi', table: data.floats(`slopes ${bias.slopes}`, () => Float32Array.from(bias.slopes)), reach: 0 };
  }
  const { table, buckets, maxDistance, bidirectional } = bias;
  const key = `relative ${table} ${buckets} ${maxDistance} ${bidirectional}`;
  const values = (): Float32Array => relativeBiasTable(toFloat32(program.constants[table]!), bias, heads);
  return { kind: 'relative', table: data.floats(key, values), reach: maxDistance };
}
