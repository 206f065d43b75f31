// The weights of a program, from a checkpoint to the runtime.

import type { CallOptions, Checkpoint, LowbitError, Program, Quantizer, Runtime } from '@lowbit/core';
import { isLowbitError } from '@lowbit/core';
import type { LoadedProgram, LoadOptions, LoadWeight } from '@lowbit/program';
import { loadProgram as loadOnto } from '@lowbit/program';
import { checkHead, headFormat, outputLinear, quantizedOrigin, quantizeHead } from './output-layer.ts';
import { castDense, type LogicalModel, storedFormats, weightReader } from './stored.ts';

export interface LoadProgramOptions extends CallOptions {
  readonly runtime: Runtime;
  readonly dtype?: 'f32' | 'f16' | 'bf16' | undefined;
  /** Quantizes the output layer. */
  readonly head?: Quantizer | undefined;
  /** Of `loadProgram` of packages/program. */
  readonly load: Pick<LoadOptions, 'contextLength' | 'cut' | 'deviceMap' | 'backendMemory' | 'maxSequences' | 'offloadMeta'>;
}

/** Loads one program of a model. Throws what loading a program and the checkpoint throw. */
export function loadProgram(
  checkpoint: Checkpoint,
  logical: LogicalModel,
  program: Program,
  { runtime, dtype, head, load, signal, onProgress }: LoadProgramOptions,
): Promise<LoadedProgram> {
  const readWeight = weightReader(checkpoint, logical);
  const stored = storedFormats(checkpoint, logical, program.linears, dtype);
  const output = head === undefined ? undefined : { index: outputLinear(program), quantizer: checkHead(head) };
  const formats = stored.map((format, i) => (i === output?.index ? headFormat(format, program.linears[i]!, output.quantizer) : format));
  const loadWeight: LoadWeight = async (use, index) => {
    const weight = await readWeight(use, signal);
    if (index !== output?.index) return { weight: castDense(weight, dtype) };
    return { weight: await quantizeHead(weight, output.quantizer, { runtime, signal, onProgress }) };
  };
  return loadOnto(runtime, program, loadWeight, {
    ...load,
    formats,
    // What a backend would keep of a weight that is not quantized is a copy of it.
    origins: program.linears.map(({ path }, i) => {
      if (i === output?.index) return quantizedOrigin(checkpoint.origin?.(path), output.quantizer);
      return checkpoint.layout === undefined ? undefined : checkpoint.origin?.(path);
    }),
    signal,
    onProgress,
  });
}

/** A value of a checkpoint that may not be needed, or why it cannot be had. */
export async function valueOrReason<T>(value: Promise<T>): Promise<T | LowbitError> {
  try {
    return await value;
  } catch (error) {
    if (isLowbitError(error)) return error;
    throw error;
  }
}
