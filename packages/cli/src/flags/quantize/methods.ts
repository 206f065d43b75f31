// `lowbit quantize`: settings of methods.

import type { Command } from 'commander';
import {
  DTYPES,
  parseAxis,
  parseChoice,
  parseDimension,
  parseFeedback,
  parseHadamardSize,
  parseImportance,
  parseThreshold,
  QUANT_ZERO,
  SCALES,
  SOLVERS,
} from '../../parse.ts';
import { arg } from '../common.ts';

/** Settings of methods; a flag that is none of the chosen methods' is refused. */
export function addMethodFlags(command: Command): void {
  command
    .optionsGroup('What methods do:')
    .option(
      '--solver <name>',
      `hqq: what finds the scales, ${SOLVERS.join(' or ')}; least-squares (default without -m) has smaller errors in the same files`,
      arg((text) => parseChoice(text, SOLVERS)),
    )
    .option(
      '--importance <from>',
      'what tells --solver least-squares and --scale search which channels matter: none (default with -m); random-tokens (default without), self (tokens that the model writes) or a text file, run through the model first; or weights, an estimate from them alone',
      arg(parseImportance),
    )
    .option(
      '--feedback <x>',
      'hqq with --solver least-squares: choose codes so that later channels make up for the errors of earlier ones, and believe this much of what goes together in the samples, such as 0.75; takes --importance self (then the default) or a text, and more time',
      arg(parseFeedback),
    )
    .option('--axis <0|1>', 'hqq: groups along the rows (1) or across them (0) (default: 1)', arg(parseAxis))
    .option('--quant-scale', 'hqq: store scales as 8-bit codes, too; only lowbit reads the result')
    .option(
      '--quant-zero <how>',
      `hqq: store zeros as 8-bit codes, too, ${QUANT_ZERO.join(' or ')} (one grid a linear, or one for every 128); only lowbit reads the result`,
      arg((text) => parseChoice(text, QUANT_ZERO)),
    )
    .option(
      '--scale <how>',
      'nf4, fp4: absmax (default), or search for the one with the least error; higgs: norm (default), or unbiased, better at 2 bits; the same files',
      arg((text) => parseChoice(text, SCALES)),
    )
    .option('--double-quant', 'nf4, fp4: keep scales as 8-bit codes')
    .option(
      '--compute-dtype <type>',
      `nf4, fp4: what the checkpoint says its linears compute in, ${DTYPES.join(', ')} (default: f32); Python obeys it`,
      arg((text) => parseChoice(text, DTYPES)),
    )
    .option(
      '--threshold <x>',
      'int8: magnitude from which activations are computed in floating point, 0 for none (default: 6)',
      arg(parseThreshold),
    )
    .option('--allow-non-finite', 'nf4, fp4, int8: quantize NaN and infinity as Python does, and copy them elsewhere (default: an error)')
    .option('--p <1|2>', 'higgs: weights that share a code (default: 2, the more exact)', arg(parseDimension))
    .option(
      '--hadamard-size <n>',
      'higgs: weights of a row that are rotated together, a power of two (default: 512)',
      arg(parseHadamardSize),
    );
}
