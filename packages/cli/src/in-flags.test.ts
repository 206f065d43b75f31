import { nf4 } from '@lowbit/bnb';
import { isLowbitError } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { expect, test } from 'vitest';
import { asUsage, EXIT, exitCodeOf, renderError, UsageError } from './errors.ts';
import { inFlags } from './in-flags.ts';

test.each([
  ['Shorten the text, or load the model with a larger contextLength if it allows one.', 'Shorten the text.'],
  [
    'Use a method of bitsandbytes (nf4, fp4, int8), which does, or quantize the loaded model with patchLinears.',
    'Use a method of bitsandbytes (nf4, fp4, int8), which does.',
  ],
  ['Leave shardSize out, or choose another layout.', 'Leave --shard-size out, or choose another layout.'],
  [
    'Choose another output folder, or pass --overwrite (overwrite: true) to replace it.',
    'Choose another output folder, or pass --overwrite to replace it.',
  ],
  [
    'contextLength 5000 is more than the 1024 positions this model was made for',
    'a context of 5000 tokens is more than the 1024 positions this model was made for',
  ],
  ['Supported: llama. An adapter of your own goes into the `adapters` option.', 'Supported: llama.'],
  ['It reads text alone: leave `images` out.', 'It reads text alone: leave --image out.'],
  ['Pass token ids instead of text, or add the tokenizer files of the original model.', 'Add the tokenizer files of the original model.'],
  [
    'Install the NVIDIA driver (no toolkit is needed), or use another backend: cpu() of @lowbit/kernels-cpu.',
    'Install the NVIDIA driver (no toolkit is needed), or use --backend cpu.',
  ],
  ['Check the path.', 'Check the path.'],
])('%s', (library, command) => expect(inFlags(library)).toBe(command));

test('what quantizers refuse without a model is wrong usage, and names the flag', () => {
  for (const [make, flag] of [
    [() => nf4({ blockSize: 7 }), '--group'],
    [() => higgs({ groupSize: 7 }), '--group'],
  ] as const) {
    const error = (() => {
      try {
        return asUsage<unknown>(make);
      } catch (thrown) {
        return thrown;
      }
    })();
    expect(error).toBeInstanceOf(UsageError);
    expect(exitCodeOf(error)).toBe(EXIT.usage);
    expect(isLowbitError(error) && error.message).toContain(flag);
    expect(renderError(error, { json: false }).stderr).not.toMatch(/blockSize|groupSize/);
  }
});
