// Which outputs of a program a step is asked for, and whether whole.

import type { StepOptions } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { Program, TensorId } from '../spec/program.ts';

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
    const { dtype } = tensors[outputs[name]!]!;
    const wrong = !names.has(name)
      ? 'it is not among the outputs asked for'
      : dtype !== 'f32'
        ? `it is ${dtype}`
        : !Number.isInteger(count) || count < 1
          ? `${count} is not a whole number from 1`
          : undefined;
    if (wrong === undefined) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `the largest of output '${name}' cannot be read: ${wrong}`, { details: { name, count } });
  }
  return Array.from(names, (name) => {
    const tensor = outputs[name]!;
    const { width, dtype } = tensors[tensor]!;
    const count = Object.hasOwn(options.largest ?? {}, name) ? options.largest![name]! : 0;
    return { name, tensor, width, dtype, largest: Math.min(count, width) };
  });
}
