import { LowbitError } from '@lowbit/core';

/**
 * Token ids from a caller, checked: ERR_BAD_ARGUMENT for an empty list or an id outside the vocabulary, ERR_LIMIT for more than the context holds.
 */
export function tokenIds(ids: ArrayLike<number>, model: { readonly vocab: number; readonly contextLength: number }): Uint32Array {
  if (ids.length === 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'there are no tokens', {
      hint: 'An empty text needs a start token; this tokenizer adds none.',
    });
  }
  checkLength(ids, model);
  const checked = Uint32Array.from(ids);
  for (let i = 0; i < checked.length; i++) {
    if (checked[i] === ids[i] && checked[i]! < model.vocab) continue;
    throw new LowbitError('ERR_BAD_ARGUMENT', `token ${ids[i]} at ${i} is not an id below ${model.vocab}`, {
      hint: 'If it comes from the tokenizer of this checkpoint, tokenizer.json and config.json (vocab_size) belong to different models.',
      details: { id: ids[i], index: i, vocab: model.vocab },
    });
  }
  return checked;
}

/** Throws ERR_LIMIT for more tokens than the context holds. */
export function checkLength({ length }: ArrayLike<number>, { contextLength }: { readonly contextLength: number }): void {
  if (length <= contextLength) return;
  throw new LowbitError('ERR_LIMIT', `${length} tokens do not fit into a context of ${contextLength}`, {
    hint: 'Shorten the text, or load the model with a larger contextLength if it allows one.',
    details: { tokens: length, contextLength },
  });
}
