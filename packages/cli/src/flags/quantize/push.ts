// `lowbit quantize`: the way to the Hugging Face Hub.

import type { Command } from 'commander';
import { path } from '../common.ts';

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
