// Whoever aborts an evaluation waits for the step that runs, and for no other: steps are counted as the runtime does them.

import { type Checkpoint, createRuntime, type Runtime, referenceBackend } from '@lowbit/core';
import { type LoadedProgram, loadProgram, type ProgramRuntime } from '@lowbit/program';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { loadModel } from '../model/load-model.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import { checkpointImportance } from './importance.ts';
import { klDivergence } from './kl-divergence.ts';
import { linearErrors } from './linear-errors.ts';
import { perplexity, type Scorer } from './perplexity.ts';
import { measureSensitivities } from './sensitivity.ts';

const checkpoint = memoryCheckpoint(goldenContents(golden, 'llama-gqa'));
const ids = Array.from({ length: 64 }, (_, i) => (i * 7) % 90);
const LAST = 3;

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

/** A runtime whose programs abort in their step number `LAST`. */
function aborting(): { readonly runtime: Runtime; readonly signal: AbortSignal; steps(): number } {
  const controller = new AbortController();
  let steps = 0;
  const counted = (loaded: LoadedProgram): LoadedProgram =>
    new Proxy(loaded, {
      get(target, name) {
        const value = Reflect.get(target, name, target);
        if (typeof value !== 'function') return value;
        if (name !== 'step') return value.bind(target);
        // Without the signal: the step goes on to its end, as one in native code does.
        return (batch: Parameters<LoadedProgram['step']>[0], options: Parameters<LoadedProgram['step']>[1]) => {
          if (++steps === LAST) controller.abort(new Error('enough'));
          return target.step(batch, { ...options, signal: undefined });
        };
      },
    });
  const load: NonNullable<ProgramRuntime['load']> = async (...args) => counted(await loadProgram(runtime, ...args));
  const own = {
    load,
    backend: runtime.backend.bind(runtime),
    select: runtime.select.bind(runtime),
    explain: runtime.explain.bind(runtime),
  };
  return {
    runtime: Object.assign(own, { codecs: [], allowDequant: false, backends: runtime.backends }) as unknown as Runtime,
    signal: controller.signal,
    steps: () => steps,
  };
}

type Run = (from: { readonly runtime: Runtime; readonly signal: AbortSignal }, source: Checkpoint) => Promise<unknown>;

describe('an abort is heard after the step that runs', () => {
  test.each<[string, Run]>([
    [
      'perplexity',
      async ({ runtime: own, signal }) => {
        await using model = await loadModel(checkpoint, { runtime: own, prefillChunk: 4 });
        return await perplexity(model, ids, { contextLength: 32, signal });
      },
    ],
    [
      'klDivergence',
      async ({ runtime: own, signal }) => {
        await using model = await loadModel(checkpoint, { runtime: own, prefillChunk: 4 });
        return await klDivergence(model, model, ids, { contextLength: 32, signal });
      },
    ],
    ['measureSensitivities', (options) => measureSensitivities(checkpoint, { ...options, ids: [ids.slice(0, 8), ids.slice(8, 16)] })],
    ['checkpointImportance', (options) => checkpointImportance(checkpoint, { ...options, ids: [ids.slice(0, 8), ids.slice(8, 16)] })],
    ['linearErrors', (options) => linearErrors(checkpoint, checkpoint, { ...options, ids: [ids.slice(0, 8), ids.slice(8, 16)] })],
  ])('%s', async (_, run) => {
    const from = aborting();
    await expect(run({ runtime: from.runtime, signal: from.signal }, checkpoint)).rejects.toThrow('enough');
    expect(from.steps()).toBe(LAST);
  });

  test('and between rows of one step, which a large vocabulary makes long', async () => {
    const controller = new AbortController();
    const rows = 64;
    const scorer: Scorer = {
      vocab: 4,
      contextLength: rows + 1,
      async *logitRows() {
        yield { position: 0, rows, logits: new Float32Array(rows * 4) };
      },
    };
    let scored = 0;
    const onToken = (index: number): void => {
      scored = index + 1;
      if (scored === 5) controller.abort(new Error('enough'));
    };
    const text = new Array<number>(rows + 1).fill(1);
    await expect(perplexity(scorer, text, { contextLength: rows + 1, signal: controller.signal, onToken })).rejects.toThrow('enough');
    expect(scored).toBe(5);
  });
});
