// Storing a quantized model folder in another way, by paths: hub's conversion with the adapters of models, and a report for people.

import type { CallOptions } from '@lowbit/core';
import {
  type ConvertCheckpointOptions,
  convertCheckpoint,
  type PlanConversionOptions,
  planConversion as planCheckpoint,
} from '@lowbit/hub';
import { defaultAdapters } from '@lowbit/models';
import { checkedOptions } from './checked-options.ts';
import { openModelFolder } from './open.ts';
import { sizeOf } from './plan-options.ts';
import { describe, type ModelPlan } from './quantize-model.ts';

/** Hub's options; `adapters` come in addition to the built-in ones. */
export interface PlanConvertOptions extends Omit<PlanConversionOptions, 'shardSize'>, Pick<CallOptions, 'signal'> {
  /** Most bytes of a safetensors file, as a number or as text such as `2GB`; default 5 GB. */
  readonly shardSize?: number | string | undefined;
}

export interface ConvertModelOptions extends PlanConvertOptions, Omit<ConvertCheckpointOptions, keyof PlanConvertOptions | 'maxMemory'> {
  /** Bound for codes in flight, as a number of bytes or as text such as `512MiB`; default 192 MiB. */
  readonly maxMemory?: number | string | undefined;
}

/** What will be written. */
export interface ConversionPlan extends ModelPlan {
  /** What was noticed while reading the source, as sentences. */
  readonly notes: readonly string[];
}

export interface ConvertModelReport extends ConversionPlan {
  /** Absolute path of the result. */
  readonly out: string;
  /** Units of work found done by an interrupted run. */
  readonly resumed: number;
  readonly ms: number;
}

/**
 * Plans a conversion. Reads headers and small tensors, writes nothing.
 * @throws what `openModelFolder` and hub's `planConversion` throw
 */
export async function planConversion(path: string, options: PlanConvertOptions): Promise<ConversionPlan> {
  const { signal: _, shardSize: __, ...rest } = checkedOptions('planConversion', options);
  const checkpoint = await openModelFolder(path, options);
  try {
    const planned = await planCheckpoint(checkpoint, { ...rest, ...planOptions(options) });
    return { ...describe(checkpoint, planned, options), notes: checkpoint.notes };
  } finally {
    await checkpoint[Symbol.asyncDispose]();
  }
}

/**
 * Stores a folder that was quantized with HIGGS in another packing in the folder `out`, in bounded memory and without quantizing again. An abort or an error
 * leaves nothing behind (with `resume`: what is needed to go on).
 * @throws what `openModelFolder` and hub's `convertCheckpoint` throw; abort throws the signal's reason
 *
 * @example
 * const { loadsIn } = await convertModel('./model-higgs4', { out: './model-higgs4-flute', flute: 32 });
 */
export async function convertModel(path: string, options: ConvertModelOptions): Promise<ConvertModelReport> {
  const started = performance.now();
  const { maxMemory, shardSize: _, ...rest } = checkedOptions('convertModel', options);
  const checkpoint = await openModelFolder(path, options);
  try {
    const done = await convertCheckpoint(checkpoint, { ...rest, ...planOptions(options), maxMemory: sizeOf(maxMemory) });
    const { out, resumed } = done;
    return {
      ...describe(checkpoint, done, options),
      notes: checkpoint.notes,
      out,
      resumed,
      ms: performance.now() - started,
    };
  } finally {
    await checkpoint[Symbol.asyncDispose]();
  }
}

function planOptions({ flute, adapters = [], layouts, codecs, shardSize }: PlanConvertOptions): PlanConversionOptions {
  return { flute, layouts, codecs, adapters: [...adapters, ...defaultAdapters], shardSize: sizeOf(shardSize) };
}
