// What a quantizer does with one weight, in every shape that it must take.

import { castFloat, codecFor, type HostTensor, type Matrix, toFloat32 } from '@lowbit/core';
import { type Case, check, checkJson, checkThrows } from './kit.ts';
import { checkError, checkSame, run, type Subject } from './quantizer-run.ts';

/** A quantizer, a weight, and how much room it gets. */
export interface OnWeight extends Subject {
  readonly shape: Matrix;
  readonly weight: HostTensor;
  /** Byte budgets that must give the same bytes. */
  readonly budgets: readonly number[];
  /** Most that the root mean square error may be, as a share of the weight's. */
  readonly worstError: number;
}

export function weightCases(subject: OnWeight): readonly Case[] {
  const group = `[${subject.shape.join(', ')}]`;
  const on = (name: string, body: (subject: OnWeight) => Promise<void>): Case => ({ group, name, run: () => body(subject) });
  return [
    on('the format is data, and its parts have sizes', formatIsData),
    on('writes each element of each part once, and an honest error', writesOnce),
    on('writes the same bytes whatever the budget and the dtype that holds the weight', sameBytes),
    on('refuses NaN and infinity, and stops when aborted', refuses),
    on('takes constant and zero weights', takesConstants),
  ];
}

async function formatIsData({ quantizer, codecs, shape }: OnWeight): Promise<void> {
  const format = quantizer.format(shape, 'f16');
  check(JSON.stringify(format) === JSON.stringify(quantizer.format(shape, 'f16')), 'two calls give two formats');
  check(JSON.stringify(structuredClone(format)) === JSON.stringify(format), 'the format does not survive structuredClone');
  check(Object.keys(codecFor(format, codecs).parts(format, shape)).length > 0, 'the format has no parts');
  checkJson('format', format);
}

async function writesOnce(subject: OnWeight): Promise<void> {
  const { quantizer, shape, weight, budgets, worstError } = subject;
  for (const metaDtype of ['f32', 'f16'] as const) {
    const format = quantizer.format(shape, metaDtype);
    const { quantized, error, announced } = await run(subject, weight, format, { budget: budgets[0]! });
    check(announced === 0 || announced === shape[0] * shape[1], `onWeights announced ${announced} of ${shape[0] * shape[1]} weights`);
    const share = checkError(subject, weight, quantized, error);
    check(share <= worstError, `root mean square error ${share} of the weight's, allowed ${worstError}`);
  }
}

async function sameBytes(subject: OnWeight): Promise<void> {
  const { quantizer, shape, weight, budgets } = subject;
  const format = quantizer.format(shape, 'f16');
  const narrow = castFloat(weight, 'bf16');
  const first = await run(subject, narrow, format, { budget: budgets[0]! });
  const others = [
    ...budgets.slice(1).map((budget) => [narrow, budget] as const),
    [castFloat(castFloat(narrow, 'f32'), 'f32'), budgets[0]!] as const,
  ];
  for (const [source, budget] of others) {
    const { quantized } = await run(subject, source, format, { budget });
    checkSame(`budget ${budget}, weight ${source.dtype}`, quantized, first.quantized);
  }
}

async function refuses(subject: OnWeight): Promise<void> {
  const { quantizer, shape, weight, budgets } = subject;
  const format = quantizer.format(shape, 'f16');
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const values = toFloat32(weight).slice();
    values[values.length - 3] = bad;
    const damaged: HostTensor = { ...weight, data: new Uint8Array(values.buffer) };
    await checkThrows(`a weight with ${bad}`, 'ERR_NON_FINITE', () => run(subject, damaged, format, { budget: budgets[0]! }));
  }
  const reason = Object.assign(new Error('stop'), { code: 'ERR_TEST_ABORT' });
  await checkThrows('an aborted call', 'ERR_TEST_ABORT', () =>
    run(subject, weight, format, { budget: budgets[0]!, signal: AbortSignal.abort(reason) }),
  );
}

async function takesConstants(subject: OnWeight): Promise<void> {
  const { quantizer, codecs, shape, weight, budgets } = subject;
  const format = quantizer.format(shape, 'f32');
  for (const value of [0, 0.25]) {
    const constant: HostTensor = { ...weight, data: new Uint8Array(new Float32Array(shape[0] * shape[1]).fill(value).buffer) };
    const { quantized } = await run(subject, constant, format, { budget: budgets[0]! });
    check(
      toFloat32(codecFor(format, codecs).dequantize(quantized)).every(Number.isFinite),
      `a weight of ${value} dequantizes to something not finite`,
    );
  }
}
