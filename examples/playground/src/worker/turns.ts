// Calls that replace what is open, one after another: two at a time would both close what was there, and one would be forgotten with all its memory.

/** Gives a function that runs what it is given in turns. One that is aborted while it waits never begins. */
export function takeTurns(): <T>(work: () => Promise<T>, signal: AbortSignal) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (work, signal) => {
    const turn = last.then(() => {
      signal.throwIfAborted();
      return work();
    });
    last = turn.catch(() => {}); // the caller hears of it
    return turn;
  };
}
