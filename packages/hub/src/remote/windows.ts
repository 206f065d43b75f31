// What was fetched of remote files and is not used up yet. Weights are read in pieces of half a megabyte; a request for each would spend its time on the way.
// So the first piece of a tensor fetches more of it, up to its end, and the window after that is on its way while one is used. Nothing is fetched that was
// not said to be wanted. Some quantizers read the beginning of a weight again: windows stay until others need their place, those first that were read to
// their end.

/** Bytes of one request. */
const WINDOW = 8 << 20;
/** Windows that are kept, those on their way among them; beyond that the oldest is dropped. */
const MOST = 4;

interface Window {
  readonly file: object;
  readonly from: number;
  readonly to: number;
  readonly bytes: Promise<Uint8Array>;
  readonly stop: AbortController;
  /** Bytes of it that were given out. */
  used: number;
  /** Reads that wait for it or copy from it. */
  readers: number;
}

export interface Windows {
  /** Fills `into` from byte `at` of a file, of which the bytes up to `until` are wanted, too, and fetched by `fetch`. */
  read(file: object, into: Uint8Array, at: number, until: number, fetch: FetchBytes, signal: AbortSignal | undefined): Promise<void>;
  /** Ends what is on its way for a file. */
  drop(file: object): void;
}

export type FetchBytes = (from: number, to: number, signal: AbortSignal) => Promise<Uint8Array>;

export function createWindows(): Windows {
  const windows: Window[] = [];

  function open(file: object, from: number, to: number, fetch: FetchBytes): Window {
    const stop = new AbortController();
    const window: Window = { file, from, to, bytes: fetch(from, to, stop.signal), stop, used: 0, readers: 0 };
    window.bytes.catch(() => remove(window)); // who reads it hears of it
    // Before it is kept: one that nobody waits for gives way.
    while (windows.length >= MOST) {
      const idle = windows.filter(({ readers }) => readers === 0);
      const oldest = idle.find(({ used, from, to }) => used >= to - from) ?? idle[0];
      if (oldest === undefined) break;
      remove(oldest);
    }
    windows.push(window);
    return window;
  }

  function remove(window: Window): void {
    const at = windows.indexOf(window);
    if (at >= 0) windows.splice(at, 1);
    window.stop.abort(new Error('dropped'));
  }

  const covering = (file: object, at: number): Window | undefined =>
    windows.find((window) => window.file === file && window.from <= at && at < window.to);

  /** Where a window from `from` on ends: at most at `last`, and where another one begins. */
  function free(file: object, from: number, last: number): number {
    const begins = windows.filter((window) => window.file === file && window.from > from).map((window) => window.from);
    return Math.min(last, from + WINDOW, ...begins);
  }

  async function read(
    file: object,
    into: Uint8Array,
    at: number,
    until: number,
    fetch: FetchBytes,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const end = at + into.byteLength;
    const last = Math.max(end, until);
    for (let next = at; next < end; ) {
      const window = covering(file, next) ?? open(file, next, free(file, next, last), fetch);
      window.readers++;
      try {
        if (window.to < last && covering(file, window.to) === undefined) open(file, window.to, free(file, window.to, last), fetch);
        const bytes = await unlessAborted(window.bytes, signal);
        const to = Math.min(end, window.to);
        into.set(bytes.subarray(next - window.from, to - window.from), next - at);
        window.used += to - next;
        next = to;
      } finally {
        window.readers--;
      }
    }
  }

  return {
    read,
    drop(file) {
      for (const window of windows.filter((window) => window.file === file)) remove(window);
    },
  };
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const stop = (): void => reject(signal.reason);
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}
