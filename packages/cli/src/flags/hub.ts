// Flags of what talks to the Hub: `lowbit pull`, `push`, `login`.

import type { Command } from 'commander';
import type { PullOptions } from '../commands/pull.ts';
import type { PushFlags } from '../commands/push.ts';
import type { CommonOptions } from '../context.ts';
import { list, path, plugins, type Start, verb } from './common.ts';

export function addHub(program: Command, start: Start): void {
  verb(program, 'pull', 'download a model of the Hugging Face Hub into the cache that Python shares')
    .argument('<model>', 'ORG/NAME, or ORG/NAME@REVISION', path)
    .option('--allow <glob>', 'take these files instead of what a model needs; may be repeated', list)
    .option('--ignore <glob>', 'leave these files out; may be repeated', list)
    .addHelpText(
      'after',
      '\nHF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE are obeyed. Run again after a break: it goes on where it was.',
    )
    .action(async (model: string, options: PullOptions) => {
      const context = start(options);
      const { pullCommand } = await import('../commands/pull.ts');
      await pullCommand(model, options, context);
    });
  plugins(verb(program, 'push', 'push a model folder to the Hugging Face Hub'))
    .argument('<dir>', 'model folder, finished', path)
    .argument('<to>', 'ORG/NAME; it is made if it is not there', path)
    .option('--private', 'make it private, if it is new')
    .option('--base-model <name>', 'for the model card: what was quantized, ORG/NAME or ORG/NAME@REVISION', path)
    .option('--license <id>', "for the model card (default: the base model's)", path)
    .option('--quality <file>', 'for the model card: what `lowbit compare --out` wrote (default: quality.json of the folder)', path)
    .option('--message <text>', 'of the commit', path)
    .option('-y, --yes', 'do not ask')
    .option('--dry-run', 'print the files and the model card, send nothing')
    .action(async (dir: string, to: string, options: PushFlags) => {
      const context = start(options);
      const { pushCommand } = await import('../commands/push.ts');
      await pushCommand(dir, to, options, context);
    });
  verb(program, 'login', 'tell which token of the Hugging Face Hub is used, and whose it is; it is never shown').action(
    async (options: CommonOptions) => {
      const context = start(options);
      const { loginCommand } = await import('../commands/login.ts');
      await loginCommand(context);
    },
  );
}
