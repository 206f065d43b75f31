// Conformance of a quantizer: what it writes is what its format announces, the same whatever the memory it is given, and honest about its error.

import { codecFor, type Format, type FormatCodec, isLowbitError, type Matrix, type Quantizer, type Routine } from '@lowbit/core';
import { type Case, check, checkJson, registerCases, type TestRunner } from './kit.ts';
import { routineCases } from './quantizer-routines.ts';
import { checkError, run, type Subject } from './quantizer-run.ts';
import { weightCases } from './quantizer-weights.ts';
import { seededTensor } from './random.ts';

/** Of `quantizerConformance`. */
export interface QuantizerConformanceOptions {
  /** Shapes it must take; default [64, 128] and [40, 256]. */
  readonly shapes?: readonly Matrix[];
  /** Codecs of its formats, where they are a third party's. */
  readonly codecs?: readonly FormatCodec[];
  /** Most that the root mean square error may be, as a share of the weight's; default 0.6. */
  readonly worstError?: number;
  /** Byte budgets that must give the same bytes; default 1 MiB, 64 KiB and no limit. */
  readonly budgets?: readonly number[];
  /** What the module of `Quantizer.worker` serves; needed to try the method with workers. */
  readonly routines?: Readonly<Record<string, Routine>>;
  /** The same method with other settings, each of which changes the bytes: their identities must differ. Default none. */
  readonly others?: readonly Quantizer[];
}

/** Shapes that few formats hold. */
const ODD: readonly Matrix[] = [
  [1, 1],
  [3, 5],
  [7, 13],
  [1, 64],
];

/** The cases, for any way of running them. */
export function quantizerCases(quantizer: Quantizer, options: QuantizerConformanceOptions = {}): readonly Case[] {
  const {
    codecs = [],
    worstError = 0.6,
    shapes = [
      [64, 128],
      [40, 256],
    ],
    budgets = [2 ** 20, 2 ** 16, Number.POSITIVE_INFINITY],
    routines,
    others = [],
  } = options;
  const subject: Subject = { quantizer, codecs };
  const budget = budgets[0]!;
  return [
    ...shapes.flatMap((shape, i) => weightCases({ ...subject, shape, weight: seededTensor(i + 50, shape, 0.1), budgets, worstError })),
    {
      group: 'settings',
      name: 'are data, and their identity tells them from others',
      run: async () => checkSettings(quantizer, others),
    },
    {
      group: 'shapes',
      name: 'refuses shapes it cannot hold with a reason, and quantizes those it accepts',
      run: () => checkOddShapes(subject, budget),
    },
    ...routineCases(subject, routines, budget),
  ];
}

function checkSettings(quantizer: Quantizer, others: readonly Quantizer[]): void {
  check(quantizer.spec === 1 && quantizer.method.length > 0, 'spec must be 1, and the method not empty');
  checkJson('config', quantizer.config);
  check(typeof quantizer.identity === 'string' && quantizer.identity.length > 0, 'the identity must be a text');
  for (const other of others) {
    const settings = JSON.stringify(other.config);
    check(other.identity !== quantizer.identity, `${settings} has the same identity, ${JSON.stringify(other.identity)}`);
  }
}

async function checkOddShapes(subject: Subject, budget: number): Promise<void> {
  const { quantizer, codecs } = subject;
  for (const [index, shape] of ODD.entries()) {
    const what = `[${shape.join(', ')}]`;
    let format: Format;
    try {
      format = quantizer.format(shape, 'f16');
      codecFor(format, codecs).parts(format, shape);
    } catch (error) {
      const reason = isLowbitError(error, 'ERR_UNSUPPORTED_FORMAT') && error.message.length > 0;
      check(reason, `${what} must give ERR_UNSUPPORTED_FORMAT, gave ${error}`);
      continue;
    }
    const weight = seededTensor(index + 70, shape, 0.1);
    const { quantized, error } = await run(subject, weight, format, { budget });
    checkError(subject, weight, quantized, error);
  }
}

/**
 * Registers the conformance cases of a quantizer.
 *
 * @example
 * quantizerConformance(hqq({ bits: 4 }), { describe, it });
 */
export function quantizerConformance(quantizer: Quantizer, runner: TestRunner, options: QuantizerConformanceOptions = {}): void {
  registerCases(`quantizer '${quantizer.method}' ${JSON.stringify(quantizer.config)}`, quantizerCases(quantizer, options), runner);
}
