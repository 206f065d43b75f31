// Flags of `lowbit quantize`: one file in `quantize/` for each group of them, which --help loads, so it needs no model.
//
// What is refused: values by parse.ts; flags that exclude or need each other by commands/quantize-checks.ts, those of targets by allocation.ts, of the push
// by quantize/push.ts; settings that no chosen method has by method-flags.ts; what contradicts a preset or recipe by quantize-recipe.ts. Flags that rules
// leave without effect are told of by quantize-before.ts.

import type { Command } from 'commander';
import type { QuantizeOptions } from '../commands/quantize.ts';
import type { RuleText } from '../parse.ts';
import { path, type Start, verb } from './common.ts';
import { addFileFlags } from './quantize/files.ts';
import { addLinearFlags } from './quantize/linears.ts';
import { addMethodFlags } from './quantize/methods.ts';
import { addPushFlags } from './quantize/push.ts';
import { addTargetFlags } from './quantize/targets.ts';
import { addWorkFlags } from './quantize/work.ts';

/** Each group of flags is a heading of --help. */
export function addQuantize(program: Command, start: Start): void {
  const rules: RuleText[] = [];
  const quantize = verb(program, 'quantize', 'quantize a model folder into a new folder')
    .argument(
      '<model>',
      'model folder with config.json and safetensors, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hugging Face Hub',
      path,
    )
    .option('-o, --out <dir>', 'folder to write; it must not exist', path);
  addLinearFlags(quantize, rules);
  addMethodFlags(quantize);
  addTargetFlags(quantize);
  addFileFlags(quantize);
  addWorkFlags(quantize);
  addPushFlags(quantize);
  quantize
    .addHelpText('after', '\nExample:\n  lowbit quantize ./model -o ./model-hqq4 -b 4 -g 64 --rule "mlp.down_proj=hqq:b8"')
    .action(async (dir: string, options: Omit<QuantizeOptions, 'rules'>) => {
      const context = start(options);
      const { quantizeCommand } = await import('../commands/quantize.ts');
      await quantizeCommand(dir, { ...options, rules }, context);
    });
}
