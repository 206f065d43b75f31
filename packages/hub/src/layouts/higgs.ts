// The layout `higgs` of the Hugging Face world: HIGGS weights as transformers saves them for a HiggsConfig, packed for FLUTE, and lowbit's portable form of
// the same codes for shapes that FLUTE does not pack.

import {
  type CheckpointLayout,
  type Entries,
  type JsonObject,
  LowbitError,
  quote,
  type StoredLinear,
  storedColumns,
  type TensorSource,
} from '@lowbit/core';
import { encodeHiggsLinear, type HiggsFormat, hasHiggs, higgsPacking, isHiggs, readHiggsLinears } from '@lowbit/layouts';
import { refuseConv1d } from './conv1d.ts';
import { higgsConfig } from './higgs-config.ts';
import { higgsLoadsIn } from './higgs-loads.ts';
import { type HiggsBlock, higgsBlock } from './higgs-settings.ts';

/** Reads what transformers 4.48 and later write, and writes it as 4.49 and later do. */
export const higgsLayout: CheckpointLayout = {
  spec: 1,
  name: 'higgs',
  detect,
  read: readHiggs,
  accepts: ({ method }, format) => method === 'higgs' && isHiggs(format),
  tensors({ site, format }) {
    refuseConv1d(site, 'HIGGS');
    if (isHiggs(format) && format.bits === 3 && higgsPacking(format) === 64) {
      throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(site.path)}: FLUTE packs no 3-bit codes in tiles of 64`, {
        hint: 'Use tiles of 32, or the portable form.',
        details: { path: site.path },
      });
    }
    return encodeHiggsLinear({ path: site.path, shape: site.shape, format });
  },
  config: higgsConfig,
  loadsIn: higgsLoadsIn,
};

/** By the config, and without a block by the tensors. */
function detect({ quantization_config: block }: JsonObject, entries: Entries): boolean {
  if (block === undefined || block === null) return hasHiggs(entries);
  return typeof block === 'object' && 'quant_method' in block && block.quant_method === 'higgs';
}

async function readHiggs(
  config: JsonObject,
  source: TensorSource,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<ReadonlyMap<string, StoredLinear>> {
  const block = higgsBlock(config);
  const linears = await readHiggsLinears(source, { facts: (path) => block.facts(path), signal });
  for (const [path, linear] of linears) checkStated(path, linear, block);
  return linears;
}

/** A block or metadata of other layers would mean codes in another order. Throws ERR_TENSOR_MISMATCH. */
function checkStated(path: string, { format, shape }: StoredLinear, block: HiggsBlock): void {
  const { bits, dim: p, group: group_size } = format as HiggsFormat;
  compare(path, 'config.json', block.stated(path), { bits, p, group_size });
  const K = storedColumns(format as HiggsFormat, shape);
  compare(path, 'tune_metadata', block.metadata(path) ?? {}, { N: shape[0], K, num_bits: bits, group_size });
}

function compare(path: string, where: string, said: JsonObject, stored: JsonObject): void {
  for (const [key, value] of Object.entries(stored)) {
    const stated = said[key];
    if (stated === undefined || stated === value) continue;
    throw new LowbitError(
      'ERR_TENSOR_MISMATCH',
      `${where} of ${quote(path)} says ${key} ${JSON.stringify(stated)}, its tensors ${String(value)}`,
      {
        hint: 'config.json and the weights belong to different models.',
        details: { path, field: key, expected: stated, actual: value },
      },
    );
  }
}
