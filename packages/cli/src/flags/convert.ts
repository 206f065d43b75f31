// Flags of what stores a quantized model in another way: `lowbit merge-shards`, `convert`.

import type { Command } from 'commander';
import type { ConvertOptions } from '../commands/convert.ts';
import type { MergeShardsFlags } from '../commands/merge-shards.ts';
import { FLUTE, parseFlute, parseMemory, parseSize } from '../parse.ts';
import { arg, path, type Start, verb } from './common.ts';

export function addMergeShards(program: Command, start: Start): void {
  verb(program, 'merge-shards', 'make one model folder of the shares that quantize --shard wrote')
    .argument('<out>', 'the folder that was named as --out', path)
    .argument('[from...]', 'where the shares are, if they are not in OUT.shards: folders of shares, or folders that hold some')
    .option('--keep-shards', 'leave the shares where they are (default: what is merged is removed, so that the disk holds the model once)')
    .option('--overwrite', 'replace the output folder if it holds a model')
    .addHelpText(
      'after',
      '\nRun again after a break: it goes on where it was.\n\nExample:\n  for i in 1 2 3 4; do lowbit quantize ./model -o ./model-hqq4 --shard $i/4; done\n  lowbit merge-shards ./model-hqq4',
    )
    .action(async (out: string, from: string[], options: MergeShardsFlags) => {
      const context = start(options);
      const { mergeShardsCommand } = await import('../commands/merge-shards.ts');
      await mergeShardsCommand(out, from, options, context);
    });
}

export function addConvert(program: Command, start: Start): void {
  verb(program, 'convert', 'store a quantized model folder in another way, without quantizing again')
    .argument('<dir>', 'model folder that was quantized with HIGGS, or ORG/NAME[@REVISION] of the Hub', path)
    .option('-o, --out <dir>', 'folder to write; it must not exist', path)
    .option(
      '--flute <tile>',
      `how codes are packed: ${FLUTE.join(', ')}; 32 is what transformers reads, portable takes any shape but lowbit alone reads it, auto is 32 where it fits`,
      arg(parseFlute),
    )
    .option('--max-memory <size>', 'bound for codes in flight, such as 4GB or 192MB (default: 192MiB, at least 32MiB)', arg(parseMemory))
    .option('--shard-size <size>', 'most bytes per safetensors file (default: 5GB)', arg(parseSize))
    .option('--dry-run', 'print every file and size, write nothing')
    .option('--resume', 'go on where an interrupted run of the same job stopped')
    .option('--overwrite', 'replace the output folder if it holds a model')
    .addHelpText('after', '\nExample:\n  lowbit convert ./model-higgs4 -o ./model-higgs4-portable --flute portable')
    .action(async (dir: string, options: ConvertOptions) => {
      const context = start(options);
      const { convertCommand } = await import('../commands/convert.ts');
      await convertCommand(dir, options, context);
    });
}
