// What flags of several commands share: the values that they accept, and the flags of all that run a model.

import { isLowbitError } from '@lowbit/core';
import { type Command, InvalidArgumentError } from 'commander';
import type { CommonOptions, Context } from '../context.ts';
import { type NumberBounds, parseChoice, parseCounts, parseNumber, parsePath, parseSize } from '../parse.ts';

/** Makes the context of the verb that was chosen. */
export type Start = (options: CommonOptions) => Context;

/** A verb, with the flags that all of them take. */
export function verb(program: Command, name: string, description: string, json = 'one JSON value on stdout, no progress'): Command {
  return program.command(name).description(description).option('--json', json).option('-q, --quiet', 'no progress and no remarks');
}

export const BACKEND_HELP =
  'auto (default: native code where it can be had, else TypeScript), cpu (native), reference (TypeScript), ./module.mjs or a package';

/** The heading of --help for what no group of flags has. */
export const OWN_FLAGS = 'Options:';
/** That of what runs a model. */
const RUNNING = 'How the model runs:';

/** Flags of what runs a model; with `<list>` it is run for each number of threads. */
export function computing(command: Command, threads: '<n>' | '<list>' = '<n>'): Command {
  const bounds = { min: 1, max: 1024, whole: true };
  return plugins(command.optionsGroup(RUNNING))
    .option('--backend <name>', `what runs the model: ${BACKEND_HELP}`, path)
    .option(
      `-t, --threads ${threads}`,
      'threads of the native backend (default: as many as this machine has); changes no byte of the result',
      arg((text): number | readonly number[] => (threads === '<n>' ? parseNumber(text, bounds) : parseCounts(text, bounds))),
    )
    .option(
      '--precision <how>',
      'activations of the native backend: exact (default), or fast, in 16 bits; of CUDA those of prompts, in 12',
      arg((text) => parseChoice(text, ['exact', 'fast'] as const)),
    )
    .option('--isa <name>', 'with --backend cpu: instructions to use, such as avx2 or scalar (default: the best there are)')
    .option('--allow-non-finite', 'take weights that are stored as NaN or infinity as they are (default: an error)')
    .option(
      '--head-bits <n>',
      'hold an output layer that is not quantized in so many bits (hqq: 8 loses hardly anything, 4 is smaller): less to read for each token',
      arg((text) => Number(parseChoice(text, ['8', '6', '5', '4', '3', '2', '1'] as const))),
    )
    .optionsGroup(OWN_FLAGS);
}

/** What decides how much of a model a backend with memory of its own holds. */
export function weightMemory(command: Command): Command {
  return command
    .optionsGroup(RUNNING)
    .option(
      '--weight-memory <size>',
      'with --backend @lowbit/kernels-cuda: memory of the GPU for weights, such as 6GB; those beyond it stay on the host and come as they are used (default: all)',
      arg(parseSize),
    )
    .optionsGroup(OWN_FLAGS);
}

/** The same, and what of each weight. */
export function offloading(command: Command): Command {
  return weightMemory(command)
    .optionsGroup(RUNNING)
    .option('--offload-meta', 'with --backend @lowbit/kernels-cuda: keep scales, zeros and tables of quantized weights on the host')
    .optionsGroup(OWN_FLAGS);
}

/** What may read folders of methods that lowbit does not know. */
export function plugins(command: Command): Command {
  return command.option(
    '--plugin <module>',
    'for folders of another method: its module, ./my-method or an installed package, which is executed; may be repeated',
    (text, before: readonly string[] | undefined) => [...(before ?? []), arg(parsePath)(text)],
  );
}

/** A flag that may be repeated. */
export const list = (text: string, before: readonly string[] | undefined): readonly string[] => [...(before ?? []), text];

/** A parser for commander: our refusals become its usage errors, which name the flag. */
export function arg<T>(parse: (text: string) => T): (text: string) => T {
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
export const path = arg(parsePath);

/** A number within bounds. */
export function number(bounds: NumberBounds): (text: string) => number {
  return arg((text) => parseNumber(text, bounds));
}
