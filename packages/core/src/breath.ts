// Letting the event loop run during long computations, so that timers, signals and other requests are served.

/** When the event loop last ran, as far as this module knows: shared, so that many short computations in a row yield as one long one does. */
let rested = performance.now();

/**
 * A function to call often: it gives a promise to wait for when `ms` have passed since the event loop last ran here, else nothing.
 *
 * @example
 * const breathe = breather();
 * for (const item of work) { compute(item); await breathe(); }
 */
export function breather(ms = 30): () => Promise<void> | undefined {
  return () => {
    if (performance.now() - rested < ms) return undefined;
    return new Promise((resolve) =>
      setTimeout(() => {
        rested = performance.now();
        resolve();
      }, 0),
    );
  };
}
