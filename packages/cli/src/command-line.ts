// The whole command line: its verbs, with flags of `flags/`. The verbs themselves are imported when they run, so that --help and wrong usage answer at
// once.

import { nearestName } from '@lowbit/core';
import { Command } from 'commander';
import { UsageError } from './errors.ts';
import { addBench } from './flags/bench.ts';
import { addCache } from './flags/cache.ts';
import type { Start } from './flags/common.ts';
import { addConvert, addMergeShards } from './flags/convert.ts';
import { addChat, addGenerate } from './flags/generate.ts';
import { addHub } from './flags/hub.ts';
import { addDoctor, addEstimate, addInspect } from './flags/inspect.ts';
import { addCompare, addPerplexity, addReport, addSensitivity } from './flags/measure.ts';
import { addQuantize } from './flags/quantize.ts';
import { version } from './version.ts';

/** The parser. `start` makes the context of the verb that was chosen. Parsing throws CommanderError, verbs throw what they throw. */
export function createProgram(start: Start): Command {
  const program = new Command('lowbit')
    .description('Quantize language models, run them and measure them: no Python, no calibration data.')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand(false)
    .showSuggestionAfterError()
    .exitOverride()
    // Errors are rendered by run.ts, once, in the form asked for.
    .configureOutput({ outputError: () => {} })
    .addHelpText(
      'after',
      '\nEvery command takes --json (one JSON value on stdout; chat: JSON Lines, one value per answer) and --quiet. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C.',
    );
  program.commandsGroup('Quantize:');
  addQuantize(program, start);
  addMergeShards(program, start);
  addConvert(program, start);
  program.commandsGroup('Run:');
  addGenerate(program, start);
  addChat(program, start);
  program.commandsGroup('Measure:');
  addPerplexity(program, start);
  addCompare(program, start);
  addReport(program, start);
  addSensitivity(program, start);
  addBench(program, start);
  program.commandsGroup('Look at models and at this machine:');
  addInspect(program, start);
  addEstimate(program, start);
  addDoctor(program, start);
  addCache(program, start);
  program.commandsGroup('The Hugging Face Hub:');
  addHub(program, start);
  program.commandsGroup('Help:');
  addHelp(program);
  return program;
}

/** Commander's own passes over a command that it does not know. */
function addHelp(program: Command): void {
  program
    .command('help')
    .description('show help for a command')
    .argument('[command]')
    .action((name: string | undefined) => {
      const found = name === undefined ? program : program.commands.find((command) => command.name() === name);
      if (found) found.help();
      const near = nearestName(
        name!,
        program.commands.map((command) => command.name()),
      );
      throw new UsageError(
        `unknown command '${name}'`,
        `${near === undefined ? '' : `Did you mean ${near}? `}\`lowbit --help\` shows what there is.`,
      );
    });
}
