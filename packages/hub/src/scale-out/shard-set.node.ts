// All shards of a job, found, locked and compared before anything is made of them.

import { join } from 'node:path';
import { LowbitError } from '@lowbit/core';
import { openFolder, resolveInside } from '../folder.node.ts';
import { isCarried } from '../model-files.ts';
import { type Lock, takeLock } from '../safetensors/lock.node.ts';
import { INDEX_FILE } from '../safetensors/shards.ts';
import { openSafetensors } from '../safetensors/source.node.ts';
import { type Shard, shardText } from './divide.ts';
import { BEAT_MS, finishedShards, readShard, shardLock, unfinishedState } from './folders.node.ts';
import { type Job, sameJob } from './identity.ts';
import { MANIFEST_FILE, type ModelTable, type ShardManifest, tableDigest, tableTensors } from './manifest.ts';
import { difference } from './quantize-shard.node.ts';

export interface FoundShard extends ShardManifest {
  readonly folder: string;
}

export interface ShardSet extends AsyncDisposable {
  /** In their order, all of them. */
  readonly shards: readonly FoundShard[];
  readonly model: ModelTable;
  readonly job: Job;
  readonly table: string;
}

/**
 * Finds and locks the shards at `paths`, for the output `out`. Throws ERR_NOT_FOUND (details.missing) where one is missing, ERR_OUTPUT_EXISTS for one that a worker is at,
 * ERR_BAD_ARGUMENT for one that is there twice, ERR_JOURNAL_MISMATCH for shards of different jobs, ERR_BAD_CHECKPOINT for damaged ones.
 */
export async function openShardSet(out: string, paths: readonly string[]): Promise<ShardSet> {
  const folders = [...new Set((await Promise.all(paths.map(finishedShards))).flat())];
  const locks: Lock[] = [];
  const release = async (): Promise<void> => {
    for (const lock of locks.splice(0)) await lock.release();
  };
  try {
    const found: FoundShard[] = [];
    for (const folder of folders) {
      locks.push(await takeLock(shardLock(folder), { beatMs: BEAT_MS }));
      const manifest = await readShard(folder);
      if (manifest !== undefined) found.push({ ...manifest, folder });
    }
    const shards = await complete(out, paths, found);
    const [{ job, table, model }] = shards as [FoundShard];
    if (model === undefined || (await tableDigest(model)) !== table) throw damaged(shards[0]!, 'has no table of tensors, or a damaged one');
    checkTable(shards, model);
    return { shards, model, job, table, [Symbol.asyncDispose]: release };
  } catch (error) {
    await release();
    throw error;
  }
}

/** Sorted, one of each. */
async function complete(out: string, paths: readonly string[], found: readonly FoundShard[]): Promise<readonly FoundShard[]> {
  const [first] = found;
  if (first === undefined) {
    throw new LowbitError('ERR_NOT_FOUND', `there is no finished shard in ${paths.join(', ')}`, {
      hint: `Make them with quantize --shard 1/n to n/n and --out ${out}.`,
      details: { paths },
    });
  }
  const { count } = first.shard;
  const byIndex = new Map<number, FoundShard>();
  for (const shard of found) {
    const { index } = shard.shard;
    const other = shard.shard.count === count ? first : shard;
    if (other !== first) {
      throw new LowbitError(
        'ERR_JOURNAL_MISMATCH',
        `${first.folder} is one of ${count} shards, ${shard.folder} one of ${shard.shard.count}: they do not belong together`,
        { hint: 'Remove those of the division that is not wanted.', details: { paths: [first.folder, shard.folder] } },
      );
    }
    const twice = byIndex.get(index);
    if (twice !== undefined) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `shard ${shardText(shard.shard)} is there twice: ${twice.folder} and ${shard.folder}`, {
        hint: 'Leave one of them out.',
        details: { shard: shard.shard, paths: [twice.folder, shard.folder] },
      });
    }
    byIndex.set(index, shard);
  }
  const missing = Array.from({ length: count }, (_, i): Shard => ({ index: i + 1, count })).filter(({ index }) => !byIndex.has(index));
  if (missing.length > 0) throw await incomplete(out, missing);
  const shards = [...byIndex.values()].sort((a, b) => a.shard.index - b.shard.index);
  for (const shard of shards) {
    if (sameJob(shard.job, shards[0]!.job) && shard.table === shards[0]!.table) continue;
    const text = `shard ${shardText(shard.shard)} was made from ${difference(shard.job, shards[0]!.job)} than shard ${shardText(shards[0]!.shard)}`;
    throw new LowbitError('ERR_JOURNAL_MISMATCH', `${text}: ${shard.folder}`, {
      hint: 'Make all shards with the same source, settings, backend for importance and version; --overwrite (overwrite: true) does one anew.',
      details: { shard: shard.shard, path: shard.folder, found: shard.job, expected: shards[0]!.job },
    });
  }
  return shards;
}

async function incomplete(out: string, missing: readonly Shard[]): Promise<LowbitError> {
  const states = await Promise.all(missing.slice(0, 8).map(async (shard) => `${shardText(shard)} (${await unfinishedState(out, shard)})`));
  const more = missing.length > states.length ? ` and ${missing.length - states.length} more` : '';
  const one = missing.length === 1;
  return new LowbitError('ERR_NOT_FOUND', `${one ? 'a shard is' : 'shards are'} not finished: ${states.join(', ')}${more}`, {
    hint: `Run ${one ? 'it' : 'them'} (again), or wait for ${one ? 'it' : 'them'}: an interrupted shard goes on where it was.`,
    details: { missing },
  });
}

/** Throws ERR_BAD_CHECKPOINT unless the shards' lists are a division of the table. */
function checkTable(shards: readonly FoundShard[], model: ModelTable): void {
  const { specs } = tableTensors(model);
  const seen = new Set<string>();
  for (const shard of shards) {
    for (const name of shard.files.flatMap(([, tensors]) => tensors)) {
      if (!specs.has(name) || seen.has(name)) throw damaged(shard, `has the tensor ${JSON.stringify(name)}, which is not its own`);
      seen.add(name);
    }
    const files = shard.files.map(([name]) => name);
    const wrong = files.find((name, i) => !name.endsWith('.safetensors') || files.indexOf(name) !== i);
    if (wrong !== undefined) throw damaged(shard, `lists ${JSON.stringify(wrong)}, which is no file of a shard`);
  }
  for (const name of specs.keys())
    if (!seen.has(name)) throw damaged(shards[0]!, `has a tensor ${JSON.stringify(name)} that is in no shard`);
  const reported = new Set(shards.flatMap(({ linears }) => linears.map(({ path }) => path)));
  const unreported = model.linears.find((path) => !reported.has(path));
  if (unreported !== undefined) throw damaged(shards[0]!, `has a linear ${JSON.stringify(unreported)} that no shard reports`);
  const placed = model.files.flat();
  if (placed.length !== model.tensors.length || new Set(placed).size !== placed.length)
    throw damaged(shards[0]!, 'gives tensors to no file, or to two');
  const stranger = model.others.find((name) => name === INDEX_FILE || (name !== 'config.json' && !isCarried(name)));
  if (stranger !== undefined) throw damaged(shards[0]!, `lists ${JSON.stringify(stranger)}, which is of no model`);
}

/** Path of a file of a shard; undefined if it is not there. Throws ERR_BAD_CHECKPOINT for a link that leads out of the folder. */
export async function fileOfShard({ folder }: FoundShard, name: string): Promise<string | undefined> {
  return resolveInside(await openFolder(folder), name, join(folder, MANIFEST_FILE));
}

/** Throws ERR_BAD_CHECKPOINT unless the file holds just those tensors, in the shapes of the table. */
export async function checkShardFile(
  shard: FoundShard,
  [name, tensors]: FoundShard['files'][number],
  model: { readonly specs: ReturnType<typeof tableTensors>['specs']; readonly late: ReadonlySet<string> },
  signal: AbortSignal | undefined,
): Promise<number> {
  const path = await fileOfShard(shard, name);
  if (path === undefined) throw damaged(shard, `lists ${name}, which is not there`);
  await using source = await openSafetensors(path, { signal });
  if (source.entries.size !== tensors.length)
    throw damaged(shard, `says that ${name} has ${tensors.length} tensors; it has ${source.entries.size}`);
  for (const tensor of tensors) {
    const [got, want] = [source.entries.get(tensor), model.specs.get(tensor)!];
    const [length = 0] = got?.shape ?? [];
    const fits = model.late.has(tensor)
      ? got?.shape.length === 1 && length <= want.shape[0]!
      : got?.shape.length === want.shape.length && got.shape.every((size, i) => size === want.shape[i]);
    if (got?.dtype !== want.dtype || !fits)
      throw damaged(shard, `does not fit to ${name}: ${JSON.stringify(tensor)} is another tensor there`);
  }
  return source.files[0]!.size;
}

export function damaged({ folder, shard }: FoundShard, problem: string): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `${join(folder, MANIFEST_FILE)} ${problem}`, {
    hint: `Run shard ${shardText(shard)} again with --overwrite (overwrite: true), or copy its folder again.`,
    details: { path: folder, shard },
  });
}
