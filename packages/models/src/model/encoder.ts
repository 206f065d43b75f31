// The encoder of an encoder-decoder model that is loaded: it reads a prompt once, and the decoder takes what comes out of it.

import { type EncoderDescription, LowbitError, type StepOutputs } from '@lowbit/core';
import type { Runner } from './runner.ts';

export interface LoadedEncoder {
  readonly description: EncoderDescription;
  readonly runner: Runner;
}

/** All outputs of the encoder for a prompt, `encoder_output` among them: f32 [tokens, hidden] each. */
export async function encodePrompt(
  { runner }: LoadedEncoder,
  tokens: Uint32Array,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<StepOutputs> {
  const sequence = await runner.open();
  try {
    return await runner.step([{ id: sequence, tokens }], { signal });
  } finally {
    await runner.close(sequence);
  }
}

/** Inputs of the decoder's first step. */
export async function decoderInputs(
  encoder: LoadedEncoder,
  tokens: Uint32Array,
  options: { readonly signal?: AbortSignal | undefined },
): Promise<StepOutputs> {
  const { encoder_output } = await encodePrompt(encoder, tokens, options);
  return { encoder_output: encoder_output! };
}

/** Throws ERR_UNSUPPORTED_ARCH for a model that has an encoder: `what` names what is for decoders alone. */
export function refuseEncoder({ encoder }: { readonly encoder?: unknown }, label: string, what: string): void {
  if (encoder === undefined) return;
  throw new LowbitError('ERR_UNSUPPORTED_ARCH', `${label} has an encoder, and ${what} is for models that continue a text`, {
    hint: 'Take a decoder, or run this one with generate and logits.',
  });
}
