// The layout `hqq-nested`: hqq with quantized scales or zeros, which the Python library had until 0.1.8 and never in safetensors. lowbit alone reads it.

import type { CheckpointLayout } from '@lowbit/core';
import { acceptsNestedHqq, nestedHqqTensors, readHqqLinears } from '@lowbit/layouts';
import { HQQ_NESTED, hqqEvidence, nestedHqqConfig } from './hqq-config.ts';
import { nestedHqqLoadsIn } from './hqq-loads.ts';

/** Writes and reads what `hqq()` makes with `quantScale` or `quantZero`; plain layers may be among them. */
export const hqqNestedLayout: CheckpointLayout = {
  spec: 1,
  name: HQQ_NESTED,
  detect: (config, entries) => hqqEvidence(config, entries) === 'nested',
  read: (_config, source, options) => readHqqLinears(source, options),
  accepts: acceptsNestedHqq,
  tensors: nestedHqqTensors,
  config: nestedHqqConfig,
  // transformers refuses files of a format that it does not know; as `pt` it would load them, with layers that it made up.
  metadata: { format: 'lowbit' },
  loadsIn: nestedHqqLoadsIn,
};
