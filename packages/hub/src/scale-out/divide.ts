// Which shard does which work. It follows from the plan and the number of shards alone, so that workers need not speak to each other.

import { byteLength, type Entries, LowbitError, siteTensor } from '@lowbit/core';
import type { CheckpointPlan } from '../plan/plan-tensors.ts';

/** One of the shares that a job is divided into. */
export interface Shard {
  /** From 1 to `count`. */
  readonly index: number;
  readonly count: number;
}

/** A bound on the names in a folder, far beyond what is of use. */
const MOST_SHARDS = 99_999;

/** Copying a byte takes much less time than quantizing one; more than nothing, all the same. */
const COPY_COST = 1 / 8;

/** Throws ERR_BAD_ARGUMENT unless it is one of 1/n to n/n. */
export function checkShard(shard: unknown): asserts shard is Shard {
  const { index, count } = (typeof shard === 'object' && shard !== null ? shard : {}) as Partial<Record<string, unknown>>;
  const whole = Number.isInteger(index) && Number.isInteger(count);
  if (
    whole &&
    (count as number) >= 1 &&
    (count as number) <= MOST_SHARDS &&
    (index as number) >= 1 &&
    (index as number) <= (count as number)
  )
    return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `there is no shard ${String(index)}/${String(count)}`, {
    hint: `Shards count from 1: of 4 there are 1/4, 2/4, 3/4 and 4/4. At most ${MOST_SHARDS} are possible.`,
    details: { option: 'shard', index, count, limit: MOST_SHARDS },
  });
}

export function shardText({ index, count }: Shard): string {
  return `${index}/${count}`;
}

/** What one shard does of a plan: its units of work alone, with the bytes of the source that they read. */
export interface ShardPlan {
  readonly plan: CheckpointPlan;
  readonly sourceBytes: number;
}

/**
 * The share of a shard: neighbouring units of work in the order of the files, about equally expensive shares. A unit belongs to the shard in whose range its middle
 * lies, so every unit belongs to one shard, whatever their number; where units are few or large, a shard may have none.
 * `files`: the names of the tensors of each file.
 */
export function planOfShard(
  plan: CheckpointPlan,
  entries: Entries,
  files: readonly (readonly string[])[],
  { index, count }: Shard,
): ShardPlan {
  const shapes = new Map(plan.linears.map(({ site }) => [site.path, site]));
  const units = new Map<string, { readonly bytes: number; readonly cost: number }>();
  for (const name of files.flat()) {
    const { origin, spec } = plan.tensors.get(name)!;
    const unit = origin.kind === 'copy' ? `copy ${name}` : `linear ${origin.path}`;
    if (units.has(unit)) continue;
    if (origin.kind === 'copy') {
      const bytes = byteLength({ dtype: entries.get(origin.from)!.dtype, shape: spec.shape });
      units.set(unit, { bytes, cost: bytes * COPY_COST });
    } else {
      const site = shapes.get(origin.path)!;
      const bytes = byteLength({ dtype: entries.get(siteTensor(site).name)!.dtype, shape: site.shape });
      units.set(unit, { bytes, cost: bytes });
    }
  }
  const total = [...units.values()].reduce((sum, { cost }) => sum + cost, 0);
  const mine = new Set<string>();
  let before = 0;
  let sourceBytes = 0;
  for (const [unit, { bytes, cost }] of units) {
    const place = total > 0 ? (before + cost / 2) / total : 0;
    before += cost;
    if (Math.min(count, Math.floor(place * count) + 1) !== index) continue;
    mine.add(unit);
    sourceBytes += bytes;
  }
  const tensors = new Map(
    [...plan.tensors].filter(([name, { origin }]) => mine.has(origin.kind === 'copy' ? `copy ${name}` : `linear ${origin.path}`)),
  );
  const linears = plan.linears.filter(({ site }) => mine.has(`linear ${site.path}`));
  return { plan: { ...plan, tensors, linears }, sourceBytes };
}
