// Quantizing a checkpoint folder into another one: core's plan and pipeline between a folder that is read in pieces and one that is written in pieces.

import { type CheckpointLayout, checkOptionNames, type PlanOptions, planCheckpoint } from '@lowbit/core';
import { BUILTIN_LAYOUTS, type FolderCheckpoint } from './checkpoint.node.ts';
import {
  assertApart,
  checkOut,
  type Prepared,
  prepareModel,
  type QuantizationPlan,
  type QuantizationReport,
  WRITE_OPTIONS,
  type WriteModelOptions,
  writeModel,
} from './write-model.node.ts';

export interface PlanQuantizationOptions extends Omit<PlanOptions, 'layouts'> {
  /** Layouts of third parties; they are tried before the built-in ones. */
  readonly layouts?: readonly CheckpointLayout[] | undefined;
  /** Most bytes of tensors per safetensors file; default 5 GB. Not for layouts that say themselves how a checkpoint is split (`hqq-safetensors`). */
  readonly shardSize?: number | undefined;
}

export interface QuantizeCheckpointOptions extends PlanQuantizationOptions, WriteModelOptions {}

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
const QUANTIZE_OPTIONS = Object.keys({ ...PLAN, ...WRITE_OPTIONS });

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
  checkOut('quantizeCheckpoint', options.out);
  options.signal?.throwIfAborted();
  await assertApart(source.folder, options.out);
  return writeModel(source, await prepare(source, options), options);
}

async function prepare(source: FolderCheckpoint, options: PlanQuantizationOptions): Promise<Prepared> {
  const layouts = [...(options.layouts ?? []), ...BUILTIN_LAYOUTS];
  const plan = planCheckpoint(source.config, source.source.entries, { ...options, layouts });
  return prepareModel(source, plan, options);
}
