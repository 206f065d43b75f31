// For tests: which golden models there are.

import { defaultAdapters } from '../adapters/index.ts';
import { type GoldenReaders, goldenFolders } from './memory-checkpoint.ts';

/** Folders that other tests read: their `expected.safetensors` holds something else. */
const OTHERS = ['perplexity', 't5-gated', 'llava', 'clip-vision', 'timm-vit'];

/** Golden decoders that an adapter of this package reads: those whose files are here, and those that the manifest alone knows. */
export function goldenModels(golden: GoldenReaders & { hasGolden(path: string): boolean }): {
  readonly folders: readonly string[];
  readonly absent: readonly string[];
} {
  const types = defaultAdapters.flatMap(({ modelTypes }) => modelTypes);
  const all = goldenFolders(golden, ...types).filter((folder) => !OTHERS.includes(folder));
  const here = (folder: string): boolean => golden.hasGolden(`models/${folder}/expected.safetensors`);
  return { folders: all.filter(here), absent: all.filter((folder) => !here(folder)) };
}
