// `lowbit quantize`: where and how the work is done.

import type { Command } from 'commander';
import { parseMemory, parseShard } from '../../parse.ts';
import { arg, BACKEND_HELP, number, path } from '../common.ts';

/** Where and how the work is done. */
export function addWorkFlags(command: Command): void {
  command
    .optionsGroup('How it is computed:')
    .option(
      '-t, --threads <n>',
      'threads to compute with (default: as many as this machine has, at most 8); changes no byte of the result',
      number({ min: 1, max: 1024, whole: true }),
    )
    .option('--max-memory <size>', 'bound for weights in flight, such as 4GB or 192MB (default: 192MiB, at least 32MiB)', arg(parseMemory))
    .option('--backend <name>', `what runs the model to test it, and brings faster routines: ${BACKEND_HELP}`, path)
    .option(
      '--shard <i/n>',
      'do a share of the work, such as 2/8, on any machine and in any order; merge-shards makes the model of all shares. A share goes on where it was by itself',
      arg(parseShard),
    );
}
