// `lowbit quantize`: what is written, and how.

import type { Command } from 'commander';
import { DTYPES, LAYOUTS, parseChoice, parseSize } from '../../parse.ts';
import { arg } from '../common.ts';

/** How the folder is written. */
export function addFileFlags(command: Command): void {
  command
    .optionsGroup('What is written:')
    .option(
      '--dtype <type>',
      `store everything else, scales and zeros as ${DTYPES.join(', ')} (default: as in the source, scales f16)`,
      arg((text) => parseChoice(text, DTYPES)),
    )
    .option(
      '--layout <name>',
      `how the folder stores quantized linears: ${LAYOUTS.join(', ')} (default: the first that can; "Loads in" says who reads it)`,
      arg((text) => parseChoice(text, LAYOUTS)),
    )
    .option('--shard-size <size>', 'most bytes per safetensors file (default: 5GB)', arg(parseSize))
    .option('--dry-run', 'print every file and size, write nothing')
    .option('--resume', 'go on where an interrupted run of the same job stopped')
    .option('--overwrite', 'replace the output folder if it holds a model, and files of --save-recipe and --save-sensitivity');
}
