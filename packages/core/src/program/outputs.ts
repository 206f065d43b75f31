// Which outputs of a program a step is asked for, and whether whole.

import type { StepOptions, StepOutputs } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Program, TensorId } from '../spec/program.ts';
import type { HostTensor } from '../spec/tensor.ts';
import { largestOfRows } from './largest.ts';

/** One output to read back. */
export interface OutputRequest {
  readonly name: string;
  readonly tensor: TensorId;
  readonly width: number;
  readonly dtype: 'f32' | 'i32';
  /** So many of the largest numbers of each row, see `StepOptions.largest`; 0: whole rows. */
  readonly largest: number;
}

/**
 * What is asked for, each output once; all of the program's by default. Throws ERR_BAD_ARGUMENT for a name that the program does not have, and for
 * `largest` of an output that is not asked for or not f32, or of a number that is not whole and positive.
 */
export function outputRequests(
  { outputs, tensors }: Pick<Program, 'outputs' | 'tensors'>,
  options: Pick<StepOptions, 'outputs' | 'largest'>,
): readonly OutputRequest[] {
  const all = Object.keys(outputs);
  const known = (name: string): void => {
    if (all.includes(name)) return;
    throw new LowbitError('ERR_BAD_ARGUMENT', `the program has no output '${name}'`, {
      hint: `Its outputs: ${all.join(', ') || '(none)'}.`,
      details: { name, outputs: all },
    });
  };
  for (const name of options.outputs ?? []) known(name);
  const names = new Set(options.outputs ?? all);
  for (const [name, count] of Object.entries(options.largest ?? {})) {
    known(name);
    if (names.has(name) && tensors[outputs[name]!]!.dtype === 'f32' && Number.isInteger(count) && count >= 1) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `the largest ${count} of output '${name}' cannot be read`, {
      hint: 'Ask for a whole number from 1, of an f32 output that is among those asked for.',
      details: { name, count },
    });
  }
  return Array.from(names, (name) => {
    const tensor = outputs[name]!;
    const { width, dtype } = tensors[tensor]!;
    const count = Object.hasOwn(options.largest ?? {}, name) ? options.largest![name]! : 0;
    return { name, tensor, width, dtype, largest: Math.min(count, width) };
  });
}

/** What a step gives, from the whole rows of each output: for backends that choose the largest on the host. */
export function outputsOf(
  requests: readonly OutputRequest[],
  rowsOf: (tensor: TensorId) => Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>,
): StepOutputs {
  const outputs: Record<string, HostTensor> = {};
  for (const { name, tensor, width, dtype, largest } of requests) {
    const rows = rowsOf(tensor);
    const add = (key: string, type: 'f32' | 'i32', columns: number, { buffer }: { readonly buffer: ArrayBuffer }): void => {
      outputs[key] = { dtype: type, shape: [rows.length / width, columns], data: new Uint8Array(buffer) };
    };
    if (largest === 0) {
      add(name, dtype, width, rows);
      continue;
    }
    const best = largestOfRows(rows as Float32Array, width, largest);
    add(name, 'f32', largest, best.values);
    add(`${name}.ids`, 'i32', largest, best.ids);
  }
  return outputs;
}
