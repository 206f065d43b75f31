// The layout `hqq-safetensors`: folders as `save_to_safetensors` of the Python library (hqq >= 0.2.3) makes them. The layers are those of the layout
// `hqq`; config.json says nothing of them, headers carry no metadata, and blocks of layers share files by count, not by size.

import type { CheckpointLayout, WrittenModel } from '@lowbit/core';
import { acceptsHqq, hqqTensors, readHqqLinears } from '@lowbit/layouts';
import { refuseConv1d } from './conv1d.ts';
import { hqqEvidence } from './hqq-config.ts';
import { hqqSafetensorsLoadsIn } from './hqq-loads.ts';

/** The library's `num_blocks_per_file`, which it takes for a minimum. */
const BLOCKS_PER_FILE = 5;

/** Reads and writes the folders of the Python library's `save_to_safetensors`. */
export const hqqSafetensorsLayout: CheckpointLayout = {
  spec: 1,
  name: 'hqq-safetensors',
  detect: (config, entries) => hqqEvidence(config, entries) === 'encoded',
  read: (_config, source, options) => readHqqLinears(source, options),
  accepts: acceptsHqq,
  tensors(linear, options) {
    refuseConv1d(linear.site, 'hqq');
    return hqqTensors(linear, options);
  },
  config: () => undefined,
  metadata: {},
  files: hqqFiles,
  loadsIn: hqqSafetensorsLoadsIn,
};

/**
 * Tensors of each file. With L layers there are L div 5 files of L div (L div 5) layers each, found by `layers.<i>.` in their names; the last file
 * takes what is left: further layers, embeddings, the head. Fewer than ten layers make one file. A config without `num_hidden_layers` counts linears.
 */
export function hqqFiles({ config, linears, names }: WrittenModel): readonly (readonly string[])[] {
  const stated = config.num_hidden_layers;
  const layers = typeof stated === 'number' && Number.isSafeInteger(stated) && stated >= 0 ? stated : linears.length;
  // A config that claims layers without end has no tensors for them; the rest is the last file's either way.
  const files = Math.min(Math.floor(layers / BLOCKS_PER_FILE), names.length);
  if (files <= 1) return [names];
  const perFile = Math.floor(layers / files);
  const shards = Array.from({ length: files }, (): string[] => []);
  for (const name of names) shards[fileOf(name, perFile, files)]!.push(name);
  return shards;
}

/** The first file that has one of the name's layers (`encoder.layers.3.` may be in a name beside another), the last one if none has. */
function fileOf(name: string, perFile: number, files: number): number {
  let file = files - 1;
  for (const [, layer] of name.matchAll(/layers\.(?=(\d+)\.)/g)) {
    if (String(Number(layer)) === layer) file = Math.min(file, Math.floor(Number(layer) / perFile));
  }
  return file;
}
