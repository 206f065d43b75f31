// What a command may touch of the world: results on stdout, remarks and progress on stderr, and the signal of Ctrl-C.

import pc from 'picocolors';
import { isBrokenPipe, OutputError } from './errors.ts';
import { createProgress, type Progress } from './progress.ts';

/** Options that every command has. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
}

export interface Context {
  readonly json: boolean;
  readonly quiet: boolean;
  /** Aborted by Ctrl-C, unless a handler took it. */
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** Bold text on stdout, where that is a terminal. */
  readonly bold: (text: string) => string;
  /** Dim text on stderr, where that is a terminal. */
  readonly dim: (text: string) => string;
  /** Writes a result to stdout; settles when more can be written. */
  print(text: string): Promise<void>;
  /** The one result of a command under --json. */
  emit(value: unknown): Promise<void>;
  /** A remark on stderr; nothing with --quiet or --json. */
  note(text: string): void;
  /** Takes Ctrl-C over until the returned function is called; a handler that returns false passes it on. */
  onInterrupt(handler: () => boolean): () => void;
}

export interface Interrupts {
  readonly signal: AbortSignal;
  onInterrupt(handler: () => boolean): () => void;
}

/** Whether a stream shows colours: terminals do, unless NO_COLOR or TERM says otherwise. */
export function colored(stream: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  return stream.isTTY === true && !env.NO_COLOR && env.TERM !== 'dumb';
}

/** The context of a command that runs in this process. */
export function createContext(options: CommonOptions, interrupts: Interrupts): Context {
  const { json = false, quiet = false } = options;
  const { stdout, stderr } = process;
  const progress = createProgress({ stream: stderr, silent: json || quiet });
  const print = (text: string): Promise<void> => {
    progress.clear();
    // Every write waits for its callback: the next step of a generation must leave the event loop a turn, in which Ctrl-C is seen.
    return new Promise((resolve, reject) =>
      stdout.write(text, (error) => {
        if (error) reject(isBrokenPipe(error) ? error : new OutputError(error));
        else setImmediate(resolve);
      }),
    );
  };
  return {
    json,
    quiet,
    ...interrupts,
    progress,
    bold: pc.createColors(colored(stdout)).bold,
    dim: pc.createColors(colored(stderr)).dim,
    print,
    emit: (value) => print(`${JSON.stringify(value, null, 2)}\n`),
    note(text) {
      if (json || quiet) return;
      progress.clear();
      stderr.write(`${text}\n`);
    },
  };
}
