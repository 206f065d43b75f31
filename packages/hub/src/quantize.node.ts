// Quantizing a checkpoint folder into another one: core's plan and pipeline between a folder that is read in pieces and one that is written in pieces.

import { checkOptionNames } from '@lowbit/core';
import type { FolderCheckpoint } from './checkpoint.node.ts';
import { checkSource, type PlanQuantizationOptions, prepareQuantization, QUANTIZE_OPTIONS } from './plan-quantization.ts';
import type { RemoteCheckpoint } from './remote/checkpoint.ts';
import { assertApart, checkOut, folderOutput } from './write-model.node.ts';
import { type QuantizationReport, type WriteModelOptions, writeModel } from './write-model.ts';

export interface QuantizeCheckpointOptions extends PlanQuantizationOptions, WriteModelOptions {}

/**
 * Quantizes a checkpoint into the folder `out`, in bounded memory; one of `openRemoteCheckpoint` while it is fetched, without a copy on disk. An abort or an error leaves nothing behind (with `resume`: what is needed to go on).
 * @throws what `planQuantization` throws, ERR_OUTPUT_EXISTS, ERR_JOURNAL_MISMATCH, ERR_IO, ERR_NON_FINITE, ERR_DTYPE_OVERFLOW; abort throws the signal's reason
 *
 * @example
 * await using source = await openCheckpoint('./model');
 * const report = await quantizeCheckpoint(source, { out: './model-hqq4', quantizer: hqq({ bits: 4 }), adapters: [llama] });
 */
export async function quantizeCheckpoint(
  source: FolderCheckpoint | RemoteCheckpoint,
  options: QuantizeCheckpointOptions,
): Promise<QuantizationReport> {
  checkSource('quantizeCheckpoint', source);
  checkOptionNames('quantizeCheckpoint', options, QUANTIZE_OPTIONS);
  checkOut('quantizeCheckpoint', options.out);
  options.signal?.throwIfAborted();
  if ('folder' in source) await assertApart(source.folder, options.out);
  return writeModel(source, await prepareQuantization(source, options), options, folderOutput(source, options.out));
}
