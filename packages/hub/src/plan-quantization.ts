// Planning the quantization of a checkpoint: core's plan, and the files it becomes.

import { type CheckpointLayout, checkOptionNames, LowbitError } from '@lowbit/core';
import type { StoredCheckpoint } from './checkpoint.ts';
import { BUILTIN_LAYOUTS } from './layouts/builtin.ts';
import { type PlanOptions, planCheckpoint } from './plan/plan.ts';
import { type Prepared, prepareModel, type QuantizationPlan, WRITE_OPTIONS } from './write-model.ts';

/** Of `planQuantization`. */
export interface PlanQuantizationOptions extends Omit<PlanOptions, 'layouts'> {
  /** Layouts of third parties; they are tried before the built-in ones. */
  readonly layouts?: readonly CheckpointLayout[] | undefined;
  /** Most bytes of tensors per safetensors file; default 5 GB. Not for layouts that say themselves how a checkpoint is split (`hqq-safetensors`). */
  readonly shardSize?: number | undefined;
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
/** Names of the options that quantize and write. */
export const QUANTIZE_OPTIONS = Object.keys({ ...PLAN, ...WRITE_OPTIONS });

/**
 * Plans without reading weights or writing anything. The sizes are those of the files that `quantizeCheckpoint` then writes, to the byte; with double
 * quantization of bitsandbytes files come out a few bytes per linear smaller.
 * @throws what core's `planCheckpoint` throws, and ERR_BAD_ARGUMENT for an unknown option
 */
export async function planQuantization(source: StoredCheckpoint, options: PlanQuantizationOptions): Promise<QuantizationPlan> {
  checkSource('planQuantization', source);
  checkOptionNames('planQuantization', options, PLAN_OPTIONS);
  return (await prepareQuantization(source, options)).planned;
}

/** Throws ERR_BAD_ARGUMENT unless `source` is an open checkpoint. */
export function checkSource(call: string, source: unknown): void {
  if ((source as Partial<StoredCheckpoint> | undefined)?.source?.entries) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs an open checkpoint`, { hint: "Pass await openCheckpoint('./model')." });
}

export async function prepareQuantization(source: StoredCheckpoint, options: PlanQuantizationOptions): Promise<Prepared> {
  const layouts = [...(options.layouts ?? []), ...BUILTIN_LAYOUTS];
  const plan = planCheckpoint(source.config, source.source.entries, { ...options, layouts });
  return prepareModel(source, plan, options);
}
