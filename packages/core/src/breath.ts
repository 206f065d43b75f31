// Letting the event loop run during long computations, so that timers, signals and other requests are served.

/**
 * A function to call often: it gives a promise to wait for when `ms` have passed since the event loop last ran here, else nothing.
 *
 * @example
 * const breathe = breather();
 * for (const item of work) { compute(item); await breathe(); }
 */
export function breather(ms = 30): () => Promise<void> | undefined {
  let rested = performance.now();
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
