// Flags of what measures losses: `lowbit perplexity`, `compare`, `report`, `sensitivity`.

import type { Command } from 'commander';
import type { CompareOptions } from '../commands/compare.ts';
import type { PerplexityOptions } from '../commands/perplexity.ts';
import type { ReportOptions } from '../commands/report.ts';
import type { SensitivityOptions } from '../commands/sensitivity.ts';
import { SENSITIVITY_TOKENS } from '../sensitivity-tokens.ts';
import { computing, list, number, offloading, path, type Start, verb } from './common.ts';

export function addPerplexity(program: Command, start: Start): void {
  offloading(computing(verb(program, 'perplexity', 'measure how well a model predicts a text')))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .option('--data <file>', 'text file', path)
    .option('--ids <file>', 'JSON file of token ids: one list, or a list of lists that are scored on their own', path)
    .option(
      '--ctx <n>',
      'tokens the model sees at a time (default: the smaller of its own length and 2048)',
      number({ min: 2, max: 2 ** 31, whole: true }),
    )
    .option('--stride <n>', 'tokens a window moves on by (default: --ctx)', number({ min: 1, max: 2 ** 31, whole: true }))
    .addHelpText('after', '\nExample:\n  lowbit perplexity ./model-hqq4 --data eval.txt --ctx 512')
    .action(async (model: string, options: PerplexityOptions) => {
      const context = start(options);
      const { perplexityCommand } = await import('../commands/perplexity.ts');
      await perplexityCommand(model, options, context);
    });
}

export function addCompare(program: Command, start: Start): void {
  computing(verb(program, 'compare', 'measure what a model lost against the one that it was made from'))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .argument('<reference>', 'the model that it was made from, likewise', path)
    .option('--data <file>', 'text file', path)
    .option('--ids <file>', 'JSON file of token ids: one list, or a list of lists that are scored on their own', path)
    .option(
      '--ctx <n>',
      'tokens the models see at a time (default: the smaller of their own length and 2048)',
      number({ min: 2, max: 2 ** 31, whole: true }),
    )
    .option('--stride <n>', 'tokens a window moves on by (default: --ctx)', number({ min: 1, max: 2 ** 31, whole: true }))
    .option('--linears', 'also the errors of every linear: of its weight, and of its output for tokens of the text')
    .option('-o, --out <file>', 'keep the result as JSON; `lowbit push` puts quality.json of a model folder into its card', path)
    .option('--overwrite', 'replace that file if it is there')
    .addHelpText('after', '\nExample:\n  lowbit compare ./model-hqq4 ./model --data eval.txt --linears')
    .action(async (model: string, reference: string, options: CompareOptions) => {
      const context = start(options);
      const { compareCommand } = await import('../commands/compare.ts');
      await compareCommand(model, reference, options, context);
    });
}

export function addReport(program: Command, start: Start): void {
  computing(verb(program, 'report', 'write what a model lost as one HTML file: figures, plots, linears, texts side by side'))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .argument('<reference>', 'the model that it was made from, likewise', path)
    .requiredOption('-o, --out <file>', 'HTML file to write', path)
    .option('--overwrite', 'replace that file if it is there')
    .option('--data <file>', 'text file to compare on', path)
    .option('--ids <file>', 'JSON file of token ids to compare on', path)
    .option('--ctx <n>', 'tokens the models see at a time (default: as compare)', number({ min: 2, max: 2 ** 31, whole: true }))
    .option('--stride <n>', 'tokens a window moves on by (default: --ctx)', number({ min: 1, max: 2 ** 31, whole: true }))
    .option('--prompt <text>', 'what both models continue, always with the likeliest token; may be repeated', list)
    .option('--max-tokens <n>', 'tokens that they write', number({ min: 1, max: 2 ** 16, whole: true }), 60)
    .option('--frontier <file>', 'other ways to quantize it, as JSON Lines of bench:quality', path)
    .option('--sensitivity <file>', 'what `sensitivity --save` wrote', path)
    .option('--recipe <file>', 'the recipe that it was made with, to be shown', path)
    .addHelpText('after', '\nExample:\n  lowbit report ./model-hqq4 ./model --data eval.txt --prompt "Once upon a time" -o report.html')
    .action(async (model: string, reference: string, options: ReportOptions) => {
      const context = start(options);
      const { reportCommand } = await import('../commands/report.ts');
      await reportCommand(model, reference, options, context);
    });
}

export function addSensitivity(program: Command, start: Start): void {
  computing(verb(program, 'sensitivity', 'measure what an error in each linear costs a model'))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .option(
      '--on <from>',
      'what it runs: random-tokens (default), self (tokens that the model writes), a text file, or token ids as JSON',
      path,
    )
    .option(
      '--tokens <n>',
      `how many of them; more are steadier and slower (default: ${SENSITIVITY_TOKENS})`,
      number({ min: 1, max: 2 ** 24, whole: true }),
    )
    .option('--save <file>', 'keep the result as JSON, for --sensitivity of quantize', path)
    .option('--overwrite', 'replace that file if it is there')
    .addHelpText('after', '\nExample:\n  lowbit sensitivity ./model --on text.txt --save model.json')
    .action(async (model: string, options: SensitivityOptions) => {
      const context = start(options);
      const { sensitivityCommand } = await import('../commands/sensitivity.ts');
      await sensitivityCommand(model, options, context);
    });
}
