// Flags of `lowbit quantize`.

import type { Command } from 'commander';
import type { QuantizeOptions } from '../commands/quantize.ts';
import {
  DTYPES,
  LAYOUTS,
  METHODS,
  parseAxis,
  parseBits,
  parseChoice,
  parseDimension,
  parseFeedback,
  parseGlob,
  parseGroup,
  parseHadamardSize,
  parseImportance,
  parseMemory,
  parseMethod,
  parseRule,
  parseShard,
  parseSize,
  parseThreshold,
  QUANT_ZERO,
  type RuleText,
  SCALES,
  SOLVERS,
} from '../parse.ts';
import { parseChoices, parseMethods } from '../parse-choices.ts';
import { PRESET, PRESETS } from '../presets.ts';
import { SENSITIVITY_TOKENS } from '../sensitivity-tokens.ts';
import { arg, BACKEND_HELP, number, path, type Start, verb } from './common.ts';

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
  layerFlags(quantize, rules);
  methodFlags(quantize);
  targetFlags(quantize);
  fileFlags(quantize);
  workFlags(quantize);
  pushFlags(quantize);
  quantize
    .addHelpText('after', '\nExample:\n  lowbit quantize ./model -o ./model-hqq4 -b 4 -g 64 --rule "mlp.down_proj=hqq:b8"')
    .action(async (dir: string, options: Omit<QuantizeOptions, 'rules'>) => {
      const context = start(options);
      const { quantizeCommand } = await import('../commands/quantize.ts');
      await quantizeCommand(dir, { ...options, rules }, context);
    });
}

/** What is done to linears: for all that no rule matches, and rules. `rules` takes those of --rule and --skip, whose order among each other counts: the last match wins. */
function layerFlags(command: Command, rules: RuleText[]): void {
  command
    .optionsGroup('What is done to which linears:')
    .option(
      '-m, --method <name>',
      `method: ${METHODS.join(', ')}, as Python has it; or the module of another one, ./my-method or a package (default: the files of hqq by --solver least-squares --importance random-tokens, closer to the original)`,
      arg(parseMethod),
    )
    .option('-b, --bits <n>', 'hqq: bits per weight, 8, 6, 5, 4, 3, 2, 1.58 or 1; higgs: 4, 3 or 2 (default: 4)', arg(parseBits))
    .option(
      '-g, --group <n>',
      'hqq, nf4, fp4, higgs: weights that share a scale; hqq also none, for whole rows (default: 64, higgs 256)',
      arg(parseGroup),
    )
    .option(
      '--preset <name>',
      `settings that go together, other flags override them: ${PRESETS.map((name) => `${name} (${PRESET[name].what})`).join('; ')}`,
      arg((text) => parseChoice(text, PRESETS)),
    )
    .option('--recipe <file>', 'settings from a file that --save-recipe wrote; other flags override them', path)
    .option('--save-recipe <file>', 'keep all settings as JSON, to read, edit and use again; what --target-bits chose, too', path)
    .option(
      '--rule <glob=use>',
      "treat matching linears differently: 'mlp.down_proj=hqq:b8:g64:a0', '**.q_proj=hqq:b4:least-squares' (or :ls), 'mlp.*=nf4:g64:dq' (with :search, --scale search), 'lm_head=int8:t6', 'mlp.*_proj=higgs:b4:p2:g256:h512' (with :unbiased, --scale unbiased), 'lm_head=keep'; the last match wins",
      arg((text) => void rules.push(parseRule(text))),
    )
    .option(
      '--skip <glob>',
      'keep matching linears as they are; short for --rule GLOB=keep',
      arg((text) => void rules.push({ match: parseGlob(text), use: 'keep' })),
    );
}

/** Settings of methods; a flag that is none of the chosen methods' is refused. */
function methodFlags(command: Command): void {
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

/** What shares out bits among linears. All but the two targets need one of them. */
function targetFlags(command: Command): void {
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

/** How the folder is written. */
function fileFlags(command: Command): void {
  command
    .optionsGroup('What is written:')
    .option(
      '--dtype <type>',
      `store everything else, scales and zeros as ${DTYPES.join(', ')} (default: as in the source, scales f16)`,
      arg((text) => parseChoice(text, DTYPES)),
    )
    .option(
      '--layout <name>',
      `how the folder stores quantized linears: ${LAYOUTS.join(', ')} (default: the first that can; "Loads in" says who reads it)`,
      arg((text) => parseChoice(text, LAYOUTS)),
    )
    .option('--shard-size <size>', 'most bytes per safetensors file (default: 5GB)', arg(parseSize))
    .option('--dry-run', 'print every file and size, write nothing')
    .option('--resume', 'go on where an interrupted run of the same job stopped')
    .option('--overwrite', 'replace the output folder if it holds a model, and files of --save-recipe and --save-sensitivity');
}

/** Where and how the work is done. */
function workFlags(command: Command): void {
  command
    .optionsGroup('How it is computed:')
    .option(
      '-t, --threads <n>',
      'threads to compute with (default: as many as this machine has, at most 8); changes no byte of the result',
      number({ min: 1, max: 1024, whole: true }),
    )
    .option('--max-memory <size>', 'bound for weights in flight, such as 4GB or 192MB (default: 192MiB, at least 32MiB)', arg(parseMemory))
    .option('--backend <name>', `what runs the model to test it, and brings faster routines: ${BACKEND_HELP}`, path)
    .option(
      '--shard <i/n>',
      'do a share of the work, such as 2/8, on any machine and in any order; merge-shards makes the model of all shares. A share goes on where it was by itself',
      arg(parseShard),
    );
}

/** What is pushed. All but --push need it. */
function pushFlags(command: Command): void {
  command
    .optionsGroup('To the Hugging Face Hub:')
    .option('--push <name>', 'push the result to ORG/NAME of the Hugging Face Hub; without --out it is not kept here', path)
    .option('--private', 'make the repository private, if it is new')
    .option('--base-model <name>', 'for the model card: what is quantized (default: the model, where it is from the Hub)', path)
    .option('--license <id>', "with --push, for the model card (default: the base model's)", path)
    .option('-y, --yes', 'do not ask');
}
