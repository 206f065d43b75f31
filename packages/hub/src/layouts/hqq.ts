// The layout `hqq` of the Hugging Face world: what transformers 4.x saves for an HqqConfig. Its reader takes every form that layers of the Python
// library have in published files, pickles among them.

import type { CheckpointLayout } from '@lowbit/core';
import { acceptsHqq, hqqTensors, readHqqLinears } from '@lowbit/layouts';
import { refuseConv1d } from './conv1d.ts';
import { hqqConfig, hqqEvidence } from './hqq-config.ts';
import { hqqLoadsIn } from './hqq-loads.ts';

/** Reads all bit widths of the encoded layout (hqq >= 0.2.0) and writes it as transformers 4.57 does. */
export const hqqLayout: CheckpointLayout = {
  spec: 1,
  name: 'hqq',
  detect(config, entries) {
    const evidence = hqqEvidence(config, entries);
    return evidence === 'block' || evidence === 'pickled';
  },
  read: (_config, source, options) => readHqqLinears(source, options),
  accepts: acceptsHqq,
  tensors(linear, options) {
    refuseConv1d(linear.site, 'hqq');
    return hqqTensors(linear, options);
  },
  config: hqqConfig,
  loadsIn: hqqLoadsIn,
};
