// Quantizing a checkpoint folder into another one: core's plan and pipeline between a folder that is read in pieces and one that is written in pieces.

import { realpath, stat } from 'node:fs/promises';
import { basename, resolve, sep } from 'node:path';
import {
  type CheckpointLayout,
  type CheckpointPlan,
  checkOptionNames,
  type ExecuteOptions,
  type ExecuteReport,
  executePlan,
  LowbitError,
  lateTensors,
  type PlanOptions,
  type PlanSummary,
  planCheckpoint,
  summarizePlan,
  type TensorSpec,
} from '@lowbit/core';
import { BUILTIN_LAYOUTS, type FolderCheckpoint } from './checkpoint.node.ts';
import { writeConfig } from './config-file.ts';
import { isCarried } from './model-files.ts';
import { type PlannedFile, PT_METADATA, planFiles, type ShardOptions } from './safetensors/shards.ts';
import { createSafetensorsSink } from './safetensors/sink.node.ts';

export interface PlanQuantizationOptions extends Omit<PlanOptions, 'layouts'> {
  /** Layouts of third parties; they are tried before the built-in ones. */
  readonly layouts?: readonly CheckpointLayout[] | undefined;
  /** Most bytes of tensors per safetensors file; default 5 GB. Not for layouts that say themselves how a checkpoint is split (`hqq-safetensors`). */
  readonly shardSize?: number | undefined;
}

export interface QuantizeCheckpointOptions extends PlanQuantizationOptions, ExecuteOptions {
  /** Folder to write. It appears when it is complete; until then the work is in `<out>.partial`. */
  readonly out: string;
  /** Go on with `<out>.partial` of an interrupted run of the same job, and keep it if this run is interrupted, too. Default false. */
  readonly resume?: boolean | undefined;
  /** Replace `out` if it holds a model. Default false. */
  readonly overwrite?: boolean | undefined;
}

const PLAN = {
  quantizer: true,
  rules: true,
  adapters: true,
  layouts: true,
  layout: true,
  dtype: true,
  codecs: true,
  importance: true,
  shardSize: true,
} satisfies Record<keyof PlanQuantizationOptions, true>;
const PLAN_OPTIONS = Object.keys(PLAN);
const QUANTIZE_OPTIONS = Object.keys({
  ...PLAN,
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
} satisfies Record<keyof QuantizeCheckpointOptions, true>);

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

/**
 * Plans without reading weights or writing anything. The sizes are those of the files that `quantizeCheckpoint` then writes, to the byte; with double
 * quantization of bitsandbytes files come out a few bytes per linear smaller.
 * @throws what core's `planCheckpoint` throws, and ERR_BAD_ARGUMENT for an unknown option
 */
export async function planQuantization(source: FolderCheckpoint, options: PlanQuantizationOptions): Promise<QuantizationPlan> {
  checkOptionNames('planQuantization', options, PLAN_OPTIONS);
  return (await prepare(source, options)).planned;
}

/**
 * Quantizes a checkpoint into the folder `out`, in bounded memory. An abort or an error leaves nothing behind (with `resume`: what is needed to go on).
 * @throws what `planQuantization` throws, ERR_OUTPUT_EXISTS, ERR_JOURNAL_MISMATCH, ERR_IO, ERR_NON_FINITE, ERR_DTYPE_OVERFLOW; abort throws the signal's reason
 *
 * @example
 * await using source = await openCheckpoint('./model');
 * const report = await quantizeCheckpoint(source, { out: './model-hqq4', quantizer: hqq({ bits: 4 }), adapters: [llama] });
 */
export async function quantizeCheckpoint(source: FolderCheckpoint, options: QuantizeCheckpointOptions): Promise<QuantizationReport> {
  checkOptionNames('quantizeCheckpoint', options, QUANTIZE_OPTIONS);
  const { out, resume = false, overwrite = false, signal } = options;
  signal?.throwIfAborted();
  await assertApart(source.folder, out);
  const { planned, config, metadata, sharding } = await prepare(source, options);
  const { plan } = planned;
  const fingerprint = await jobFingerprint(source, plan);
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
async function assertApart(source: string, out: string): Promise<void> {
  const [from, to] = [await realpath(source), await realpath(out).catch(() => resolve(out))];
  if (from !== to && !from.startsWith(to + sep)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `the output ${out} ${from === to ? 'is' : 'holds'} the source ${source}`, {
    hint: 'Choose a folder apart from the source.',
    details: { out: to, source: from },
  });
}

/** A plan, and what its files are made of. */
interface Prepared {
  readonly planned: QuantizationPlan;
  readonly config: Uint8Array;
  /** For the header of each file. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly sharding: Pick<ShardOptions, 'shards' | 'shardSize'>;
}

async function prepare(source: FolderCheckpoint, options: PlanQuantizationOptions): Promise<Prepared> {
  const { layouts = [], codecs } = options;
  const { entries } = source.source;
  const plan = planCheckpoint(source.config, entries, { ...options, layouts: [...layouts, ...BUILTIN_LAYOUTS] });
  const config = writeConfig(plan.config, await source.file('config.json'));
  const metadata = plan.layout?.metadata ?? PT_METADATA;
  const sharding = shardingOf(plan, source, options.shardSize);
  const files = planFiles(tensorSpecs(plan), {
    ...sharding,
    metadata,
    late: lateTensors(plan),
    files: [['config.json', config.byteLength], ...carriedFiles(source)],
  });
  const loadsIn = plan.layout?.loadsIn(plan.linears) ?? [];
  return { planned: { plan, files, summary: summarizePlan(plan, entries, codecs), loadsIn }, config, metadata, sharding };
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

/** A source that was exchanged for one of the same shapes makes another job, so its files' sizes and times are part of it. */
async function jobFingerprint(source: FolderCheckpoint, plan: CheckpointPlan): Promise<string> {
  const files = await Promise.all(
    source.source.files.map(async ({ path, size }) => [basename(path), size, Math.floor((await stat(path)).mtimeMs)] as const),
  );
  return JSON.stringify([plan.fingerprint, files]);
}
