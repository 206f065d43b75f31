// Reading a text as a model: outputs of every position, for scores and hidden states.

import { type HostTensor, LowbitError, type StepOutputs } from '@lowbit/core';
import type { ImageInput } from '../images/image.ts';
import { decoderInputs } from './encoder.ts';
import { tokenIds } from './ids.ts';
import type { LanguageModelParts } from './parts.ts';
import { outputValues } from './runner.ts';
import { placeImages, prepareImages, rowsOfImage, type TextRows, textRows } from './sight.ts';

/** Logits of some consecutive positions of a text: f32 [rows, vocab], row i for the token after position + i. */
export interface LogitRows {
  readonly position: number;
  readonly rows: number;
  readonly logits: Float32Array;
}

/** How a text is run. */
export interface ForwardOptions {
  /** Of encoder-decoder models: the prompt that the encoder reads. The text itself is the decoder's then, and begins with its start token. */
  readonly encoderIds?: ArrayLike<number> | undefined;
  /** Of models that look at images: one for each placeholder of the text, or for as many of them as an image has rows. */
  readonly images?: readonly ImageInput[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Bytes of logits handed out at once, and bytes of everything that `forward` may return. */
const ROWS_BYTES = 128 * 2 ** 20;
const FORWARD_BYTES = 2 ** 31;

/** All outputs of the program for every token. Throws ERR_LIMIT for more than can be returned at once. */
export async function forwardText(
  parts: LanguageModelParts,
  ids: ArrayLike<number>,
  options: ForwardOptions,
): Promise<Readonly<Record<string, HostTensor>>> {
  const { runner, prefillChunk: chunk, description } = parts;
  const { tokens, images } = await readText(parts, ids, options);
  const { outputs, tensors } = description.program;
  const widths = Object.entries(outputs).map(([name, id]) => [name, tensors[id]!.width] as const);
  const bytes = widths.reduce((sum, [, width]) => sum + 4 * tokens.length * width, 0);
  if (bytes > FORWARD_BYTES) {
    throw new LowbitError('ERR_LIMIT', `the outputs of ${tokens.length} tokens take ${bytes} bytes, more than ${FORWARD_BYTES}`, {
      hint: 'Use logitRows, which hands them out in chunks, or perplexity.',
      details: { bytes, limit: FORWARD_BYTES },
    });
  }
  const values = new Map(widths.map(([name, width]) => [name, new Float32Array(tokens.length * width)]));
  const inputs = await encoderInputs(parts, options);
  const sequence = await runner.open();
  try {
    for await (const { from, outputs: part } of runner.feed(sequence, tokens, {
      wanted: [0, tokens.length],
      chunk,
      signal: options.signal,
      inputs,
      images,
    })) {
      for (const [name, width] of widths) values.get(name)!.set(outputValues(part, name), from * width);
    }
  } finally {
    await runner.close(sequence);
  }
  const tensor = (name: string, width: number): HostTensor => ({
    dtype: 'f32',
    shape: [tokens.length, width],
    data: new Uint8Array(values.get(name)!.buffer),
  });
  return Object.fromEntries(widths.map(([name, width]) => [name, tensor(name, width)]));
}

/** Logits of positions [from, to), in chunks. */
export async function* logitRowsOf(
  parts: LanguageModelParts,
  ids: ArrayLike<number>,
  options: ForwardOptions & { readonly from?: number; readonly to?: number },
): AsyncGenerator<LogitRows, void, undefined> {
  const { runner, prefillChunk, description } = parts;
  const { tokens, images } = await readText(parts, ids, options);
  const { from = 0, to = tokens.length, signal } = options;
  if (!Number.isInteger(from) || !Number.isInteger(to) || from < 0 || from >= to || to > tokens.length) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `positions ${from} to ${to} of ${tokens.length} tokens`, {
      hint: 'from and to are whole numbers with 0 <= from < to <= tokens.',
      details: { from, to },
    });
  }
  const chunk = Math.max(1, Math.min(prefillChunk, Math.floor(ROWS_BYTES / (4 * description.vocab))));
  const inputs = await encoderInputs(parts, options);
  const sequence = await runner.open();
  try {
    for await (const part of runner.feed(sequence, tokens, { wanted: [from, to], chunk, signal, inputs, images })) {
      if (part.to > part.from) yield { position: part.from, rows: part.to - part.from, logits: outputValues(part.outputs, 'logits') };
    }
  } finally {
    await runner.close(sequence);
  }
}

/** The tokens of a text with its images in place. */
async function readText(
  parts: LanguageModelParts,
  ids: ArrayLike<number>,
  { images = [], signal }: ForwardOptions,
): Promise<{ tokens: Uint32Array; images: TextRows | undefined }> {
  const { tower, contextLength } = parts;
  const placed = placeImages(ids, images.length, { tower, contextLength });
  const tokens = tokenIds(placed.ids, limitsOf(parts));
  if (!tower || images.length === 0) return { tokens, images: undefined };
  const pixels = await prepareImages(tower, images, signal);
  const rows = rowsOfImage(tower.description);
  return {
    tokens,
    images: await textRows(
      tower,
      pixels.map((each, i) => ({ at: placed.starts[i]!, rows, pixels: each })),
      { signal },
    ),
  };
}

/** What the first step of a text takes of an encoder. Throws ERR_BAD_ARGUMENT for a prompt without an encoder, or an encoder without a prompt. */
async function encoderInputs(parts: LanguageModelParts, { encoderIds, signal }: ForwardOptions): Promise<StepOutputs | undefined> {
  const { encoder, label } = parts;
  if ((encoder === undefined) !== (encoderIds === undefined)) {
    throw encoder
      ? new LowbitError('ERR_BAD_ARGUMENT', `${label} has an encoder, and there are no encoderIds`, {
          hint: `Pass the prompt as encoderIds; ids are the decoder's, beginning with token ${encoder.description.start}.`,
        })
      : new LowbitError('ERR_BAD_ARGUMENT', `${label} has no encoder to read encoderIds`, { hint: 'Leave them out.' });
  }
  return encoder && encoderIds ? decoderInputs(encoder, tokenIds(encoderIds, limitsOf(parts)), { signal }) : undefined;
}

/** What ids of a text are checked against. */
function limitsOf({ description, contextLength }: LanguageModelParts): { readonly vocab: number; readonly contextLength: number } {
  return { vocab: description.vocab, contextLength };
}
