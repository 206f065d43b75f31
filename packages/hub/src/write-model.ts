// From a plan to a model folder: what quantizing a checkpoint and storing it in another way share.

import { type Json, LowbitError, type TensorSpec } from '@lowbit/core';
import type { StoredCheckpoint } from './checkpoint.ts';
import { writeConfig } from './config-file.ts';
import { isCarried } from './model-files.ts';
import { type ExecuteOptions, type ExecuteReport, executePlan } from './plan/pipeline.ts';
import { type PlanSummary, summarizePlan } from './plan/plan.ts';
import { type CheckpointPlan, lateTensors } from './plan/plan-tensors.ts';
import { type PlannedFile, PT_METADATA, planFiles, type ShardOptions } from './safetensors/shards.ts';
import type { SafetensorsSink, SafetensorsSinkOptions } from './safetensors/sink.ts';

/** What will be written: every file with its size, exact but for numbers in JSON texts: with double quantization it is the largest there can be. */
export interface QuantizationPlan {
  readonly plan: CheckpointPlan;
  readonly files: readonly PlannedFile[];
  readonly summary: PlanSummary;
  /** Which programs load the result, as sentences. */
  readonly loadsIn: readonly string[];
}

/** As planned, with the sizes of what was written. */
export interface QuantizationReport extends QuantizationPlan, ExecuteReport {
  /** Absolute path of the result; in a browser its name in the store. */
  readonly out: string;
}

export interface WriteModelOptions extends ExecuteOptions {
  /** Folder to write. It appears when it is complete; until then the work is in `<out>.partial`. */
  readonly out: string;
  /** Go on with `<out>.partial` of an interrupted run of the same job, and keep it if this run is interrupted, too. Default false. */
  readonly resume?: boolean | undefined;
  /** Replace `out` if it holds a model. Default false. */
  readonly overwrite?: boolean | undefined;
}

/** Names of those options, for checks. */
export const WRITE_OPTIONS: Readonly<Record<keyof WriteModelOptions, true>> = {
  out: true,
  resume: true,
  overwrite: true,
  maxMemory: true,
  concurrency: true,
  threads: true,
  runtime: true,
  allowNonFinite: true,
  signal: true,
  onProgress: true,
};

/** A plan, and what its files are made of. */
export interface Prepared {
  readonly planned: QuantizationPlan;
  readonly config: Uint8Array;
  /** For the header of each file. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly sharding: Pick<ShardOptions, 'shards' | 'shardSize'>;
}

/** Lays the files of a plan out. Throws ERR_BAD_ARGUMENT for a shard size that the layout has no use for. */
export async function prepareModel(
  source: StoredCheckpoint,
  plan: CheckpointPlan,
  { shardSize }: { readonly shardSize?: number | undefined },
): Promise<Prepared> {
  const { entries } = source.source;
  const config = writeConfig(plan.config, await source.file('config.json'));
  const metadata = plan.layout?.metadata ?? PT_METADATA;
  const sharding = shardingOf(plan, source, shardSize);
  const files = planFiles(tensorSpecs(plan), {
    ...sharding,
    metadata,
    late: lateTensors(plan),
    files: [['config.json', config.byteLength], ...carriedFiles(source)],
  });
  const loadsIn = plan.layout?.loadsIn(plan.linears) ?? [];
  return { planned: { plan, files, summary: summarizePlan(plan, entries), loadsIn }, config, metadata, sharding };
}

/** Where a plan is carried out, and from what. */
export interface ModelOutput {
  /**
   * Names, sizes and times of the source's files. A source that was exchanged for one of the same shapes makes another job.
   */
  sourceFiles(): Promise<Json>;
  open(options: SafetensorsSinkOptions): Promise<SafetensorsSink>;
}

/** Carries out a plan into the folder `out`, in bounded memory. An abort or an error leaves nothing behind (with `resume`: what is needed to go on). */
export async function writeModel(
  source: StoredCheckpoint,
  { planned, config, metadata, sharding }: Prepared,
  options: WriteModelOptions,
  output: ModelOutput,
): Promise<QuantizationReport> {
  const { resume = false, overwrite = false, allowNonFinite = false, signal } = options;
  const { plan } = planned;
  // What was let through by one run must not end up in the result of one that refuses it.
  const fingerprint = JSON.stringify([plan.fingerprint, await output.sourceFiles(), ...(allowNonFinite ? ['allowNonFinite'] : [])]);
  const sink = await output.open({ fingerprint, ...sharding, resume, overwrite, keepPartial: resume });
  try {
    await sink.reserve(tensorSpecs(plan), metadata, lateTensors(plan));
    const report = await executePlan(plan, source.source, sink, options);
    for await (const [name, data] of readCarried(source, signal)) await sink.writeFile(name, data);
    await sink.writeFile('config.json', config);
    signal?.throwIfAborted();
    await sink.close();
    const written = new Map(sink.files.map((file) => [file.name, file]));
    return { ...planned, ...report, files: planned.files.map((file) => written.get(file.name) ?? file), out: sink.folder };
  } catch (error) {
    await Promise.resolve(sink[Symbol.asyncDispose]()).catch(() => {}); // what went wrong first is what the caller must see
    throw error;
  }
}

/** By the layout's own rule, or by size. Throws ERR_BAD_ARGUMENT if a size is asked of a layout that has a rule. */
function shardingOf(plan: CheckpointPlan, source: StoredCheckpoint, shardSize: number | undefined): Prepared['sharding'] {
  const shards = plan.layout?.files?.({ config: source.config, linears: plan.linears, names: [...plan.tensors.keys()] });
  if (shards === undefined) return { shardSize };
  if (shardSize === undefined) return { shards };
  throw new LowbitError('ERR_BAD_ARGUMENT', `the layout ${plan.layout!.name} says itself which tensors share a file`, {
    hint: 'Leave shardSize out, or choose another layout.',
    details: { layout: plan.layout!.name, shardSize },
  });
}

/** The files that go along unchanged. */
export function carriedFiles(source: StoredCheckpoint): [name: string, bytes: number][] {
  return [...source.fileBytes].filter(([name]) => isCarried(name));
}

/** The same with their contents, one at a time. Throws ERR_BAD_CHECKPOINT for one that changed since the plan. */
export async function* readCarried(
  source: StoredCheckpoint,
  signal: AbortSignal | undefined,
): AsyncGenerator<readonly [name: string, data: Uint8Array]> {
  for (const [name, bytes] of carriedFiles(source)) {
    signal?.throwIfAborted();
    const data = await source.file(name);
    if (data?.byteLength !== bytes) {
      throw new LowbitError('ERR_BAD_CHECKPOINT', `${name} changed while it was being copied`, {
        hint: 'Run again when nothing else writes to the source folder.',
        details: { file: name, expected: bytes, actual: data?.byteLength },
      });
    }
    yield [name, data];
  }
}

/** What is reserved for a plan. */
export function tensorSpecs(plan: CheckpointPlan): ReadonlyMap<string, TensorSpec> {
  return new Map([...plan.tensors].map(([name, { spec }]) => [name, spec]));
}
