// `lowbit quantize`: sharing out bits.

import type { Command } from 'commander';
import { parseChoice, parseSize } from '../../parse.ts';
import { parseChoices, parseMethods } from '../../parse-choices.ts';
import { SENSITIVITY_TOKENS } from '../../sensitivity-tokens.ts';
import { arg, number, path } from '../common.ts';

/** What shares out bits among linears. All but the two targets need one of them. */
export function addTargetFlags(command: Command): void {
  command
    .optionsGroup('Sharing out bits; all but the targets need one:')
    .option(
      '--target-bits <x>',
      'share out this many bits per weight among the linears, more where errors cost more; embeddings and lm_head are not counted',
      number({ min: 0.1, max: 64 }),
    )
    .option(
      '--target-size <size>',
      'the same for the size of all safetensors files together, such as 4GB; embeddings and all else count',
      arg(parseSize),
    )
    .option(
      '--methods <list>',
      'choose among what these methods offer, such as hqq,bnb,higgs; only lowbit reads a mixture',
      arg(parseMethods),
    )
    .option(
      '--choices <list>',
      "what linears can get, as in rules: 'hqq:b3:g64,hqq:b4:g64,hqq:b8:g64' (default: the method's usual widths)",
      arg(parseChoices),
    )
    .option(
      '--per <unit>',
      'choose for every linear (default); fused: once for q, k and v of a layer, and for gate and up, which some programs load as one; tag: once for all linears of a tag',
      arg((text) => parseChoice(text, ['linear', 'fused', 'tag'] as const)),
    )
    .option(
      '--sensitivity <from>',
      'what linears are tested on: random-tokens (default), self (tokens that the model writes), a text file, token ids as JSON, or what --save-sensitivity wrote',
      path,
    )
    .option(
      '--sensitivity-tokens <n>',
      `tokens to test on; more are steadier and slower (default: ${SENSITIVITY_TOKENS})`,
      number({ min: 1, max: 2 ** 20, whole: true }),
    )
    .option('--save-sensitivity <file>', 'keep the result of the test as JSON, for other targets', path)
    .option('--measure <file>', 'compare the result with the original on this text (or ids as JSON)', path);
}
