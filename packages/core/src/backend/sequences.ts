// The open sequences of an executable, by id: what every backend does alike, whatever a sequence is to it.

import { DEFAULT_MAX_SEQUENCES, type SequenceId } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';

/** Throws ERR_BAD_ARGUMENT unless a sequence of `length` tokens can be cut to `wanted` of them. */
export function checkShortened(id: SequenceId, length: number, wanted: number): void {
  if (Number.isInteger(wanted) && wanted >= 0 && wanted <= length) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `cannot truncate a sequence of ${length} tokens to ${wanted}`, {
    hint: 'Pass a whole number from 0 to its length.',
    details: { sequence: id },
  });
}

/** Sequences of the type `S` by id, at most so many at once. */
export class SequenceTable<S> {
  /** How many there may be at once. */
  readonly most: number;
  readonly #open = new Map<SequenceId, S>();
  #next = 1;

  constructor(most: number = DEFAULT_MAX_SEQUENCES) {
    this.most = most;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Throws ERR_BAD_ARGUMENT for an unknown or closed sequence. */
  get(id: SequenceId): S {
    const sequence = this.#open.get(id);
    if (sequence === undefined) throw new LowbitError('ERR_BAD_ARGUMENT', `there is no open sequence ${id}`, { details: { sequence: id } });
    return sequence;
  }

  /** Opens what `make` gives; where that would be one too many, it is not called: ERR_LIMIT. */
  add(make: (id: SequenceId) => S): SequenceId {
    if (this.#open.size >= this.most) {
      throw new LowbitError('ERR_LIMIT', `${this.most} sequences are open already`, {
        hint: 'Close one, or load with a larger maxSequences.',
        details: { limit: this.most },
      });
    }
    const id = this.#next as SequenceId;
    this.#open.set(id, make(id));
    this.#next++;
    return id;
  }

  /** Closes a sequence; what it was. */
  remove(id: SequenceId): S {
    const sequence = this.get(id);
    this.#open.delete(id);
    return sequence;
  }

  /** Closes all; what they were. */
  clear(): S[] {
    const all = [...this.#open.values()];
    this.#open.clear();
    return all;
  }
}
