// A checkpoint as a program and a way to read its weights: what evaluation by layers begins with.

import { adapterFor, type Checkpoint, type ModelAdapter, type ModelDescription, type Program } from '@lowbit/core';
import { defaultAdapters } from '../adapters/index.ts';
import { refuseEncoder } from '../model/encoder.ts';
import { logicalModel, type ReadWeight, readLogical, weightReader } from '../model/stored.ts';

/** What the adapter says of the model, and its weights. */
export interface OpenProgram extends ModelDescription {
  readonly readWeight: ReadWeight;
}

async function describe(checkpoint: Checkpoint, adapters: readonly ModelAdapter[], signal: AbortSignal | undefined): Promise<OpenProgram> {
  const adapter = adapterFor(checkpoint.config, [...adapters, ...defaultAdapters]);
  const logical = logicalModel(checkpoint, adapter);
  const model = await adapter.describe(checkpoint.config, {
    entries: logical.entries,
    read: (name) => readLogical(checkpoint, name, signal),
  });
  return { ...model, readWeight: weightReader(checkpoint, logical) };
}

/** Reads no weight. `purpose` ends the sentence that refuses encoders. Throws what adapters throw for models that they do not serve. */
export async function openProgram(
  checkpoint: Checkpoint,
  adapters: readonly ModelAdapter[],
  purpose: string,
  signal?: AbortSignal,
): Promise<OpenProgram> {
  const model = await describe(checkpoint, adapters, signal);
  refuseEncoder(model, checkpoint.label, purpose);
  return model;
}

/** The programs of a model, its encoder's among them. */
export async function logicalPrograms(
  checkpoint: Checkpoint,
  adapters: readonly ModelAdapter[],
  signal?: AbortSignal,
): Promise<{ readonly programs: readonly Program[]; readonly readWeight: ReadWeight }> {
  const { program, encoder, readWeight } = await describe(checkpoint, adapters, signal);
  return { programs: encoder ? [encoder.program, program] : [program], readWeight };
}
