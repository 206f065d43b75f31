// Files of torch.save on disk.

import { type OpenSourceOptions, pathOpeners } from '../file-source.node.ts';
import { openFileSource } from '../file-source.ts';
import { TORCH, type TorchSource } from './source.ts';

/** Of `openTorchFile`. */
export interface OpenTorchOptions extends OpenSourceOptions {}

/**
 * Opens one or many files of torch.save (`pytorch_model.bin`, `qmodel.pt`) as one set of tensors. Nothing in them is ever executed: what is not
 * plain data is ERR_BAD_PICKLE. Also throws ERR_NOT_FOUND, ERR_IO, ERR_BAD_CHECKPOINT (no tensors, or two of one name), ERR_LIMIT, and
 * ERR_UNSUPPORTED_FORMAT for files of PyTorch before 1.6. Dispose it to close the files.
 */
export function openTorchFile(paths: string | readonly string[], options: OpenTorchOptions = {}): Promise<TorchSource> {
  return openFileSource(...pathOpeners(paths, options), TORCH);
}
