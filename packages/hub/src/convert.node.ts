// Storing a quantized checkpoint in another way: its codes are taken over, nothing is quantized again.

import { type CheckpointLayout, checkOptionNames, type FormatCodec, LowbitError, type ModelAdapter } from '@lowbit/core';
import type { HiggsPacking } from '@lowbit/layouts';
import type { FolderCheckpoint } from './checkpoint.node.ts';
import { BUILTIN_LAYOUTS } from './layouts/builtin.ts';
import { higgsLayout } from './layouts/higgs.ts';
import { checkTiles, recodeHiggs } from './layouts/higgs-recode.ts';
import { planRecoding } from './plan/plan-recoding.ts';
import { assertApart, checkOut, folderOutput } from './write-model.node.ts';
import {
  type Prepared,
  prepareModel,
  type QuantizationPlan,
  type QuantizationReport,
  WRITE_OPTIONS,
  type WriteModelOptions,
  writeModel,
} from './write-model.ts';

export type { HiggsPacking };

/** Of `planConversion`. */
export interface PlanConversionOptions {
  /**
   * How codes of HIGGS are packed: in FLUTE's tiles of 32 or 64, as transformers reads them, or in the portable form, which takes any shape. `auto`: in tiles
   * of 32 where they fit, as `quantizeCheckpoint` writes them.
   */
  readonly flute: HiggsPacking | 'auto';
  /** They know in_features where files only know rows that were filled up. A model without an adapter is converted, too. */
  readonly adapters?: readonly ModelAdapter[] | undefined;
  /** Layouts of third parties. */
  readonly layouts?: readonly CheckpointLayout[] | undefined;
  readonly codecs?: readonly FormatCodec[] | undefined;
  /** Most bytes of tensors per safetensors file; default 5 GB. */
  readonly shardSize?: number | undefined;
}

export interface ConvertCheckpointOptions extends PlanConversionOptions, WriteModelOptions {}

const PLAN = { flute: true, adapters: true, layouts: true, codecs: true, shardSize: true } satisfies Record<
  keyof PlanConversionOptions,
  true
>;
const PLAN_OPTIONS = Object.keys(PLAN);
const CONVERT_OPTIONS = Object.keys({ ...PLAN, ...WRITE_OPTIONS });

/** As planned; weights are the same, so there are no errors of them. */
export type ConversionReport = Omit<QuantizationReport, 'linears' | 'weightError'>;

/**
 * Plans without reading weights or writing anything; the sizes are those of the files that `convertCheckpoint` then writes, to the byte.
 * @throws ERR_BAD_ARGUMENT (the checkpoint is not of HIGGS, an unknown option), ERR_UNSUPPORTED_FORMAT (layers that do not fit into FLUTE's tiles, named), ERR_TENSOR_MISMATCH
 */
export async function planConversion(source: FolderCheckpoint, options: PlanConversionOptions): Promise<QuantizationPlan> {
  checkOptionNames('planConversion', options, PLAN_OPTIONS);
  return (await prepare(source, options)).planned;
}

/**
 * Stores a checkpoint of HIGGS in another packing in the folder `out`, in bounded memory; first-generation files become second-generation ones. An abort or
 * an error leaves nothing behind (with `resume`: what is needed to go on).
 * @throws what `planConversion` throws, ERR_OUTPUT_EXISTS, ERR_JOURNAL_MISMATCH, ERR_IO, ERR_LIMIT (maxMemory); abort throws the signal's reason
 *
 * @example
 * await using source = await openCheckpoint('./model-higgs4');
 * const { loadsIn } = await convertCheckpoint(source, { out: './model-portable', flute: 'portable', adapters: [llama] });
 */
export async function convertCheckpoint(source: FolderCheckpoint, options: ConvertCheckpointOptions): Promise<ConversionReport> {
  checkOptionNames('convertCheckpoint', options, CONVERT_OPTIONS);
  checkOut('convertCheckpoint', options.out);
  options.signal?.throwIfAborted();
  await assertApart(source.folder, options.out);
  const {
    linears: _,
    weightError: __,
    ...report
  } = await writeModel(source, await prepare(source, options), options, folderOutput(source, options.out));
  return report;
}

async function prepare(source: FolderCheckpoint, options: PlanConversionOptions): Promise<Prepared> {
  const { flute, adapters, codecs } = options;
  if (flute !== 32 && flute !== 64 && flute !== 'portable' && flute !== 'auto') {
    throw new LowbitError('ERR_BAD_ARGUMENT', `flute cannot be ${JSON.stringify(flute)}`, { hint: "It is 32, 64, 'portable' or 'auto'." });
  }
  if (source.layout !== higgsLayout.name) {
    throw new LowbitError(
      'ERR_BAD_ARGUMENT',
      source.layout === undefined
        ? `${source.label} is not quantized`
        : `${source.label} is stored in the layout ${source.layout}; only checkpoints of higgs have packings to choose from`,
      { hint: 'Pass a folder that was quantized with HIGGS.', details: { layout: source.layout ?? null } },
    );
  }
  checkTiles(source.quantized, flute);
  const plan = planRecoding(source.config, source.source.entries, source.quantized, {
    recode: recodeHiggs(source.config, flute),
    adapters,
    layouts: [...(options.layouts ?? []), ...BUILTIN_LAYOUTS],
    layout: higgsLayout.name,
    codecs,
  });
  return prepareModel(source, plan, options);
}
