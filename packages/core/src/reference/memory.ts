// Counts the bytes that a backend holds, by whoever holds them.

/** Bytes held now. Every `take` is paired with a `give` of the same size. */
export interface Memory {
  readonly allocated: () => number;
  take(bytes: number): void;
  give(bytes: number): void;
}

export function createMemory(): Memory {
  let held = 0;
  return {
    allocated: () => held,
    take(bytes) {
      held += bytes;
    },
    give(bytes) {
      held -= bytes;
    },
  };
}
