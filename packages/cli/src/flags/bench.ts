// Flags of `lowbit bench`.

import type { Command } from 'commander';
import type { BenchFlags } from '../commands/bench.ts';
import { BENCH_FORMATS, parseChoice, parseCounts, parsePair } from '../parse.ts';
import { arg, computing, number, offloading, path, type Start, verb } from './common.ts';

export function addBench(program: Command, start: Start): void {
  const counts = (text: string, before: readonly number[] | undefined): readonly number[] => [
    ...(before ?? []),
    ...arg((list: string) => parseCounts(list, { min: 0 }))(text),
  ];
  offloading(
    computing(verb(program, 'bench', 'time reading prompts and writing tokens, as llama-bench does', 'short for --output json'), '<list>'),
  )
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
      const { benchCommand } = await import('../commands/bench.ts');
      await benchCommand(model, options, context);
    });
}
