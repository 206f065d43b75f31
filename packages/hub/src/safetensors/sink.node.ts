// Model folders on disk as outputs of a sink.

import { openFolderOutput } from './output.node.ts';
import { type SafetensorsSink, type SafetensorsSinkOptions, sinkOver } from './sink.ts';

/**
 * Starts (or resumes) an output folder. Throws ERR_OUTPUT_EXISTS if the folder, or unfinished work, is there and neither `resume` nor `overwrite`
 * allows to go on, ERR_JOURNAL_MISMATCH if the unfinished work is of another job, ERR_IO.
 */
export async function createSafetensorsSink(outDir: string, options: SafetensorsSinkOptions): Promise<SafetensorsSink> {
  return sinkOver(await openFolderOutput(outDir, options), options);
}
