// Rotary frequencies of a sequence at a step: position embedding of arXiv:2104.09864, with the published ways to stretch it.

import type { Rope } from '../spec/program.ts';

/** Frequencies at one length. */
export interface RopeInForce {
  /** The same for all lengths with the same frequencies. */
  readonly key: string;
  /** Of cosine and sine. */
  readonly scale: number;
  /** Radians a position, of each pair of dimensions. */
  frequencies(): readonly number[];
}

/** What turns the rows of a sequence that is `length` positions long after this step. */
export function ropeInForce(rope: Rope, length: number): RopeInForce {
  switch (rope.kind) {
    case 'fixed':
      return { key: '', scale: rope.scale, frequencies: () => rope.frequencies };
    case 'long': {
      const [key, list] = length <= rope.original ? ['short', rope.short] : ['long', rope.long];
      return { key, scale: rope.scale, frequencies: () => list };
    }
    case 'dynamic': {
      // NTK-aware scaling of the base by the length reached, as transformers' `dynamic` rope type.
      const { dim, factor, original } = rope;
      const growth = length <= original ? 1 : (factor * length) / original - (factor - 1);
      const base = rope.base * growth ** (dim / (dim - 2));
      return { key: String(base), scale: 1, frequencies: () => Array.from({ length: dim / 2 }, (_, i) => base ** ((-2 * i) / dim)) };
    }
  }
}
