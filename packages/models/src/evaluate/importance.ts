// What an error in each linear of a checkpoint costs, measured by running sample tokens through it layer by layer.

import type { CallOptions, Checkpoint, Importance, ModelAdapter } from '@lowbit/core';
import type { ProgramRuntime } from '@lowbit/program';
import { checkCheckpoint, checkLoadingRuntime, checkSampleIds } from '../arguments.ts';
import { tokenIds } from '../model/ids.ts';
import { collectImportance, type ImportanceKeeper } from './collect-importance.ts';
import { dampImportance } from './damp-importance.ts';
import { openProgram } from './open-program.ts';

export interface CheckpointImportanceOptions extends CallOptions {
  readonly runtime: ProgramRuntime;
  /** Sample texts as token ids, each from position 0. A thousand uniformly random ids serve nearly as well as text. */
  readonly ids: readonly ArrayLike<number>[];
  /** Second moments per input channel (default), or the whole matrix. */
  readonly kind?: Importance['kind'];
  /**
   * The ids are uniformly random and stand for texts: half of the median is added to the moments behind a norm, four times it to those behind attention or an
   * activation, which random tokens tell loosely. Default false: moments as they are.
   */
  readonly damped?: boolean | undefined;
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[];
  /** Keeps what was found after each layer, for a pass that is interrupted. */
  readonly keeper?: ImportanceKeeper | undefined;
}

/**
 * Second moments of the inputs of every linear, by path: for the `importance` of `quantizeCheckpoint`, `patchLinears` or `quantize`. Only one layer's
 * weights are loaded at a time. Throws what `loadModel` throws for unusable checkpoints and ids.
 *
 * @example
 * const importance = await checkpointImportance(checkpoint, { runtime, ids: [randomIds], damped: true });
 * await quantizeCheckpoint(checkpoint, { out, adapters: [llama], quantizer: hqq({ bits: 3, solver: 'least-squares' }), importance });
 */
export async function checkpointImportance(
  checkpoint: Checkpoint,
  options: CheckpointImportanceOptions,
): Promise<ReadonlyMap<string, Importance>> {
  checkCheckpoint('checkpointImportance', checkpoint);
  checkLoadingRuntime('checkpointImportance', options?.runtime);
  checkSampleIds('checkpointImportance', options.ids);
  const { runtime, ids, kind = 'diagonal', damped = false, adapters = [], keeper, signal, onProgress } = options;
  const model = await openProgram(checkpoint, adapters, 'what errors cost', signal);
  const found = await collectImportance(model.program, {
    runtime,
    loadWeight: async (use) => ({ weight: await model.readWeight(use, signal) }),
    ids: ids.map((sample) => tokenIds(sample, model)),
    kind,
    keeper,
    signal,
    onProgress,
  });
  return damped ? dampImportance(model.program, found) : found;
}
