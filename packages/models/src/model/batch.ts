// Several continuations at once: their tokens share steps, so that weights are read once for all of them.

import { elements, isLowbitError, LowbitError, largestOfRows, type SequenceId, type StepOutputs } from '@lowbit/core';
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
      if (request[name as keyof BatchRequest] === undefined) continue;
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
        const sequence = await openUnlessFull(host, running.length);
        if (sequence === undefined) break;
        const { index, one } = waiting.shift()!;
        one.begin();
        const entry: Running = { index, one, sequence, outputs: {} };
        running.push(entry);
        await one.see(signal);
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

/** A sequence; undefined where others (a prompt cache's, another call's) leave no room for one more, and some run already. */
async function openUnlessFull(host: GenerationHost, running: number): Promise<SequenceId | undefined> {
  try {
    return await host.runner.open();
  } catch (error) {
    if (running > 0 && isLowbitError(error) && error.code === 'ERR_LIMIT') return undefined;
    throw error;
  }
}

/** The largest of whole rows, or fewer of those that others need more of: as much as a request would have been given alone. */
function own(row: StepOutputs, count: number): StepOutputs {
  if (count === 0) return row;
  const logits = elements({ dtype: 'f32', data: row.logits!.data });
  const ids = row['logits.ids'];
  const best = ids
    ? { values: logits.slice(0, count), ids: elements({ dtype: 'i32', data: ids.data }).slice(0, count) }
    : largestOfRows(logits, logits.length, count);
  return {
    logits: { dtype: 'f32', shape: [1, count], data: new Uint8Array(best.values.buffer) },
    'logits.ids': { dtype: 'i32', shape: [1, count], data: new Uint8Array(best.ids.buffer) },
  };
}

/** One token of each. */
async function step(host: GenerationHost, running: readonly Running[], signal: AbortSignal | undefined): Promise<void> {
  const counts = running.map(({ one }) => one.logits());
  const count = counts.includes(0) ? 0 : Math.max(...counts);
  const batch = running.map(({ sequence, one }) => ({ id: sequence, tokens: Uint32Array.of(one.tokens.at(-1)!) }));
  const outputs = await host.runner.step(batch, readingLogits(count, signal));
  for (const [row, entry] of running.entries()) entry.outputs = own(rowOf(outputs, row, running.length), counts[row]!);
}
