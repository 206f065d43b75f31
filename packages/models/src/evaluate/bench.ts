// How fast a model reads prompts and writes tokens, measured as llama-bench does: random tokens, no sampling, a run to warm up, then repetitions.

import { breather, type CallOptions, checkOptionNames, LowbitError, type SequenceId } from '@lowbit/core';
import { refuseEncoder } from '../model/encoder.ts';
import { type LanguageModel, partsOf } from '../model/language-model.ts';
import type { Runner } from '../model/runner.ts';
import { randomTokens } from './random-tokens.ts';

/** Numbers of tokens; of several each is a test. */
type Counts = number | readonly number[];

export interface BenchOptions extends CallOptions {
  /** Tokens of a prompt that is read (pp); 0 for no such test. Default 512. */
  readonly prompt?: Counts | undefined;
  /** Tokens that are written one after another (tg); 0 for no such test. Default 128. */
  readonly generate?: Counts | undefined;
  /** Tests that read a prompt and then write, timed as one. Default none. */
  readonly promptAndGenerate?: readonly (readonly [prompt: number, generate: number])[] | undefined;
  /** Tokens in the cache before a test begins, which are not timed. Default 0. */
  readonly depth?: Counts | undefined;
  /** Timed runs of each test. Default 5. */
  readonly repetitions?: number | undefined;
  /** A run of each test that does not count (of `generate` one token). Default true. */
  readonly warmup?: boolean | undefined;
  /** Called with each test when it has ended, and waited for. */
  readonly onResult?: ((result: BenchResult) => void | Promise<void>) | undefined;
}

/** One test: so many tokens, so often. */
export interface BenchResult {
  /** `pp512`, `tg128`, `pp512+tg128`; with a depth `pp512 @ d1024`. */
  readonly test: string;
  readonly prompt: number;
  readonly generate: number;
  readonly depth: number;
  /** When it began. */
  readonly started: Date;
  /** Wall-clock milliseconds of each run. */
  readonly milliseconds: readonly number[];
  /** Tokens read and written, per second: of each run, their mean and their sample standard deviation (of a single run 0). */
  readonly tokensPerSecond: { readonly samples: readonly number[]; readonly mean: number; readonly stddev: number };
}

interface Test {
  readonly prompt: number;
  readonly generate: number;
  readonly depth: number;
}

const OPTIONS = Object.keys({
  prompt: true,
  generate: true,
  promptAndGenerate: true,
  depth: true,
  repetitions: true,
  warmup: true,
  onResult: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof BenchOptions, true>);

/**
 * Times a model. The tests come in llama-bench's order: for each depth prompts, then generations, then both. Prompts are read in chunks of the model's
 * `prefillChunk`, with logits of the last token alone; a token that is written costs a step of one row, its logits read back, and no sampling. Which tokens
 * does not matter: they are random, the same each time. Nothing else should use the model meanwhile.
 *
 * Throws ERR_BAD_ARGUMENT (a count that is none, no test at all), ERR_LIMIT (a test that does not fit into the model's context), ERR_DISPOSED.
 *
 * @example
 * for (const { test, tokensPerSecond } of await benchModel(model, { prompt: 512, generate: 128 })) console.log(test, tokensPerSecond.mean);
 */
export async function benchModel(model: LanguageModel, options: BenchOptions = {}): Promise<readonly BenchResult[]> {
  checkOptionNames('benchModel', options, OPTIONS);
  const { runner, prefillChunk, encoder, label } = partsOf(model);
  refuseEncoder({ encoder }, label, 'speed');
  const { repetitions = 5, warmup = true, onResult, signal, onProgress } = options;
  checkCount('repetitions', repetitions, 1);
  const tests = testsOf(options);
  for (const test of tests) checkRoom(test, model.contextLength);
  const total = repetitions * tests.reduce((sum, { prompt, generate }) => sum + prompt + generate, 0);
  const breathe = breather();
  let done = 0;
  const results: BenchResult[] = [];
  for (const test of tests) {
    const run = new TestRun(runner, test, { vocab: model.vocab, chunk: prefillChunk, signal });
    const started = new Date();
    const milliseconds: number[] = [];
    try {
      await run.prepare();
      if (warmup) await run.once(Math.min(1, test.generate));
      for (let i = 0; i < repetitions; i++) {
        await breathe(); // between runs, where it costs none of them
        milliseconds.push(await run.once(test.generate));
        done += test.prompt + test.generate;
        onProgress?.({ phase: 'bench', done, total, unit: 'tokens', item: nameOf(test) });
      }
    } finally {
      await run.end();
    }
    const samples = milliseconds.map((ms) => (1000 * (test.prompt + test.generate)) / ms);
    const result = { test: nameOf(test), ...test, started, milliseconds, tokensPerSecond: { samples, ...spread(samples) } };
    results.push(result);
    await onResult?.(result);
  }
  return results;
}

function checkCount(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `benchModel: ${name} is ${String(value)}, expected a whole number from ${least}`, {
    details: { [name]: value },
  });
}

function testsOf({ prompt = 512, generate = 128, promptAndGenerate = [], depth = 0 }: BenchOptions): readonly Test[] {
  const list = (name: string, counts: Counts): readonly number[] => {
    const all = typeof counts === 'number' ? [counts] : counts;
    for (const count of all) checkCount(name, count, 0);
    return all;
  };
  const [prompts, generations, depths] = [list('prompt', prompt), list('generate', generate), list('depth', depth)];
  for (const pair of promptAndGenerate) for (const count of pair) checkCount('promptAndGenerate', count, 1);
  const tests = depths.flatMap((at) => [
    ...prompts.filter((count) => count > 0).map((count) => ({ prompt: count, generate: 0, depth: at })),
    ...generations.filter((count) => count > 0).map((count) => ({ prompt: 0, generate: count, depth: at })),
    ...promptAndGenerate.map(([first, then]) => ({ prompt: first, generate: then, depth: at })),
  ]);
  if (tests.length > 0) return tests;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'benchModel: there is no test to run', {
    hint: 'Give a number of tokens above 0 to `prompt` or `generate`.',
  });
}

function checkRoom(test: Test, contextLength: number): void {
  const needed = test.prompt + test.generate + test.depth;
  if (needed <= contextLength) return;
  throw new LowbitError(
    'ERR_LIMIT',
    `the test ${nameOf(test)} takes ${needed} tokens, more than the ${contextLength} of the model's context`,
    {
      hint: 'Take fewer tokens, or load the model with a larger contextLength if it allows one.',
      details: { ...test, contextLength },
    },
  );
}

function nameOf({ prompt, generate, depth }: Test): string {
  const parts = [prompt > 0 ? `pp${prompt}` : '', generate > 0 ? `tg${generate}` : ''].filter(Boolean);
  return `${parts.join('+')}${depth > 0 ? ` @ d${depth}` : ''}`;
}

/** Mean, and standard deviation of a sample. */
function spread(samples: readonly number[]): { readonly mean: number; readonly stddev: number } {
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  const squares = samples.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, stddev: samples.length > 1 ? Math.sqrt(squares / (samples.length - 1)) : 0 };
}

/** One test on its sequences: what is in the cache before is computed once, and every run goes on from a copy of it. */
class TestRun {
  readonly #runner: Runner;
  readonly #test: Test;
  readonly #tokens: Uint32Array;
  readonly #chunk: number;
  readonly #signal: AbortSignal | undefined;
  #base: SequenceId | undefined;

  constructor(
    runner: Runner,
    test: Test,
    { vocab, chunk, signal }: { readonly vocab: number; readonly chunk: number; readonly signal: AbortSignal | undefined },
  ) {
    this.#runner = runner;
    this.#test = test;
    this.#tokens = randomTokens(vocab, test.depth + test.prompt + test.generate);
    this.#chunk = chunk;
    this.#signal = signal;
  }

  async prepare(): Promise<void> {
    if (this.#test.depth === 0) return;
    this.#base = await this.#runner.open();
    await this.#read(this.#base, 0, this.#test.depth);
  }

  /** Milliseconds of reading the prompt and writing so many tokens. */
  async once(generate: number): Promise<number> {
    const { prompt, depth } = this.#test;
    const base = this.#base;
    const id = base === undefined ? await this.#runner.open() : await this.#runner.run((program) => program.fork(base));
    try {
      const begin = performance.now();
      await this.#read(id, depth, depth + prompt);
      for (let at = depth + prompt; at < depth + prompt + generate; at++) await this.#step(id, at, at + 1, at + 1);
      return performance.now() - begin;
    } finally {
      await this.#runner.close(id);
    }
  }

  async end(): Promise<void> {
    if (this.#base !== undefined) await this.#runner.close(this.#base);
  }

  async #read(id: SequenceId, from: number, to: number): Promise<void> {
    for (let at = from; at < to; at += this.#chunk) await this.#step(id, at, Math.min(at + this.#chunk, to), to);
  }

  /** Tokens [from, to) of a text of `length` tokens, of which the last one's logits are wanted. */
  async #step(id: SequenceId, from: number, to: number, length: number): Promise<void> {
    const wanted = to === length ? Uint32Array.of(to - from - 1) : new Uint32Array(0);
    // The best token is what generating reads back, too.
    await this.#runner.step([{ id, tokens: this.#tokens.subarray(from, to), wanted, length }], {
      signal: this.#signal,
      outputs: ['logits'],
      largest: { logits: 1 },
    });
  }
}
