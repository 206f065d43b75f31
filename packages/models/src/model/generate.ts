// One continuation after another: prefill, then token by token until something ends it.

import { LowbitError, type SequenceId, type StepOutputs } from '@lowbit/core';
import { Continuation, type GenerationHost, readingLogits, rowOf } from './continuation.ts';
import { decoderInputs } from './encoder.ts';
import type { GenerateOptions, TokenEvent } from './generate-options.ts';
import { PromptCache } from './prompt-cache.ts';
import { textRows } from './sight.ts';

/**
 * Yields the tokens of one continuation. The sequence is closed, or kept by `promptCache`, however the iteration ends.
 * Throws what `Continuation` and its steps throw, and the reason of an aborted signal.
 */
export async function* generateTokens(host: GenerationHost, options: GenerateOptions): AsyncGenerator<TokenEvent, void, undefined> {
  const one = new Continuation(host, options);
  const { signal, promptCache } = options;
  if (promptCache !== undefined && !(promptCache instanceof PromptCache)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'promptCache is no prompt cache', { hint: 'Pass what model.promptCache() gives.' });
  }
  signal?.throwIfAborted();
  one.begin();
  await one.see(signal);
  const { sequence, length } = await openSequence(host, one, options);
  let stepped = length;
  try {
    let outputs = await prefill(host, sequence, one, { ...options, from: length });
    stepped = one.first.length;
    one.read(length);
    let event = one.take(outputs);
    for (;;) {
      yield event;
      if (event.result) return;
      const guesses = one.guess();
      const tokens = Uint32Array.of(event.id, ...guesses);
      outputs = await host.runner.step(
        [{ id: sequence, tokens, wanted: Uint32Array.from(tokens.keys()) }],
        readingLogits(one.logits(guesses.length), signal),
      );
      // Each guess that is the token which comes is a step saved; the first that is not makes those after it worthless.
      let used = 0;
      for (;;) {
        event = one.take(rowOf(outputs, used++, tokens.length));
        if (event.result || event.id !== guesses[used - 1]) break;
        one.guessedRight();
        yield event;
      }
      stepped += used;
      if (used < tokens.length) await host.runner.run((program) => program.truncate(sequence, stepped));
    }
  } finally {
    if (promptCache) await promptCache.keep(sequence, { tokens: one.tokens.slice(0, stepped), images: one.images });
    else await host.runner.close(sequence);
  }
}

/** A sequence that begins as the prompt does, and the number of tokens that it has of it: fewer than all, as the last one's logits are wanted. */
async function openSequence(
  host: GenerationHost,
  { first, images }: Continuation,
  { promptCache }: Pick<GenerateOptions, 'promptCache'>,
): Promise<{ readonly sequence: SequenceId; readonly length: number }> {
  if (promptCache) return promptCache.open(host.runner, { tokens: first, images });
  return { sequence: await host.runner.open(), length: 0 };
}

/** Outputs of the last token of a prompt, whose first `from` tokens are there; of the decoder's first one, where an encoder reads the prompt. */
export async function prefill(
  host: GenerationHost,
  sequence: SequenceId,
  one: Continuation,
  { from, signal, onProgress }: Pick<GenerateOptions, 'signal' | 'onProgress'> & { readonly from: number },
): Promise<StepOutputs> {
  const last = one.first.length;
  let outputs: StepOutputs = {};
  const chunks = host.runner.feed(sequence, one.first, {
    ...readingLogits(one.logits(), signal),
    inputs: host.encoder && (await decoderInputs(host.encoder, one.prompt, { signal })),
    images: host.tower && (await textRows(host.tower, one.images, { from, signal })),
    from,
    wanted: [last - 1, last],
    chunk: host.prefillChunk,
  });
  for await (const chunk of chunks) {
    onProgress?.({ phase: 'prefill', done: chunk.done, total: last, unit: 'tokens' });
    outputs = chunk.outputs;
  }
  return outputs;
}
