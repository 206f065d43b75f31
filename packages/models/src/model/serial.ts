/** Runs asynchronous bodies one after another, in the order they were handed in. A failure is its own caller's only. */
export function serial(): <T>(body: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (body) => {
    const result = last.then(body, body);
    last = result.catch(() => undefined);
    return result;
  };
}
