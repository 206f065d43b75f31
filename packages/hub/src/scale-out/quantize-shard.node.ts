// One worker's share of a quantization. It writes a folder of its own, `OUT.shards/00002-of-00004`, with the journal and the atomic end of any output:
// a worker that is killed goes on where it was, and a shard is there whole or not at all.

import { join, resolve } from 'node:path';
import { byteLength, checkOptionNames, LowbitError } from '@lowbit/core';
import type { FolderCheckpoint } from '../checkpoint.node.ts';
import { sha256 } from '../digest.ts';
import { type ExecuteReport, executePlan } from '../plan/pipeline.ts';
import { lateTensors } from '../plan/plan-tensors.ts';
import { checkSource, prepareQuantization, QUANTIZE_OPTIONS } from '../plan-quantization.ts';
import type { QuantizeCheckpointOptions } from '../quantize.node.ts';
import type { RemoteCheckpoint } from '../remote/checkpoint.ts';
import { exists } from '../safetensors/existing.node.ts';
import { takeLock } from '../safetensors/lock.node.ts';
import { openFolderOutput } from '../safetensors/output.node.ts';
import { planSafetensors, planShards } from '../safetensors/shards.ts';
import { type SafetensorsSink, sinkOver } from '../safetensors/sink.ts';
import { version } from '../version.node.ts';
import { assertApart, checkOut } from '../write-model.node.ts';
import { carriedFiles, type Prepared, type QuantizationPlan, readCarried, tensorSpecs } from '../write-model.ts';
import { checkShard, planOfShard, type Shard, shardText } from './divide.ts';
import { BEAT_MS, dropShard, readShard, shardFolder, shardLock } from './folders.node.ts';
import { type Job, sameJob, sourceDigest } from './identity.ts';
import { MANIFEST_FILE, type ModelTable, type ShardManifest, tableDigest, weightErrorOf, writeManifest } from './manifest.ts';

/** Settings of `quantizeShard`: those of `quantizeCheckpoint`, the same for every worker, and the share. */
export interface QuantizeShardOptions extends Omit<QuantizeCheckpointOptions, 'resume'> {
  /** Which share of the work, of how many: `{ index: 2, count: 4 }`. */
  readonly shard: Shard;
  /** The folder that all shards become in the end: this one is written beside it, into `<out>.shards`. */
  readonly out: string;
  /** Do the shard anew, whatever there is of it. Default false: what a killed worker has finished is taken over. */
  readonly overwrite?: boolean | undefined;
}

export interface ShardReport extends ExecuteReport {
  readonly shard: Shard;
  /** Absolute path of the shard's own folder. */
  readonly folder: string;
  /** Bytes of weights that this share reads, and bytes of tensors that it writes. */
  readonly sourceBytes: number;
  readonly bytes: number;
  /** It was there whole already: nothing was done. */
  readonly finished: boolean;
  /** What all shards become. */
  readonly planned: QuantizationPlan;
}

/** Most bytes of a file of a shard: what merging needs beside the model at a time. */
const FILE_BYTES = 1_000_000_000;

const OPTIONS = [...QUANTIZE_OPTIONS.filter((name) => name !== 'resume'), 'shard'];

/**
 * Does one share of `quantizeCheckpoint`: on any machine, in any order, beside others or after them. When all are done, `mergeShards` makes of them the folder that one process would have written, byte for byte. Interrupted work
 * (an abort or an error, too) is kept and taken up by the next call for the same shard; a finished shard is left as it is.
 * @throws what `quantizeCheckpoint` throws; ERR_BAD_ARGUMENT for a shard that there is not, ERR_OUTPUT_EXISTS if another worker is at it, or the output is there already,
 * ERR_JOURNAL_MISMATCH if the shard was done with another source, other settings or another version
 *
 * @example
 * await using source = await openCheckpoint('./model');
 * await quantizeShard(source, { out: './model-hqq4', shard: { index: 2, count: 4 }, quantizer: hqq(), adapters: [llama] });
 */
export async function quantizeShard(source: FolderCheckpoint | RemoteCheckpoint, options: QuantizeShardOptions): Promise<ShardReport> {
  checkSource('quantizeShard', source);
  checkOptionNames('quantizeShard', options, OPTIONS);
  const { out, shard, overwrite = false, allowNonFinite = false, signal } = options;
  checkOut('quantizeShard', out);
  checkShard(shard);
  signal?.throwIfAborted();
  if ('folder' in source) await assertApart(source.folder, out);
  const prepared = await prepareQuantization(source, options);
  const { planned, config } = prepared;
  const model = tableOf(prepared, ['config.json', ...carriedFiles(source).map(([name]) => name)]);
  const table = await tableDigest(model);
  const job: Job = {
    settings: await sha256(JSON.stringify([planned.plan.fingerprint, table, allowNonFinite])),
    source: await sourceDigest(source, signal),
    version: version(),
  };
  const names = model.files.map((file) => file.map((index) => model.tensors[index]![0]));
  const share = planOfShard(planned.plan, source.source.entries, names, shard);
  const specs = tensorSpecs(share.plan);
  const late = lateTensors(share.plan);
  const folder = shardFolder(out, shard);
  const report = {
    shard,
    folder,
    sourceBytes: share.sourceBytes,
    bytes: [...specs.values()].reduce((sum, spec) => sum + byteLength(spec), 0),
    planned,
  };

  if (!overwrite) {
    const there = await finishedBefore(folder, resolve(out), shard, job);
    if (there !== undefined) return { ...report, ...resumedReport(there), finished: true };
    if (await exists(resolve(out))) {
      throw new LowbitError('ERR_OUTPUT_EXISTS', `${resolve(out)} exists: its shards were merged, or it is of something else`, {
        hint: 'Choose another output folder, or remove it.',
        details: { path: resolve(out) },
      });
    }
  } else if (await exists(folder)) {
    const lock = await takeLock(shardLock(folder), { beatMs: BEAT_MS });
    await dropShard(folder).finally(() => lock.release());
  }

  const sinkOptions = {
    fingerprint: JSON.stringify([job, shard.index, shard.count]),
    shardSize: FILE_BYTES,
    resume: !overwrite,
    overwrite,
    keepPartial: true,
  };
  const sink = sinkOver(await openFolderOutput(folder, sinkOptions, { beatMs: BEAT_MS }), sinkOptions);
  try {
    await sink.reserve(specs, {}, late);
    const done = await executePlan(share.plan, source.source, sink, options);
    if (shard.index === 1) await writeOthers(sink, source, config, options);
    const files = planSafetensors(specs, {}, { shardSize: FILE_BYTES, late }).files;
    const manifest: ShardManifest = {
      shard: { index: shard.index, count: shard.count },
      job,
      table,
      ...(shard.index === 1 ? { model } : {}),
      files: files.map(({ name, layout }) => [name, [...layout.tensors.keys()]]),
      copied: done.copied,
      linears: done.linears.map(({ resumed: _, ...linear }) => linear),
    };
    await sink.writeFile(MANIFEST_FILE, writeManifest(manifest));
    signal?.throwIfAborted();
    await sink.close();
    return { ...report, ...done, finished: false };
  } catch (error) {
    await Promise.resolve(sink[Symbol.asyncDispose]()).catch(() => {}); // what went wrong first is what the caller must see
    throw error;
  }
}

/**
 * A finished shard of this job. One that merging has begun to take apart is finished, too: what is not in it any more is in the output, or its unfinished folder. Throws ERR_JOURNAL_MISMATCH for one of another job.
 */
async function finishedBefore(folder: string, out: string, shard: Shard, job: Job): Promise<ShardManifest | undefined> {
  const there = await readShard(folder);
  if (there === undefined) return undefined;
  if (!sameJob(there.job, job)) throw otherJob(folder, shard, there.job, job);
  for (const [name] of there.files) {
    if ((await exists(join(folder, name))) || (await exists(`${out}.partial`)) || (await exists(out))) continue;
    await dropShard(folder);
    return undefined;
  }
  return there;
}

function otherJob(folder: string, shard: Shard, there: Job, wanted: Job): LowbitError {
  return new LowbitError('ERR_JOURNAL_MISMATCH', `shard ${shardText(shard)} is there already, of ${difference(there, wanted)}: ${folder}`, {
    hint: 'Repeat the run with the same source, settings and version as the other shards, or pass --overwrite (overwrite: true) to do this one anew.',
    details: { path: folder, shard, found: there, expected: wanted },
  });
}

/** The most telling difference of two jobs. */
export function difference(there: Job, wanted: Job): string {
  if (there.version !== wanted.version) return `another version of lowbit (${there.version}, not ${wanted.version})`;
  return there.source !== wanted.source ? 'another source' : 'other settings';
}

function resumedReport({ linears, copied }: ShardManifest): ExecuteReport {
  const found = linears.map((linear) => ({ ...linear, resumed: true }));
  return { linears: found, weightError: weightErrorOf(found), ms: 0, copied, resumed: found.length + copied };
}

async function writeOthers(
  sink: SafetensorsSink,
  source: FolderCheckpoint | RemoteCheckpoint,
  config: Uint8Array,
  { signal }: QuantizeShardOptions,
): Promise<void> {
  for await (const [name, data] of readCarried(source, signal)) await sink.writeFile(name, data);
  await sink.writeFile('config.json', config);
}

/** The model as a table, the same on every worker. */
function tableOf({ planned: { plan, loadsIn }, metadata, sharding }: Prepared, others: readonly string[]): ModelTable {
  const late = lateTensors(plan);
  const tensors = [...plan.tensors].map(([name, { spec }]) => [name, spec.dtype, [...spec.shape], late.has(name) ? 1 : 0] as const);
  const places = new Map(tensors.map(([name], index) => [name, index]));
  const files =
    sharding.shards ??
    planShards(
      [...plan.tensors].map(([name, { spec }]) => [name, byteLength(spec)] as const),
      sharding.shardSize,
    );
  return {
    tensors,
    files: files.map((names) => names.map((name) => places.get(name)!)),
    metadata,
    others,
    linears: plan.linears.flatMap(({ site, format }) => (format ? [site.path] : [])),
    loadsIn,
  };
}
