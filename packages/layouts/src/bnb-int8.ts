// One LLM.int8 layer of the `bitsandbytes` layout: i8 rows, and the largest magnitude of each (SCB) beside them.

import type { Matrix, StoredLinear, TensorSource } from '@lowbit/core';
import { quote } from '@lowbit/core';
import { checkBias, fail, modulePath, refuse } from './bnb-format.ts';
import { specText, tensorName } from './names.ts';

/** Orders of codes by their number in `weight_format`; all but the first were for one GPU each. */
const ORDERS = ['row', 'col32', 'col_turing', 'col_ampere'];

/** Throws ERR_TENSOR_MISMATCH or ERR_UNSUPPORTED_FORMAT, naming the tensor. */
export async function readInt8(source: TensorSource, path: string, threshold: number): Promise<StoredLinear> {
  const name = tensorName(path, 'weight');
  const scales = tensorName(path, 'SCB');
  const biasName = tensorName(path, 'bias');
  const { shape } = source.entries.get(name)!;
  const [out, inp] = shape;
  if (shape.length !== 2 || out === 0 || inp === 0) fail(name, `is [${shape.join(', ')}], not a matrix`);
  const rows = source.entries.get(scales);
  if (rows === undefined) fail(scales, `is missing, so the numbers of ${quote(name)}, which is i8, have no scale`);
  const bias = source.entries.get(biasName);
  if (rows.dtype !== 'f32' || rows.shape.length !== 1 || rows.shape[0] !== out) {
    fail(scales, `is ${specText(rows)}, expected ${specText({ dtype: 'f32', shape: [out!] })}`);
  }
  checkBias(path, bias, out!);
  await checkOrder(source, tensorName(path, 'weight_format'));
  return {
    format: { kind: 'int8', threshold },
    shape: shape as unknown as Matrix,
    parts: { codes: name, scale: scales },
    ...(bias === undefined ? {} : { bias: biasName }),
  };
}

/**
 * Rows are the only order of codes that is still in use; files without the tensor have it, too. Throws ERR_UNSUPPORTED_FORMAT for another,
 * ERR_TENSOR_MISMATCH for what is no number.
 */
export async function checkOrder(source: TensorSource, name: string): Promise<void> {
  const spec = source.entries.get(name);
  if (spec === undefined) return;
  if (spec.dtype !== 'u8' || spec.shape.reduce((product, extent) => product * extent, 1) !== 1)
    fail(name, `is ${specText(spec)}, expected one u8`);
  const [order] = (await source.read(name)).data;
  if (order === 0) return;
  const known = ORDERS[order!];
  refuse(
    name,
    `is ${order}${known ? ` (${known})` : ''}, not 0: its codes are not in rows`,
    'Quantize the original model again: bitsandbytes 0.45 and later write rows alone.',
  );
}

/** Throws ERR_TENSOR_MISMATCH unless an SCB, given by its name, has an i8 weight. */
export function checkRows(source: TensorSource, name: string): void {
  const weight = tensorName(modulePath(name), 'weight');
  const spec = source.entries.get(weight);
  if (spec === undefined) fail(weight, `is missing beside ${quote(name)}`);
  if (spec.dtype !== 'i8') fail(weight, `is ${specText(spec)}, but ${quote(name)} is there as for i8`);
}
