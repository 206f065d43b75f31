// Flags of what looks without running a model, at one or at this machine: `lowbit inspect`, `estimate`, `doctor`.

import type { Command } from 'commander';
import type { EstimateFlags } from '../commands/estimate.ts';
import type { InspectOptions } from '../commands/inspect.ts';
import type { CommonOptions } from '../context.ts';
import { METHODS, parseBits, parseChoice, parseDimension, parseGroup, parseHadamardSize } from '../parse.ts';
import { arg, computing, number, path, plugins, type Start, verb, weightMemory } from './common.ts';

export function addInspect(program: Command, start: Start): void {
  plugins(verb(program, 'inspect', 'show what is in a model folder, without reading weights'))
    .argument('<model>', 'model folder, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub, which is not downloaded', path)
    .option('--tensors', 'list every tensor')
    .option('--allow-non-finite', 'take weights that are stored as NaN or infinity as they are (default: an error)')
    .action(async (dir: string, options: InspectOptions) => {
      const context = start(options);
      const { inspectCommand } = await import('../commands/inspect.ts');
      await inspectCommand(dir, options, context);
    });
}

export function addEstimate(program: Command, start: Start): void {
  weightMemory(computing(verb(program, 'estimate', 'tell how much memory a model takes, before it is quantized or loaded')))
    .argument('<model>', 'model folder, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub, which is not downloaded', path)
    .option(
      '-m, --method <name>',
      `as if quantized by: ${METHODS.join(', ')} (default: as it is)`,
      arg((text) => parseChoice(text, METHODS)),
    )
    .option('-b, --bits <n>', 'bits per weight of that method', arg(parseBits))
    .option('-g, --group <n>', 'weights that share a scale', arg(parseGroup))
    .option('--p <1|2>', 'higgs: weights that share a code', arg(parseDimension))
    .option('--hadamard-size <n>', 'higgs: weights of a row that are rotated together', arg(parseHadamardSize))
    .option(
      '--ctx <n>',
      'tokens of a text (default: the most that the model takes, up to 4096)',
      number({ min: 1, max: 2 ** 31, whole: true }),
    )
    .option('--sequences <n>', 'texts at once', number({ min: 1, max: 2 ** 20, whole: true }), 1)
    .option('--measure', 'load the model, read a text as long as --ctx, and tell what that really took beside the estimate')
    .addHelpText('after', '\nExample:\n  lowbit estimate ./model -m hqq -b 4 --ctx 8192')
    .action(async (dir: string, options: EstimateFlags) => {
      const context = start(options);
      const { estimateCommand } = await import('../commands/estimate.ts');
      await estimateCommand(dir, options, context);
    });
}

export function addDoctor(program: Command, start: Start): void {
  verb(program, 'doctor', 'tell what this machine has: backends, caches, tokens, room; and what to do').action(
    async (options: CommonOptions) => {
      const context = start(options);
      const { doctorCommand } = await import('../commands/doctor.ts');
      await doctorCommand(context);
    },
  );
}
