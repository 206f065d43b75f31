// How a language model looks at images: they are prepared, a tower turns them into rows, and the rows take the place of placeholder tokens.

import { type HostTensor, type ImageDescription, isLowbitError, LowbitError, type StepOutputs } from '@lowbit/core';
import type { ImageInput } from '../images/image.ts';
import { patchRows } from '../images/patch-rows.ts';
import type { ImagePreparation } from '../images/preparation.ts';
import type { Runner } from './runner.ts';

/** A tower that is loaded. */
export interface LoadedTower {
  readonly description: ImageDescription;
  readonly runner: Runner;
  /** How images are prepared, or why nobody knows. */
  readonly preparation: ImagePreparation | LowbitError;
}

/** An image of a text: where its tokens begin, how many there are, and what the tower sees. */
export interface TextImage {
  readonly at: number;
  readonly rows: number;
  readonly pixels: HostTensor;
}

/** Rows in place of tokens: row i of `rows` for the token at[i] of the text. */
export interface TextRows {
  readonly at: Uint32Array;
  readonly rows: HostTensor;
}

/** Rows that an image becomes. */
export const rowsOfImage = ({ wanted: [from, to] }: ImageDescription): number => to - from;

/**
 * The tokens of a text with as many placeholders for each image as it has rows, and where they begin. A text has one placeholder an image, or all of them.
 * Throws ERR_BAD_ARGUMENT where placeholders and images do not match, or images are given to a model that takes none, ERR_LIMIT over the context.
 */
export function placeImages(
  ids: ArrayLike<number>,
  count: number,
  model: { readonly tower?: Pick<LoadedTower, 'description'> | undefined; readonly contextLength: number },
): { readonly ids: ArrayLike<number>; readonly starts: readonly number[] } {
  const { tower, contextLength } = model;
  const token = tower?.description.placeholder;
  if (!tower || token === undefined) {
    if (count === 0) return { ids, starts: [] };
    throw new LowbitError('ERR_BAD_ARGUMENT', 'this model takes no images', { hint: 'It reads text alone: leave `images` out.' });
  }
  const places = Array.prototype.flatMap.call(ids, (id: number, i: number) => (id === token ? [i] : [])) as number[];
  const rows = rowsOfImage(tower.description);
  if (places.length === rows * count) {
    const starts = places.filter((_, i) => i % rows === 0);
    const whole = starts.every((start, i) => places[(i + 1) * rows - 1] === start + rows - 1);
    if (whole) return { ids, starts };
  }
  if (places.length !== count) throw mismatch(places.length, count, { token, rows });
  const length = ids.length + count * (rows - 1);
  if (length > contextLength) {
    throw new LowbitError(
      'ERR_LIMIT',
      `${length} tokens, ${count * rows} of them of images, do not fit into a context of ${contextLength}`,
      {
        hint: 'Shorten the text, leave images out, or load the model with a larger contextLength if it allows one.',
        details: { tokens: length, contextLength },
      },
    );
  }
  const all = new Float64Array(length).fill(token); // ids are checked afterwards
  const starts: number[] = [];
  for (let i = 0, to = 0; i < ids.length; i++) {
    if (ids[i] === token) {
      starts.push(to);
      to += rows;
    } else all[to++] = ids[i]!;
  }
  return { ids: all, starts };
}

function mismatch(places: number, images: number, { token, rows }: { token: number; rows: number }): LowbitError {
  const [found, given] = [`${places} image placeholder${places === 1 ? '' : 's'}`, `${images} image${images === 1 ? '' : 's'}`];
  return new LowbitError('ERR_BAD_ARGUMENT', `the prompt has ${found}, and there ${images === 1 ? 'is' : 'are'} ${given}`, {
    hint: `Each image takes one placeholder, token ${token} (mostly spelt <image>), in a conversation a part { type: 'image' }; or ${rows} of them, as Python's processor writes.`,
    details: { placeholders: places, images, token, rows },
  });
}

/** Images as the tower takes them, one after another. */
export async function prepareImages(
  { description, preparation }: Pick<LoadedTower, 'description' | 'preparation'>,
  inputs: readonly ImageInput[],
  signal?: AbortSignal,
): Promise<readonly HostTensor[]> {
  const steps = (): ImagePreparation => {
    if (isLowbitError(preparation)) throw preparation;
    return preparation;
  };
  if (inputs.length === 0) return [];
  // Decoders and filters are a chunk of their own: pages that show no images do not load them.
  const { prepareImage } = await import('../images/prepare.ts');
  const prepared: HostTensor[] = [];
  for (const input of inputs) {
    signal?.throwIfAborted();
    prepared.push(await prepareImage(input, description, steps, signal));
  }
  return prepared;
}

/** What a tower makes of one image; default its main output alone. */
export async function look(
  { description, runner }: Pick<LoadedTower, 'description' | 'runner'>,
  pixels: HostTensor,
  {
    signal,
    outputs = [description.output],
  }: { readonly signal?: AbortSignal | undefined; readonly outputs?: readonly string[] | undefined } = {},
): Promise<StepOutputs> {
  const patches = patchRows(pixels, description);
  const [from, to] = description.wanted;
  const sequence = await runner.open();
  try {
    // Tokens of a program that looks none up say how many rows there are.
    const step = {
      id: sequence,
      tokens: new Uint32Array(patches.shape[0]!),
      wanted: Uint32Array.from({ length: to - from }, (_, i) => from + i),
    };
    return await runner.step([{ ...step, inputs: { patches } }], { signal, outputs });
  } finally {
    await runner.close(sequence);
  }
}

/** The rows of the images that reach beyond the first `from` tokens of a text. */
export async function textRows(
  tower: Pick<LoadedTower, 'description' | 'runner'>,
  images: readonly TextImage[],
  { from = 0, signal }: { readonly from?: number; readonly signal?: AbortSignal | undefined } = {},
): Promise<TextRows | undefined> {
  const needed = images.filter(({ at, rows }) => at + rows > from);
  if (needed.length === 0) return undefined;
  const parts: Uint8Array[] = [];
  let width = 0;
  for (const { pixels } of needed) {
    const rows = (await look(tower, pixels, { signal }))[tower.description.output]!;
    width = rows.shape[1]!;
    parts.push(rows.data);
  }
  const data = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let to = 0;
  for (const part of parts) {
    data.set(part, to);
    to += part.length;
  }
  const at = Uint32Array.from(needed.flatMap((image) => Array.from({ length: image.rows }, (_, i) => image.at + i)));
  return { at, rows: { dtype: 'f32', shape: [at.length, width], data } };
}

/** The rows of tokens [begin, end) of a text, counted from `begin`: the injection of a step. */
export function rowsWithin({ at, rows }: TextRows, begin: number, end: number): TextRows | undefined {
  let from = 0;
  while (from < at.length && at[from]! < begin) from++;
  let to = from;
  while (to < at.length && at[to]! < end) to++;
  if (from === to) return undefined;
  const bytes = 4 * rows.shape[1]!;
  return {
    at: at.slice(from, to).map((place) => place - begin),
    rows: { dtype: 'f32', shape: [to - from, rows.shape[1]!], data: rows.data.slice(from * bytes, to * bytes) },
  };
}

/** Whether two images are the same to the tower. */
export function samePixels(a: HostTensor, b: HostTensor): boolean {
  if (a === b) return true;
  return a.data.length === b.data.length && a.data.every((byte, i) => byte === b.data[i]);
}
