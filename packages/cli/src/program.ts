// The whole command line in one place: verbs, flags, and what each flag accepts. The verbs themselves are imported when they run, so that --help
// and wrong usage answer at once.

import { isLowbitError, nearestName } from '@lowbit/core';
import { Command, InvalidArgumentError } from 'commander';
import { parseChoices, parseMethods } from './choices.ts';
import type { BenchFlags } from './commands/bench.ts';
import type { RemoveCachedOptions } from './commands/cache.ts';
import type { ChatOptions } from './commands/chat.ts';
import type { CompareOptions } from './commands/compare.ts';
import type { ConvertOptions } from './commands/convert.ts';
import type { EstimateFlags } from './commands/estimate.ts';
import type { GenerateOptions } from './commands/generate.ts';
import type { InspectOptions } from './commands/inspect.ts';
import type { MergeShardsFlags } from './commands/merge-shards.ts';
import type { PerplexityOptions } from './commands/perplexity.ts';
import type { PullOptions } from './commands/pull.ts';
import type { PushFlags } from './commands/push.ts';
import type { QuantizeOptions } from './commands/quantize.ts';
import type { ReportOptions } from './commands/report.ts';
import type { SensitivityOptions } from './commands/sensitivity.ts';
import type { CommonOptions, Context } from './context.ts';
import { UsageError } from './errors.ts';
import {
  BENCH_FORMATS,
  DTYPES,
  FLUTE,
  LAYOUTS,
  METHODS,
  type NumberBounds,
  parseAxis,
  parseBits,
  parseChoice,
  parseCounts,
  parseDimension,
  parseFlute,
  parseGlob,
  parseGroup,
  parseHadamardSize,
  parseImportance,
  parseMemory,
  parseMethod,
  parseNumber,
  parsePair,
  parsePath,
  parseRule,
  parseShard,
  parseSize,
  parseThreshold,
  QUANT_ZERO,
  type RuleText,
  SCALES,
  SOLVERS,
} from './parse.ts';
import { PRESET, PRESETS } from './presets.ts';
import { SENSITIVITY_TOKENS } from './sensitivity.ts';
import { version } from './version.ts';

type Start = (options: CommonOptions) => Context;

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
  addQuantize(program, start);
  addMergeShards(program, start);
  addConvert(program, start);
  addGenerate(program, start);
  addChat(program, start);
  addPerplexity(program, start);
  addCompare(program, start);
  addReport(program, start);
  addSensitivity(program, start);
  addBench(program, start);
  addInspect(program, start);
  addEstimate(program, start);
  addHub(program, start);
  addCache(program, start);
  addHelp(program);
  return program;
}

function addQuantize(program: Command, start: Start): void {
  // --rule and --skip share one list: the last match wins, so their order among each other counts.
  const rules: RuleText[] = [];
  verb(program, 'quantize', 'quantize a model folder into a new folder')
    .argument(
      '<model>',
      'model folder with config.json and safetensors, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hugging Face Hub',
      path,
    )
    .option('-o, --out <dir>', 'folder to write; it must not exist', path)
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
    .option('--axis <0|1>', 'hqq: groups along the rows (1) or across them (0) (default: 1)', arg(parseAxis))
    .option('--p <1|2>', 'higgs: weights that share a code (default: 2, the more exact)', arg(parseDimension))
    .option(
      '--hadamard-size <n>',
      'higgs: weights of a row that are rotated together, a power of two (default: 512)',
      arg(parseHadamardSize),
    )
    .option(
      '--scale <how>',
      'nf4, fp4: absmax (default), or search for the one with the least error; higgs: norm (default), or unbiased, better at 2 bits; the same files',
      arg((text) => parseChoice(text, SCALES)),
    )
    .option('--double-quant', 'nf4, fp4: keep scales as 8-bit codes')
    .option(
      '--threshold <x>',
      'int8: magnitude from which activations are computed in floating point, 0 for none (default: 6)',
      arg(parseThreshold),
    )
    .option(
      '--compute-dtype <type>',
      `nf4, fp4: what the checkpoint says its layers compute in, ${DTYPES.join(', ')} (default: f32); Python obeys it`,
      arg((text) => parseChoice(text, DTYPES)),
    )
    .option('--allow-non-finite', 'nf4, fp4, int8: quantize NaN and infinity as Python does, and copy them elsewhere (default: an error)')
    .option(
      '--solver <name>',
      `hqq: what finds the scales, ${SOLVERS.join(' or ')}; least-squares (default without -m) has smaller errors in the same files`,
      arg((text) => parseChoice(text, SOLVERS)),
    )
    .option(
      '--importance <from>',
      'what tells --solver least-squares and --scale search which channels matter: none (default with -m); random-tokens (default without), self (tokens that the model writes) or a text file, run through the model first; or an estimate from weights alone',
      arg(parseImportance),
    )
    .option(
      '--preset <name>',
      `settings that go together, flags go first: ${PRESETS.map((name) => `${name} (${PRESET[name].what})`).join('; ')}`,
      arg((text) => parseChoice(text, PRESETS)),
    )
    .option('--recipe <file>', 'settings from a file that --save-recipe wrote; flags go first', path)
    .option('--save-recipe <file>', 'keep all settings as JSON, to read, edit and use again; what --target-bits chose, too', path)
    .option(
      '--rule <glob=use>',
      "treat matching layers differently: 'mlp.down_proj=hqq:b8:g64:a0', '**.q_proj=hqq:b4:least-squares' (or :ls), 'mlp.*=nf4:g64:dq' (with :search, --scale search), 'lm_head=int8:t6', 'mlp.*_proj=higgs:b4:p2:g256:h512' (with :unbiased, --scale unbiased), 'lm_head=keep'; the last match wins",
      arg((text) => void rules.push(parseRule(text))),
    )
    .option(
      '--skip <glob>',
      'keep matching layers as they are; short for --rule GLOB=keep',
      arg((text) => void rules.push({ match: parseGlob(text), use: 'keep' })),
    )
    .option(
      '--target-bits <x>',
      'share out this many bits per weight among the layers, more where errors cost more; embeddings and lm_head are not counted',
      number({ min: 0.1, max: 64 }),
    )
    .option(
      '--target-size <size>',
      'the same for the size of all safetensors files together, such as 4GB; embeddings and all else count',
      arg(parseSize),
    )
    .option(
      '--methods <list>',
      'with a target: choose among what these methods offer, such as hqq,bnb,higgs; only lowbit reads a mixture',
      arg(parseMethods),
    )
    .option(
      '--choices <list>',
      "with --target-bits: what layers can get, as in rules: 'hqq:b3:g64,hqq:b4:g64,hqq:b8:g64' (default: the method's usual widths)",
      arg(parseChoices),
    )
    .option(
      '--sensitivity <from>',
      'with --target-bits: what layers are tested on: random (default) tokens, tokens generated by the model itself, a text file, token ids as JSON, or what --save-sensitivity wrote',
      path,
    )
    .option(
      '--sensitivity-tokens <n>',
      `with --target-bits: tokens to test on; more are steadier and slower (default: ${SENSITIVITY_TOKENS})`,
      number({ min: 1, max: 2 ** 20, whole: true }),
    )
    .option('--save-sensitivity <file>', 'with --target-bits: keep the result of the test as JSON, for other targets', path)
    .option(
      '--per <unit>',
      'with --target-bits: choose for every linear (default); fused: once for q, k and v of a layer, and for gate and up, which some programs load as one; tag: once for all layers of a tag',
      arg((text) => parseChoice(text, ['linear', 'fused', 'tag'] as const)),
    )
    .option('--measure <file>', 'with --target-bits: compare the result with the original on this text (or ids as JSON)', path)
    .option(
      '--dtype <type>',
      `store everything else, scales and zeros as ${DTYPES.join(', ')} (default: as in the source, scales f16)`,
      arg((text) => parseChoice(text, DTYPES)),
    )
    .option('--quant-scale', 'hqq: store scales as 8-bit codes, too; only lowbit reads the result')
    .option(
      '--quant-zero <how>',
      `hqq: store zeros as 8-bit codes, too, ${QUANT_ZERO.join(' or ')} (one grid a layer, or one for every 128); only lowbit reads the result`,
      arg((text) => parseChoice(text, QUANT_ZERO)),
    )
    .option(
      '--layout <name>',
      `how the folder stores quantized layers: ${LAYOUTS.join(', ')} (default: the first that can; "Loads in" says who reads it)`,
      arg((text) => parseChoice(text, LAYOUTS)),
    )
    .option('--max-memory <size>', 'bound for weights in flight, such as 4GB or 192MB (default: 192MiB, at least 32MiB)', arg(parseMemory))
    .option(
      '--threads <n>',
      'threads to compute with (default: as many as this machine has, at most 8); changes no byte of the result',
      number({ min: 1, max: 1024, whole: true }),
    )
    .option('--backend <name>', `what runs the model to test it, and brings faster routines: ${BACKEND_HELP}`, path)
    .option('--shard-size <size>', 'most bytes per safetensors file (default: 5GB)', arg(parseSize))
    .option(
      '--shard <i/n>',
      'do a share of the work, such as 2/8, on any machine and in any order; merge-shards makes the model of all shares. A share goes on where it was by itself',
      arg(parseShard),
    )
    .option('--push <name>', 'push the result to ORG/NAME of the Hugging Face Hub; without --out it is not kept here', path)
    .option('--private', 'with --push: make the repository private, if it is new')
    .option(
      '--base-model <name>',
      'with --push, for the model card: what is quantized (default: the model, where it is from the Hub)',
      path,
    )
    .option('--license <id>', "with --push, for the model card (default: the base model's)", path)
    .option('-y, --yes', 'with --push: do not ask')
    .option('--dry-run', 'print every file and size, write nothing')
    .option('--resume', 'go on where an interrupted run of the same job stopped')
    .option('--overwrite', 'replace the output folder if it holds a model')
    .addHelpText('after', '\nExample:\n  lowbit quantize ./model -o ./model-hqq4 -b 4 -g 64 --rule "mlp.down_proj=hqq:b8"')
    .action(async (dir: string, options: Omit<QuantizeOptions, 'rules'>) => {
      const context = start(options);
      const { quantizeCommand } = await import('./commands/quantize.ts');
      await quantizeCommand(dir, { ...options, rules }, context);
    });
}

function addMergeShards(program: Command, start: Start): void {
  verb(program, 'merge-shards', 'make one model folder of the shares that quantize --shard wrote')
    .argument('<out>', 'the folder that was named as --out', path)
    .argument('[from...]', 'where the shares are, if they are not in OUT.shards: folders of shares, or folders that hold some')
    .option('--keep-shards', 'leave the shares where they are (default: what is merged is removed, so that the disk holds the model once)')
    .option('--overwrite', 'replace the output folder if it holds a model')
    .addHelpText(
      'after',
      '\nRun again after a break: it goes on where it was.\n\nExample:\n  for i in 1 2 3 4; do lowbit quantize ./model -o ./model-hqq4 --shard $i/4; done\n  lowbit merge-shards ./model-hqq4',
    )
    .action(async (out: string, from: string[], options: MergeShardsFlags) => {
      const context = start(options);
      const { mergeShardsCommand } = await import('./commands/merge-shards.ts');
      await mergeShardsCommand(out, from, options, context);
    });
}

function addConvert(program: Command, start: Start): void {
  verb(program, 'convert', 'store a quantized model folder in another way, without quantizing again')
    .argument('<dir>', 'model folder that was quantized with HIGGS, or ORG/NAME[@REVISION] of the Hub', path)
    .option('-o, --out <dir>', 'folder to write; it must not exist', path)
    .option(
      '--flute <tile>',
      `how codes are packed: ${FLUTE.join(', ')}; 32 is what transformers reads, portable takes any shape but lowbit alone reads it, auto is 32 where it fits`,
      arg(parseFlute),
    )
    .option('--max-memory <size>', 'bound for codes in flight, such as 4GB or 192MB (default: 192MiB, at least 32MiB)', arg(parseMemory))
    .option('--shard-size <size>', 'most bytes per safetensors file (default: 5GB)', arg(parseSize))
    .option('--dry-run', 'print every file and size, write nothing')
    .option('--resume', 'go on where an interrupted run of the same job stopped')
    .option('--overwrite', 'replace the output folder if it holds a model')
    .addHelpText('after', '\nExample:\n  lowbit convert ./model-higgs4 -o ./model-higgs4-portable --flute portable')
    .action(async (dir: string, options: ConvertOptions) => {
      const context = start(options);
      const { convertCommand } = await import('./commands/convert.ts');
      await convertCommand(dir, options, context);
    });
}

function addGenerate(program: Command, start: Start): void {
  computing(sampling(verb(program, 'generate', 'continue a text')))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .requiredOption('-p, --prompt <text>', 'text to continue; - reads it from stdin')
    .option(
      '--image <file>',
      'image to look at, JPEG or PNG (with sharp installed others, too); one for each <image> of the prompt, may be repeated',
      (text, before: readonly string[] | undefined) => [...(before ?? []), path(text)],
    )
    .addHelpText(
      'after',
      '\nExample:\n  lowbit generate ./model-hqq4 -p "It was a fine morning, and" --max-tokens 60 --seed 1\n  lowbit generate ./llava-hqq4 --image cat.jpg -p "USER: <image> What is this? ASSISTANT:"',
    )
    .action(async (model: string, options: GenerateOptions) => {
      const context = start(options);
      const { generateCommand } = await import('./commands/generate.ts');
      await generateCommand(model, options, context);
    });
}

function addChat(program: Command, start: Start): void {
  computing(
    sampling(
      verb(
        program,
        'chat',
        'talk with a model; without a terminal, one answer per line of stdin',
        'JSON Lines on stdout: one value per answer; no progress',
      ),
    ),
  )
    .argument('<model>', 'model folder with a chat template, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .option('--system <text>', 'system message')
    .option('--template <name>', "chat template of the model by its name, or a file with one (default: the model's own)", path)
    .option('--tools <file>', 'JSON file with a list of function descriptions for the template', path)
    .addHelpText(
      'after',
      '\nIn the chat: /reset starts over, /image FILE shows an image with the next message, /save FILE writes the conversation as JSON, /exit leaves. Ctrl-C stops an answer; twice, it leaves.',
    )
    .action(async (model: string, options: ChatOptions) => {
      const context = start(options);
      const { chatCommand } = await import('./commands/chat.ts');
      await chatCommand(model, options, context);
    });
}

function addPerplexity(program: Command, start: Start): void {
  computing(verb(program, 'perplexity', 'measure how well a model predicts a text'))
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
      const { perplexityCommand } = await import('./commands/perplexity.ts');
      await perplexityCommand(model, options, context);
    });
}

function addCompare(program: Command, start: Start): void {
  computing(verb(program, 'compare', 'measure what a model lost against the one that it was made from'))
    .argument('<model>', 'model folder, quantized or not', path)
    .argument('<reference>', 'folder of the model that it was made from', path)
    .option('--data <file>', 'text file', path)
    .option('--ids <file>', 'JSON file of token ids: one list, or a list of lists that are scored on their own', path)
    .option(
      '--ctx <n>',
      'tokens the models see at a time (default: the smaller of their own length and 2048)',
      number({ min: 2, max: 2 ** 31, whole: true }),
    )
    .option('--stride <n>', 'tokens a window moves on by (default: --ctx)', number({ min: 1, max: 2 ** 31, whole: true }))
    .option('--layers', 'also the errors of every layer: of its weight, and of its output for tokens of the text')
    .option('-o, --out <file>', 'keep the result as JSON; `lowbit push` puts quality.json of a model folder into its card', path)
    .addHelpText('after', '\nExample:\n  lowbit compare ./model-hqq4 ./model --data eval.txt --layers')
    .action(async (model: string, reference: string, options: CompareOptions) => {
      const context = start(options);
      const { compareCommand } = await import('./commands/compare.ts');
      await compareCommand(model, reference, options, context);
    });
}

function addReport(program: Command, start: Start): void {
  const list = (text: string, before: readonly string[] | undefined): readonly string[] => [...(before ?? []), text];
  computing(verb(program, 'report', 'write what a model lost as one HTML file: figures, plots, layers, texts side by side'))
    .argument('<model>', 'quantized model folder', path)
    .argument('<reference>', 'folder of the model that it was made from', path)
    .requiredOption('-o, --out <file>', 'HTML file to write; one that is there is replaced', path)
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
      const { reportCommand } = await import('./commands/report.ts');
      await reportCommand(model, reference, options, context);
    });
}

function addSensitivity(program: Command, start: Start): void {
  computing(verb(program, 'sensitivity', 'measure what an error in each layer costs a model'))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .option(
      '--on <from>',
      'what it runs: random (default) tokens, tokens generated by the model itself, a text file, or token ids as JSON',
      path,
    )
    .option(
      '--tokens <n>',
      `how many of them; more are steadier and slower (default: ${SENSITIVITY_TOKENS})`,
      number({ min: 1, max: 2 ** 24, whole: true }),
    )
    .option('--save <file>', 'keep the result as JSON, for --sensitivity of quantize', path)
    .addHelpText('after', '\nExample:\n  lowbit sensitivity ./model --on text.txt --save model.json')
    .action(async (model: string, options: SensitivityOptions) => {
      const context = start(options);
      const { sensitivityCommand } = await import('./commands/sensitivity.ts');
      await sensitivityCommand(model, options, context);
    });
}

function addBench(program: Command, start: Start): void {
  const counts = (text: string, before: readonly number[] | undefined): readonly number[] => [
    ...(before ?? []),
    ...arg((list: string) => parseCounts(list, { min: 0 }))(text),
  ];
  computing(verb(program, 'bench', 'time reading prompts and writing tokens, as llama-bench does', 'short for --output json'), '<list>')
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .option('-p, --n-prompt <list>', 'tokens of a prompt to read; of several each is a test, 0 is none (default: 512)', counts)
    .option('-n, --n-gen <list>', 'tokens to write one by one; of several each is a test, 0 is none (default: 128)', counts)
    .option(
      '--pg <p,n>',
      'read p tokens, then write n, timed as one; may be repeated',
      (text, before: readonly (readonly [number, number])[] | undefined) => [...(before ?? []), arg(parsePair)(text)],
    )
    .option('-d, --n-depth <list>', 'tokens in the cache before a test begins (default: 0)', counts)
    .option('-r, --repetitions <n>', 'timed runs of each test', number({ min: 1, max: 10_000, whole: true }), 5)
    .option('-b, --batch-size <n>', 'most tokens of a prompt in one step', number({ min: 1, max: 2 ** 20, whole: true }), 512)
    .option('--no-warmup', 'leave out the run before each test that does not count')
    .option(
      '-o, --output <format>',
      `${BENCH_FORMATS.join(', ')} (default: md)`,
      arg((text) => parseChoice(text, BENCH_FORMATS)),
    )
    .addHelpText('after', '\nExample:\n  lowbit bench ./model-hqq4 -p 512 -n 128 -t 1,2')
    .action(async (model: string, options: BenchFlags) => {
      const context = start({ ...options, json: options.json === true || options.output === 'json' || options.output === 'jsonl' });
      const { benchCommand } = await import('./commands/bench.ts');
      await benchCommand(model, options, context);
    });
}

function addInspect(program: Command, start: Start): void {
  plugins(verb(program, 'inspect', 'show what is in a model folder, without reading weights'))
    .argument('<model>', 'model folder, or ORG/NAME[@REVISION] of the Hub, which is not downloaded', path)
    .option('--tensors', 'list every tensor')
    .option('--allow-non-finite', 'take weights that are stored as NaN or infinity as they are (default: an error)')
    .action(async (dir: string, options: InspectOptions) => {
      const context = start(options);
      const { inspectCommand } = await import('./commands/inspect.ts');
      await inspectCommand(dir, options, context);
    });
}

function addEstimate(program: Command, start: Start): void {
  computing(verb(program, 'estimate', 'tell how much memory a model takes, before it is quantized or loaded'))
    .argument('<model>', 'model folder, or ORG/NAME[@REVISION] of the Hub, which is not downloaded', path)
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
      '--context <n>',
      'tokens of a text (default: the most that the model takes, up to 4096)',
      number({ min: 1, max: 2 ** 31, whole: true }),
    )
    .option('--sequences <n>', 'texts at once', number({ min: 1, max: 2 ** 20, whole: true }), 1)
    .option('--measure', 'load the model, read a text as long as --context, and tell what that really took beside the estimate')
    .addHelpText('after', '\nExample:\n  lowbit estimate ./model -m hqq -b 4 --context 8192')
    .action(async (dir: string, options: EstimateFlags) => {
      const context = start(options);
      const { estimateCommand } = await import('./commands/estimate.ts');
      await estimateCommand(dir, options, context);
    });
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

function addHub(program: Command, start: Start): void {
  const list = (text: string, before: readonly string[] | undefined): readonly string[] => [...(before ?? []), text];
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
      const { pullCommand } = await import('./commands/pull.ts');
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
      const { pushCommand } = await import('./commands/push.ts');
      await pushCommand(dir, to, options, context);
    });
  verb(program, 'login', 'tell which token of the Hugging Face Hub is used, and whose it is; it is never shown').action(
    async (options: CommonOptions) => {
      const context = start(options);
      const { loginCommand } = await import('./commands/login.ts');
      await loginCommand(context);
    },
  );
  verb(program, 'doctor', 'tell what this machine has: backends, caches, tokens, room; and what to do').action(
    async (options: CommonOptions) => {
      const context = start(options);
      const { doctorCommand } = await import('./commands/doctor.ts');
      await doctorCommand(context);
    },
  );
}

function addCache(program: Command, start: Start): void {
  const list = async (options: CommonOptions): Promise<void> => {
    const context = start(options);
    const { listCacheCommand } = await import('./commands/cache.ts');
    await listCacheCommand(context);
  };
  const cache = verb(program, 'cache', 'list what is kept on disk: models of the Hub, and the packed weights of the native backend')
    .addHelpText(
      'after',
      '\nModels: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub, shared with Python.\nPacked weights: LOWBIT_CACHE or the cache folder of the system, at most LOWBIT_CACHE_SIZE or 20GiB; LOWBIT_CACHE=off keeps none.',
    )
    .action(list);
  verb(cache, 'ls', 'the same').action((_options: unknown, command: Command) => list(command.optsWithGlobals<CommonOptions>()));
  verb(cache, 'rm', 'remove downloaded models (ORG/NAME), or packed weights; what is needed again is fetched or packed again')
    .argument('[names...]', 'ORG/NAME of downloaded models; names of packed ones, beginnings of names, or model folders')
    .option('-a, --all', 'all packed weights; downloaded models have to be named')
    .option('-y, --yes', 'do not ask')
    .action(async (names: string[], _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<RemoveCachedOptions>();
      const context = start(options);
      const { removeCachedCommand } = await import('./commands/cache.ts');
      await removeCachedCommand(names, options, context);
    });
}

function verb(program: Command, name: string, description: string, json = 'one JSON value on stdout, no progress'): Command {
  return program.command(name).description(description).option('--json', json).option('-q, --quiet', 'no progress and no remarks');
}

const BACKEND_HELP =
  'auto (default: native code where it can be had, else TypeScript), cpu (native), reference (TypeScript), ./module.mjs or a package';

/** Flags of what runs a model; with `<list>` it is run for each number of threads. */
function computing(command: Command, threads: '<n>' | '<list>' = '<n>'): Command {
  const bounds = { min: 1, max: 1024, whole: true };
  return plugins(command)
    .option('--backend <name>', `what runs the model: ${BACKEND_HELP}`, path)
    .option(
      `-t, --threads ${threads}`,
      'threads of the native backend (default: as many as this machine has); changes no byte of the result',
      arg((text): number | readonly number[] => (threads === '<n>' ? parseNumber(text, bounds) : parseCounts(text, bounds))),
    )
    .option(
      '--precision <how>',
      'activations of the native backend: exact (default), or fast, in 16 bits',
      arg((text) => parseChoice(text, ['exact', 'fast'] as const)),
    )
    .option('--isa <name>', 'with --backend cpu: instructions to use, such as avx2 or scalar (default: the best there are)')
    .option('--allow-non-finite', 'take weights that are stored as NaN or infinity as they are (default: an error)')
    .option(
      '--head-bits <n>',
      'hold an output layer that is not quantized in so many bits (hqq: 8 loses hardly anything, 4 is smaller): less to read for each token',
      arg((text) => Number(parseChoice(text, ['8', '6', '5', '4', '3', '2', '1'] as const))),
    );
}

/** What may read folders of methods that lowbit does not know. */
function plugins(command: Command): Command {
  return command.option(
    '--plugin <module>',
    'for folders of another method: its module, ./my-method or an installed package, which is executed; may be repeated',
    (text, before: readonly string[] | undefined) => [...(before ?? []), arg(parsePath)(text)],
  );
}

function sampling(command: Command): Command {
  return command
    .option('--max-tokens <n>', 'most tokens to generate', number({ min: 1, max: 2 ** 31, whole: true }), 256)
    .option(
      '--temp <x>',
      'temperature; 0 always takes the likeliest token (default: generation_config.json, else 0.7)',
      number({ min: 0, max: 100 }),
    )
    .option('--top-k <n>', 'sample among the n likeliest tokens; 0 among all', number({ min: 0, max: 2 ** 31, whole: true }))
    .option('--top-p <x>', 'sample among the likeliest tokens that make up this share', number({ min: 0, max: 1 }))
    .option('--seed <n>', 'make sampling repeatable', number({ min: 0, max: Number.MAX_SAFE_INTEGER, whole: true }))
    .option('--json-schema <file>', 'write JSON that satisfies this JSON schema, and nothing else', path)
    .option('--prompt-lookup', 'guess tokens from the text so far: the same text (int8: nearly), faster where it repeats itself');
}

/** A parser for commander: our refusals become its usage errors, which name the flag. */
function arg<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (isLowbitError(error)) throw new InvalidArgumentError(error.hint ? `${error.message}. ${error.hint}` : error.message);
      throw error;
    }
  };
}

/** A file or folder. */
const path = arg(parsePath);

function number(bounds: NumberBounds): (text: string) => number {
  return arg((text) => parseNumber(text, bounds));
}
