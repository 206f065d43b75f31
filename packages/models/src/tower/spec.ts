// An image tower as plain data: what cuts an image into patches, and the layers that they pass. Its layers are those of decoders, but that every row sees
// every row. An adapter turns config.json into one of these; sites, needed tensors and the program follow from it.

import type { DecoderLayer, LinearSpec, NormSpec, PlainMlp } from '../decoder/spec.ts';

/** What comes out of a tower. */
export type TowerOutput =
  /** Of the class token: `pooler_output`, its norm, and with `project` `image_embeds`. `last_hidden_state` has all rows, without the norm. */
  | { readonly kind: 'clip'; readonly norm: NormSpec; readonly project?: LinearSpec }
  /** `features`, the norm of all rows, and with `head` `logits` of the class token. */
  | { readonly kind: 'timm'; readonly norm: NormSpec; readonly head?: LinearSpec }
  /** `image_features`: rows for a language model, those of the class token among them or not. */
  | { readonly kind: 'features'; readonly projector: PlainMlp; readonly classToken: boolean };

export interface TowerSpec {
  readonly image: { readonly channels: number; readonly height: number; readonly width: number; readonly patch: number };
  readonly hidden: number;
  /** The convolution over patches: `${path}.weight` [hidden, channels, patch, patch]. */
  readonly patches: { readonly path: string; readonly bias: boolean };
  /** Names of tensors: the class token, if there is one, and the positions [1 + patches, hidden], with what axes of 1 the file has in front. */
  readonly classToken?: { readonly tensor: string; readonly shape: readonly number[] };
  readonly positions: { readonly tensor: string; readonly shape: readonly number[] };
  /** Before the first layer. */
  readonly norm?: NormSpec;
  readonly layers: readonly DecoderLayer[];
  /** Layers of the file that nothing here needs. */
  readonly unused: readonly DecoderLayer[];
  readonly output: TowerOutput;
}

/** Rows of an image: its patches, and the class token. */
export function towerRows({ image: { height, width, patch }, classToken }: TowerSpec): number {
  return (height / patch) * (width / patch) + (classToken ? 1 : 0);
}
