// From a plan to a model folder: what quantizing a checkpoint and storing it in another way share.

import { realpath, stat } from 'node:fs/promises';
import { basename, resolve, sep } from 'node:path';
import {
  type CheckpointPlan,
  type ExecuteOptions,
  type ExecuteReport,
  executePlan,
  LowbitError,
  lateTensors,
  type PlanSummary,
  summarizePlan,
  type TensorSpec,
} from '@lowbit/core';
import type { FolderCheckpoint } from './checkpoint.node.ts';
import { writeConfig } from './config-file.ts';
import { isCarried } from './model-files.ts';
import { type PlannedFile, PT_METADATA, planFiles, type ShardOptions } from './safetensors/shards.ts';
import { createSafetensorsSink } from './safetensors/sink.node.ts';

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
  /** Absolute path of the result. */
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

/** Throws ERR_BAD_ARGUMENT unless `out` is the path of a folder. */
export function checkOut(call: string, out: unknown): void {
  if (typeof out === 'string' && out !== '') return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs the folder to write`, {
    hint: "Pass { out: './new-folder', ... }.",
    details: { option: 'out' },
  });
}

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
  source: FolderCheckpoint,
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

/** Carries out a plan into the folder `out`, in bounded memory. An abort or an error leaves nothing behind (with `resume`: what is needed to go on). */
export async function writeModel(
  source: FolderCheckpoint,
  { planned, config, metadata, sharding }: Prepared,
  options: WriteModelOptions,
): Promise<QuantizationReport> {
  const { out, resume = false, overwrite = false, signal } = options;
  const { plan } = planned;
  const fingerprint = await jobFingerprint(source, plan, options);
  const sink = await createSafetensorsSink(out, { fingerprint, ...sharding, resume, overwrite, keepPartial: resume });
  try {
    await sink.reserve(tensorSpecs(plan), metadata, lateTensors(plan));
    const report = await executePlan(plan, source.source, sink, options);
    for (const [name, bytes] of carriedFiles(source)) {
      signal?.throwIfAborted();
      const data = await source.file(name);
      if (data?.byteLength !== bytes) {
        throw new LowbitError('ERR_BAD_CHECKPOINT', `${name} changed while it was being copied`, {
          hint: 'Run again when nothing else writes to the source folder.',
          details: { file: name, expected: bytes, actual: data?.byteLength },
        });
      }
      await sink.writeFile(name, data);
    }
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

/** Throws ERR_BAD_ARGUMENT if the output would take the place of the source, by whatever name. */
export async function assertApart(source: string, out: string): Promise<void> {
  const [from, to] = [await realpath(source), await realpath(out).catch(() => resolve(out))];
  if (from !== to && !from.startsWith(to + sep)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `the output ${out} ${from === to ? 'is' : 'holds'} the source ${source}`, {
    hint: 'Choose a folder apart from the source.',
    details: { out: to, source: from },
  });
}

/** By the layout's own rule, or by size. Throws ERR_BAD_ARGUMENT if a size is asked of a layout that has a rule. */
function shardingOf(plan: CheckpointPlan, source: FolderCheckpoint, shardSize: number | undefined): Prepared['sharding'] {
  const shards = plan.layout?.files?.({ config: source.config, linears: plan.linears, names: [...plan.tensors.keys()] });
  if (shards === undefined) return { shardSize };
  if (shardSize === undefined) return { shards };
  throw new LowbitError('ERR_BAD_ARGUMENT', `the layout ${plan.layout!.name} says itself which tensors share a file`, {
    hint: 'Leave shardSize out, or choose another layout.',
    details: { layout: plan.layout!.name, shardSize },
  });
}

function carriedFiles(source: FolderCheckpoint): [name: string, bytes: number][] {
  return [...source.fileBytes].filter(([name]) => isCarried(name));
}

function tensorSpecs(plan: CheckpointPlan): ReadonlyMap<string, TensorSpec> {
  return new Map([...plan.tensors].map(([name, { spec }]) => [name, spec]));
}

/**
 * A source that was exchanged for one of the same shapes makes another job, so its files' sizes and times are part of it; and what was let through by
 * one run must not end up in the result of one that refuses it.
 */
async function jobFingerprint(
  source: FolderCheckpoint,
  plan: CheckpointPlan,
  { allowNonFinite = false }: WriteModelOptions,
): Promise<string> {
  const files = await Promise.all(
    source.source.files.map(async ({ path, size }) => [basename(path), size, Math.floor((await stat(path)).mtimeMs)] as const),
  );
  return JSON.stringify([plan.fingerprint, files, ...(allowNonFinite ? ['allowNonFinite'] : [])]);
}
