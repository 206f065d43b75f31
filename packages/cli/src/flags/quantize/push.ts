// `lowbit quantize`: the way to the Hugging Face Hub.

import type { Command } from 'commander';
import { UsageError } from '../../errors.ts';
import { path } from '../common.ts';

/** Flags of the push, and those that it has a word on. */
export interface QuantizePushFlags {
  readonly push?: string;
  readonly private?: boolean;
  readonly yes?: boolean;
  readonly baseModel?: string;
  readonly license?: string;
  readonly out?: string;
  readonly overwrite?: boolean;
}

/** What is pushed. All but --push need it. */
export function addPushFlags(command: Command): void {
  command
    .optionsGroup('To the Hugging Face Hub:')
    .option('--push <name>', 'push the result to ORG/NAME of the Hugging Face Hub; without --out it is not kept here', path)
    .option('--private', 'make the repository private, if it is new')
    .option('--base-model <name>', 'for the model card: what is quantized (default: the model, where it is from the Hub)', path)
    .option('--license <id>', "with --push, for the model card (default: the base model's)", path)
    .option('-y, --yes', 'do not ask');
}

/** Flags that need --push, and what needs --out beside it. Throws a UsageError. */
export function checkPushFlags(flags: QuantizePushFlags): void {
  if (flags.push === undefined) {
    const needing = { '--private': flags.private, '--yes': flags.yes, '--base-model': flags.baseModel, '--license': flags.license };
    const [name] = Object.entries(needing).find(([, value]) => value !== undefined) ?? [];
    if (name !== undefined) throw new UsageError(`${name} is for --push`, 'Leave it out, or name the repository with --push ORG/NAME.');
  } else if (flags.out === undefined && flags.overwrite) {
    throw new UsageError(
      '--overwrite needs --out with --push',
      'Name the folder to replace with --out: without it the folder is removed after the push.',
    );
  }
}
