// Keys and values of texts that are done: a later text that begins alike goes on from them.

import { isLowbitError, LowbitError, type SequenceId } from '@lowbit/core';
import type { Runner } from './runner.ts';
import { samePixels, type TextImage } from './sight.ts';

/** A text: its tokens, and the images that some of them stand for. Placeholders of different images are not alike. */
export interface CachedText {
  readonly tokens: ArrayLike<number>;
  readonly images: readonly TextImage[];
}

interface Entry {
  readonly sequence: SequenceId;
  readonly text: CachedText;
}

/**
 * Made by `LanguageModel.promptCache`. It holds sequences of the model: they count among its `maxSequences`, their bytes in `memory().kvCache`, and no weight
 * can be replaced meanwhile. Dispose it to give them back; disposing the model does, too.
 */
export class PromptCache implements AsyncDisposable {
  readonly #runner: Runner;
  readonly #most: number;
  /** The one used last comes last. */
  #entries: Entry[] = [];
  #disposed = false;

  constructor(runner: Runner, most: number) {
    this.#runner = runner;
    this.#most = most;
  }

  /** Texts that are held now. */
  get size(): number {
    return this.#entries.length;
  }

  /**
   * A sequence that begins with as many tokens of `prompt` as any text here, short of the last one.
   * Throws ERR_BAD_ARGUMENT for the cache of another model, ERR_DISPOSED.
   */
  async open(runner: Runner, prompt: CachedText): Promise<{ readonly sequence: SequenceId; readonly length: number }> {
    if (runner !== this.#runner) {
      throw new LowbitError('ERR_BAD_ARGUMENT', 'this prompt cache is of another model', {
        hint: 'Make one with promptCache() of this one.',
      });
    }
    if (this.#disposed) throw new LowbitError('ERR_DISPOSED', 'this prompt cache has been disposed');
    return this.#runner.run((program) => {
      let best: Entry | undefined;
      let length = 0;
      for (const entry of this.#entries) {
        const common = Math.min(alike(entry.text, prompt), prompt.tokens.length - 1);
        if (common > 0 && common >= length) [best, length] = [entry, common]; // of equals the one used last
      }
      const take = (entry: Entry): SequenceId => {
        this.#entries = this.#entries.filter((other) => other !== entry);
        return entry.sequence;
      };
      // All of a text goes on: nothing need be copied, and `keep` gets the longer one.
      if (best && length === best.text.tokens.length) {
        program.truncate(best.sequence, length); // a text that failed may have got further than it was noted
        return { sequence: take(best), length };
      }
      try {
        const sequence = best ? program.fork(best.sequence, length) : program.open();
        if (best) this.#entries = [...this.#entries.filter((entry) => entry !== best), best];
        return { sequence, length };
      } catch (error) {
        // The model has no room for one more: a text here gives up its own.
        const given = best ?? this.#entries[0];
        if (!given || !isLowbitError(error) || error.code !== 'ERR_LIMIT') throw error;
        program.truncate(take(given), length);
        return { sequence: given.sequence, length };
      }
    });
  }

  /** Takes over a sequence of these tokens, and gives back those that it makes superfluous: what it begins with, and the one not used for longest. */
  async keep(sequence: SequenceId, text: CachedText): Promise<void> {
    const { tokens } = text;
    if (this.#disposed || tokens.length === 0) return this.#runner.close(sequence);
    const longer = this.#entries.find((entry) => alike(entry.text, text) === tokens.length);
    if (longer) {
      this.#entries = [...this.#entries.filter((entry) => entry !== longer), longer];
      return this.#runner.close(sequence);
    }
    const stay = this.#entries.filter((entry) => alike(entry.text, text) < entry.text.tokens.length);
    const kept = [...stay, { sequence, text }].slice(-this.#most);
    const gone = this.#entries.filter((entry) => !kept.includes(entry));
    this.#entries = kept;
    for (const entry of gone) await this.#runner.close(entry.sequence);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    const entries = this.#entries;
    this.#entries = [];
    for (const { sequence } of entries) await this.#runner.close(sequence);
  }
}

/** How many tokens two texts begin with alike. */
function alike(a: CachedText, b: CachedText): number {
  const most = Math.min(a.tokens.length, b.tokens.length);
  let common = 0;
  while (common < most && a.tokens[common] === b.tokens[common]) common++;
  for (let i = 0; i < a.images.length || i < b.images.length; i++) {
    const [one, other] = [a.images[i], b.images[i]];
    const at = Math.min(one?.at ?? common, other?.at ?? common);
    if (at >= common) return common;
    if (one?.at !== other?.at || !samePixels(one!.pixels, other!.pixels)) return at;
  }
  return common;
}
