// What a caller hands over instead of a checkpoint, a runtime or a model: refused by name, before it fails somewhere inside.

import { checkRuntime, LowbitError } from '@lowbit/core';

function has(value: unknown, members: readonly string[]): boolean {
  return (
    typeof value === 'object' && value !== null && members.every((name) => (value as Readonly<Record<string, unknown>>)[name] !== undefined)
  );
}

/** Throws ERR_BAD_ARGUMENT unless `value` is a checkpoint. */
export function checkCheckpoint(call: string, value: unknown): void {
  if (has(value, ['config', 'source', 'quantized'])) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs a checkpoint`, { hint: "Pass await openCheckpoint('./model') of @lowbit/hub." });
}

/** Throws ERR_BAD_ARGUMENT unless `value` is a runtime that loads programs. */
export function checkLoadingRuntime(call: string, value: unknown): void {
  if (value !== undefined) {
    checkRuntime(value, ['select', 'backend']);
    return;
  }
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs the option runtime`, {
    hint: 'Pass { runtime: await createRuntime({ backends: [referenceBackend()] }) }.',
    details: { option: 'runtime' },
  });
}

/** Throws ERR_BAD_ARGUMENT unless `value` is a model that scores. */
export function checkScorer(call: string, value: unknown): void {
  if (has(value, ['vocab', 'contextLength', 'logitRows'])) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs a model`, { hint: 'Pass what loadModel gives.' });
}

/** Throws ERR_BAD_ARGUMENT unless `value` is a list of numbers. */
export function checkIds(call: string, value: unknown): void {
  if (Array.isArray(value) || (ArrayBuffer.isView(value) && 'length' in value)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs token ids`, {
    hint: 'Pass a list of numbers, such as model.tokenizer.encode(text).',
  });
}

/** Throws ERR_BAD_ARGUMENT unless `value` is a list of images. */
export function checkImages(call: string, value: unknown): void {
  if (Array.isArray(value)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs a list of images`, { hint: "Pass [await readFile('cat.jpg')]." });
}

/** Throws ERR_BAD_ARGUMENT unless `value` is a list of samples, each a list of token ids. */
export function checkSampleIds(call: string, value: unknown): void {
  const list = Array.isArray(value) ? value : [undefined];
  for (const sample of list) {
    if (typeof sample === 'object' && sample !== null) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `${call} needs ids: a list of texts, each a list of token ids`, {
      hint: `Pass { ids: [[1, 2, 3]] }${typeof sample === 'number' ? `: token ${sample} stands outside of a list` : ''}.`,
      details: { option: 'ids' },
    });
  }
}
