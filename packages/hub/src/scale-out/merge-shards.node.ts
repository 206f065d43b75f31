// From shards to the folder that one process would have written. Tensors are copied to the places that the plan gave them; a file of a shard is removed as soon as
// what it held is durable in the output, so the disk holds the model once, and one such file. A merge that is killed goes on where it was.

import { mkdir, readFile, rm, stat, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type CallOptions, checkOptionNames, DTYPE_BYTES, elementCount, LowbitError } from '@lowbit/core';
import { openFolder, readInside } from '../folder.node.ts';
import { guarded } from '../io.node.ts';
import type { LinearReport } from '../plan/pipeline.ts';
import { exists } from '../safetensors/existing.node.ts';
import { JOURNAL_FILE } from '../safetensors/journal.ts';
import { takeLock } from '../safetensors/lock.node.ts';
import { openFolderOutput, putFile, syncFolder } from '../safetensors/output.node.ts';
import type { PlannedFile } from '../safetensors/shards.ts';
import { type SafetensorsSink, sinkOver } from '../safetensors/sink.ts';
import { openSafetensors } from '../safetensors/source.node.ts';
import { checkOut } from '../write-model.node.ts';
import { shardText } from './divide.ts';
import { BEAT_MS, finishedShards, readShard, removeEmpty, removeShard, shardsFolder } from './folders.node.ts';
import { type Job, sameJob } from './identity.ts';
import { tableTensors, weightErrorOf } from './manifest.ts';
import { checkShardFile, damaged, type FoundShard, fileOfShard, openShardSet, type ShardSet } from './shard-set.node.ts';

export interface MergeShardsOptions extends CallOptions {
  /** Folders of shards, or folders that hold some; default `<out>.shards`. */
  readonly from?: readonly string[] | undefined;
  /** Leave the shards where they are; the disk then holds everything twice. Default false: what is merged is removed. */
  readonly keepShards?: boolean | undefined;
  /** Replace `out` if it holds a model. Default false. */
  readonly overwrite?: boolean | undefined;
}

/** What `mergeShards` made. */
export interface MergeReport {
  /** Absolute path of the result. */
  readonly out: string;
  readonly shards: number;
  /** Of the result, as `quantizeCheckpoint` reports them. */
  readonly files: readonly PlannedFile[];
  readonly linears: readonly LinearReport[];
  readonly weightError: number;
  /** Which programs load the result, as sentences. */
  readonly loadsIn: readonly string[];
  readonly ms: number;
}

const OPTIONS = Object.keys({
  from: true,
  keepShards: true,
  overwrite: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof MergeShardsOptions, true>);

/** Written when the output is whole and about to get its name: what is left to do after a kill is to clear up. */
const MERGED_FILE = 'merged.json';
const PIECE = 8 << 20;
const MAX_OTHER_BYTES = 1 << 28;

/**
 * Makes one model folder of the shards that `quantizeShard` wrote: byte for byte what `quantizeCheckpoint` writes. Reads and writes each byte once, in bounded memory. An abort, an error or a kill leaves
 * what is needed to go on; the same call does.
 * @throws ERR_NOT_FOUND for shards that are not finished (details.missing), ERR_BAD_ARGUMENT for one that is there twice, ERR_JOURNAL_MISMATCH for shards of different sources, settings or versions,
 * ERR_OUTPUT_EXISTS while a worker or another merge is at work, or for an output that exists, ERR_BAD_CHECKPOINT for damaged shards, ERR_IO; abort throws the signal's reason
 *
 * @example
 * const { out, weightError } = await mergeShards('./model-hqq4');
 */
export async function mergeShards(out: string, options: MergeShardsOptions = {}): Promise<MergeReport> {
  checkOut('mergeShards', out);
  checkOptionNames('mergeShards', options, OPTIONS);
  options.signal?.throwIfAborted();
  const started = performance.now();
  const folder = resolve(out);
  const paths = (options.from ?? [shardsFolder(folder)]).map((path) => resolve(path));
  const earlier = await finishEarlier(folder, paths, options);
  if (earlier !== undefined) return { ...earlier, ms: performance.now() - started };
  await checkPaths(folder, paths, options);
  const set = await openShardSet(folder, paths);
  let report: MergeReport;
  try {
    report = { ...(await mergeSet(folder, set, options)), ms: performance.now() - started };
    if (options.keepShards !== true) for (const shard of set.shards) await removeShard(shard.folder);
    await rm(join(shardsFolder(folder), MERGED_FILE), { force: true });
  } finally {
    await set[Symbol.asyncDispose]();
  }
  await removeEmpty(shardsFolder(folder));
  return report;
}

/** Throws ERR_OUTPUT_EXISTS or ERR_NOT_FOUND where there is nothing to merge from. */
async function checkPaths(out: string, paths: readonly string[], { from }: MergeShardsOptions): Promise<void> {
  for (const path of paths) {
    if (await exists(path)) continue;
    if (from === undefined && (await exists(out))) {
      throw new LowbitError('ERR_OUTPUT_EXISTS', `${out} exists, and there are no shards for it: they were merged before`, {
        hint: 'Nothing is to be done, or another output is meant.',
        details: { path: out },
      });
    }
    throw new LowbitError('ERR_NOT_FOUND', `there are no shards at ${path}`, {
      hint: `Make them with quantize --shard 1/n to n/n and --out ${out}, or name the folders that they are in.`,
      details: { path },
    });
  }
}

type Merged = Omit<MergeReport, 'ms'>;

async function mergeSet(out: string, set: ShardSet, options: MergeShardsOptions): Promise<Merged> {
  const { shards, model, job, table } = set;
  const { keepShards = false, overwrite = false, signal, onProgress } = options;
  const { specs, late } = tableTensors(model);
  const sinkOptions = {
    fingerprint: JSON.stringify(['merge', job, table, shards.length]),
    shards: model.files.map((file) => file.map((index) => model.tensors[index]![0])),
    resume: true,
    overwrite,
    keepPartial: true,
  };
  const output = await openFolderOutput(out, sinkOptions, { beatMs: BEAT_MS });
  /** Complete from the time it is published on. */
  let merged: Merged | undefined;
  let room = 0;
  const sink = sinkOver(
    {
      ...output,
      // Each file of a shard is removed before the next is copied: there must be room for one.
      async checkSpace(files) {
        if (keepShards || !(await onOneDisk(output.partial, shards)) || !(await hasRoom(output.partial, room)))
          await output.checkSpace(files);
      },
      async publish() {
        merged = reportOf(out, set, sink.files, await otherSizes(output.partial, model.others));
        await mkdir(shardsFolder(out), { recursive: true });
        await putFile(join(shardsFolder(out), MERGED_FILE), new TextEncoder().encode(JSON.stringify({ job, merged })));
        await syncFolder(shardsFolder(out));
        await output.publish();
      },
    },
    sinkOptions,
  );
  try {
    const sizes = await checkFiles(shards, sink, { specs, late }, signal);
    room = Math.max(0, ...sizes.values());
    await sink.reserve(specs, model.metadata, late);
    await copyAll(shards, sink, sizes, late, { keepShards, signal, onProgress });
    const first = await openFolder(shards[0]!.folder);
    for (const name of model.others) {
      signal?.throwIfAborted();
      const data = await readInside(first, name, MAX_OTHER_BYTES);
      if (data === undefined) throw damaged(shards[0]!, `lists ${name}, which is not there`);
      await sink.writeFile(name, data);
    }
    signal?.throwIfAborted();
    await sink.close();
    return merged!;
  } catch (error) {
    await Promise.resolve(sink[Symbol.asyncDispose]()).catch(() => {}); // what went wrong first is what the caller must see
    throw error;
  }
}

const unitOf = ({ shard }: FoundShard, file: string): string => `${shardText(shard)} ${file}`;

/** Bytes of each file of the shards that is still to be copied, by unit. */
async function checkFiles(
  shards: readonly FoundShard[],
  sink: SafetensorsSink,
  model: ReturnType<typeof tableTensors>,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, number>> {
  const sizes = new Map<string, number>();
  for (const shard of shards) {
    for (const file of shard.files) {
      const unit = unitOf(shard, file[0]);
      if (!sink.done.has(unit)) sizes.set(unit, await checkShardFile(shard, file, model, signal));
    }
  }
  return sizes;
}

async function copyAll(
  shards: readonly FoundShard[],
  sink: SafetensorsSink,
  sizes: ReadonlyMap<string, number>,
  late: ReadonlySet<string>,
  { keepShards, signal, onProgress }: MergeShardsOptions,
): Promise<void> {
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  let done = 0;
  for (const shard of shards) {
    for (const [name, tensors] of shard.files) {
      const unit = unitOf(shard, name);
      const path = await fileOfShard(shard, name);
      if (!sink.done.has(unit)) {
        const before = done;
        await copyFile(path!, tensors, late, sink, signal, (bytes) => {
          done += bytes;
          onProgress?.({ phase: 'merge', done, total, unit: 'bytes', item: unit });
        });
        await sink.commit(unit, null);
        done = before + sizes.get(unit)!;
        onProgress?.({ phase: 'merge', done, total, unit: 'bytes', item: unit });
      }
      if (keepShards !== true && path !== undefined) await guarded('remove', path, () => rm(path, { force: true }));
    }
  }
}

async function copyFile(
  path: string,
  tensors: readonly string[],
  late: ReadonlySet<string>,
  sink: SafetensorsSink,
  signal: AbortSignal | undefined,
  advance: (bytes: number) => void,
): Promise<void> {
  await using source = await openSafetensors(path, { signal });
  for (const name of tensors) {
    const { dtype, shape } = source.entries.get(name)!;
    const count = elementCount(shape);
    const step = late.has(name) ? Math.max(1, count) : PIECE / DTYPE_BYTES[dtype]; // late bytes come in one write
    for (let at = 0; at < count || (at === 0 && late.has(name)); at += step) {
      const { data } = await source.read(name, { range: [at, Math.min(at + step, count)], signal });
      await sink.write(name, at, data);
      advance(data.byteLength);
    }
  }
}

/** Whether what is removed of the shards makes room for the output. */
async function onOneDisk(folder: string, shards: readonly FoundShard[]): Promise<boolean> {
  const { dev } = await stat(folder);
  const places = await Promise.all(shards.map((shard) => stat(shard.folder)));
  return places.every((place) => place.dev === dev);
}

/** True also where the file system does not know. */
async function hasRoom(folder: string, bytes: number): Promise<boolean> {
  const space = await statfs(folder).catch(() => undefined);
  return space === undefined || space.blocks === 0 || bytes <= space.bavail * space.bsize;
}

async function otherSizes(folder: string, names: readonly string[]): Promise<readonly PlannedFile[]> {
  return Promise.all(names.map(async (name) => ({ name, bytes: (await stat(join(folder, name))).size })));
}

function reportOf(out: string, { shards, model }: ShardSet, files: readonly PlannedFile[], others: readonly PlannedFile[]): Merged {
  const found = new Map(shards.flatMap((shard) => shard.linears.map((linear) => [linear.path, linear])));
  const linears = model.linears.map((path): LinearReport => ({ ...found.get(path)!, resumed: false }));
  return { out, shards: shards.length, files: [...files, ...others], linears, weightError: weightErrorOf(linears), loadsIn: model.loadsIn };
}

/**
 * What a merge that was killed after the output had its name left to do. Undefined if there was none: then everything is to be done. The output is
 * only believed to be of these shards if no other work lies beside it and no shard is of another job.
 */
async function finishEarlier(out: string, paths: readonly string[], { keepShards }: MergeShardsOptions): Promise<Merged | undefined> {
  const marker = join(shardsFolder(out), MERGED_FILE);
  if (!(await exists(marker)) || !(await exists(out)) || (await exists(`${out}.partial`))) return undefined;
  const text = await guarded('read', marker, () => readFile(marker, 'utf8'));
  let found: { readonly job?: Job; readonly merged?: Merged };
  try {
    found = JSON.parse(text);
  } catch {
    return undefined; // torn: the output did not have its name yet
  }
  const { job, merged } = found;
  if (job === undefined || merged === undefined) return undefined;
  const folders: string[] = [];
  for (const path of paths) if (await exists(path)) folders.push(...(await finishedShards(path)));
  for (const folder of folders) {
    const manifest = await readShard(folder);
    if (manifest !== undefined && !sameJob(manifest.job, job)) return undefined;
  }
  const lock = await takeLock(`${out}.partial.lock`, { beatMs: BEAT_MS });
  try {
    await rm(join(out, JOURNAL_FILE), { force: true });
    if (keepShards !== true) for (const folder of folders) await removeShard(folder);
    await rm(marker, { force: true });
  } finally {
    await lock.release();
  }
  await removeEmpty(shardsFolder(out));
  return merged;
}
