// The `hqq` layout of the Hugging Face world: what transformers 4.x saves for an HqqConfig, and hqq's own save_to_safetensors (which leaves the
// config block out).

import type { CheckpointLayout } from '@lowbit/core';
import { acceptsHqq, hqqTensors, readHqqLinears } from '@lowbit/core/layouts';
import { hqqConfig, hqqLoadsIn } from './hqq-config.ts';

/** Reads all bit widths of the encoded layout (hqq >= 0.2.0) and writes it as transformers 4.57 does. */
export const hqqLayout: CheckpointLayout = {
  spec: 1,
  name: 'hqq',
  detect(config, entries) {
    const block = config.quantization_config;
    const method = typeof block === 'object' && block !== null && 'quant_method' in block ? block.quant_method : undefined;
    if (method !== undefined) return method === 'hqq';
    for (const name of entries.keys()) if (name.endsWith('.W_q')) return true;
    return false;
  },
  read: (_config, source) => readHqqLinears(source),
  accepts: acceptsHqq,
  tensors: hqqTensors,
  config: hqqConfig,
  loadsIn: hqqLoadsIn,
};
