// Options of a model folder as hub has them.

import type { JsonObject, ModelAdapter } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import type { FolderCheckpoint, PlanQuantizationOptions } from '@lowbit/hub';
import { byName, defaultAdapters } from '@lowbit/models';
import { parseSize } from './parse.ts';
import type { PlanModelOptions } from './quantize-model.ts';

/** Hub's options of a plan, with all adapters. */
export function planOptions(
  { signal: _, quantizer = hqq(), adapters = [], shardSize, ...rest }: PlanModelOptions,
  { config }: Pick<FolderCheckpoint, 'config'>,
): PlanQuantizationOptions {
  const known = [...adapters, ...defaultAdapters];
  const unknown = unknownType(config, known);
  return { ...rest, quantizer, adapters: unknown === undefined ? known : [...known, byName(unknown)], shardSize: sizeOf(shardSize) };
}

/** The model_type of config.json, if it is a name that no adapter serves. */
export function unknownType({ model_type: type }: JsonObject, adapters: readonly ModelAdapter[]): string | undefined {
  return typeof type === 'string' && !adapters.some(({ modelTypes }) => modelTypes.includes(type)) ? type : undefined;
}

/** Bytes, of text such as `4GB`. Throws ERR_BAD_ARGUMENT. */
export function sizeOf(size: number | string | undefined): number | undefined {
  return typeof size === 'string' ? parseSize(size) : size;
}
