// Several continuations at once: their tokens share steps, so that weights are read once for all of them.

import { LowbitError, type SequenceId, type StepOutputs } from '@lowbit/core';
import { Continuation, type GenerationHost, readingLogits, rowOf } from './continuation.ts';
import { prefill } from './generate.ts';
import type { GenerateOptions, TokenEvent } from './generate-options.ts';

/** A continuation of a batch: what all of them share is said once, for the batch. */
export type BatchRequest = Omit<GenerateOptions, 'signal' | 'onProgress' | 'promptCache' | 'promptLookup'>;

/** A token of request `index`. */
export interface BatchEvent extends TokenEvent {
  readonly index: number;
}

interface Running {
  readonly index: number;
  readonly one: Continuation;
  readonly sequence: SequenceId;
  outputs: StepOutputs;
}

/**
 * Yields the tokens of all requests, round by round, at most `atOnce` of them at a time; when one ends the next begins. Which tokens share a step follows
 * from the requests alone.
 */
export async function* generateBatch(
  host: GenerationHost,
  requests: readonly BatchRequest[],
  { signal, onProgress, atOnce }: Pick<GenerateOptions, 'signal' | 'onProgress'> & { readonly atOnce: number },
): AsyncGenerator<BatchEvent, void, undefined> {
  const waiting = requests.map((request, index) => {
    for (const name of ['signal', 'onProgress', 'promptCache', 'promptLookup']) {
      if (!Object.hasOwn(request, name)) continue;
      throw new LowbitError('ERR_BAD_ARGUMENT', `request ${index} of the batch has ${name}`, {
        hint: name.startsWith('prompt') ? 'A batch has none.' : 'Pass it once, for the whole batch.',
      });
    }
    return { index, one: new Continuation(host, request, `request ${index} of generateBatch`) };
  });
  signal?.throwIfAborted();
  let running: Running[] = [];
  let done = 0;
  const end = async (ended: Running): Promise<void> => {
    running = running.filter((other) => other !== ended);
    await host.runner.close(ended.sequence);
  };
  try {
    while (waiting.length > 0 || running.length > 0) {
      while (waiting.length > 0 && running.length < atOnce) {
        const { index, one } = waiting.shift()!;
        const sequence = await host.runner.open();
        const entry: Running = { index, one, sequence, outputs: {} };
        running.push(entry);
        entry.outputs = await prefill(host, sequence, one, { from: 0, signal });
        one.read(0);
      }
      for (const entry of [...running]) {
        const event = entry.one.take(entry.outputs);
        if (event.result) {
          await end(entry);
          onProgress?.({ phase: 'generate', done: ++done, total: requests.length, unit: 'texts' });
        }
        yield { ...event, index: entry.index };
      }
      if (running.length > 0) await step(host, running, signal);
    }
  } finally {
    for (const entry of [...running]) await end(entry);
  }
}

/** One token of each. */
async function step(host: GenerationHost, running: readonly Running[], signal: AbortSignal | undefined): Promise<void> {
  const counts = running.map(({ one }) => one.logits());
  const count = counts.includes(0) ? 0 : Math.max(...counts);
  const batch = running.map(({ sequence, one }) => ({ id: sequence, tokens: Uint32Array.of(one.tokens.at(-1)!) }));
  const outputs = await host.runner.step(batch, readingLogits(count, signal));
  for (const [row, entry] of running.entries()) entry.outputs = rowOf(outputs, row, running.length);
}
