// Giving back several things of which one may fail: all are tried, and no failure is lost.

/**
 * Runs every step in reverse order (last made, first gone), whatever fails on the way, then throws what failed: the error itself if there was
 * one, an AggregateError for several.
 */
export async function disposeAll(steps: readonly (() => void | PromiseLike<void>)[]): Promise<void> {
  const errors: unknown[] = [];
  for (const step of [...steps].reverse()) {
    try {
      await step();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length === 1) throw errors[0];
  if (errors.length > 1) throw new AggregateError(errors, `${errors.length} failures while giving memory back`);
}
