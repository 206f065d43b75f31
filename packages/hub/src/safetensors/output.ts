// What a sink writes into: an unfinished folder that gets its name when it is whole.

import type { FilePlan } from './build.ts';
import type { Journal, JournalRecord } from './journal.ts';

/** A file of an unfinished folder. Errors are typed. */
export interface OutputFile {
  /** All of `data` at byte `at`; the data are the caller's again when it resolves. */
  write(data: Uint8Array, at: number): Promise<void>;
  truncate(size: number): Promise<void>;
  /** Brings what was written to the disk. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** An unfinished folder: locked, with its journal. */
export interface Output {
  /** The final folder, and where the work is until `publish`, for messages and callers. */
  readonly folder: string;
  readonly partial: string;
  readonly journal: Journal;
  /** What an earlier run has committed. */
  readonly records: readonly JournalRecord[];
  /** The work had its final name already: it is never thrown away. */
  readonly reopened: boolean;
  /** Throws ERR_OUTPUT_EXISTS if the lock was lost. */
  check(): Promise<void>;
  /** Throws ERR_IO if there is less room than the files still need. Says nothing where that is not known. */
  checkSpace(files: readonly { readonly name: string; readonly layout: FilePlan }[]): Promise<void>;
  /**
   * Removes safetensors files and an index that are not among `names`. Throws ERR_JOURNAL_MISMATCH for such a file if `resumed`: committed work in other
   * shards means that the shard size changed.
   */
  dropStrangers(names: ReadonlySet<string>, run: { readonly resumed: boolean }): Promise<void>;
  /**
   * Creates a file of its full size with its header. `resumed`: it must be there from the run before, with just that header; otherwise
   * ERR_JOURNAL_MISMATCH.
   */
  prepareFile(name: string, layout: FilePlan, run: { readonly resumed: boolean }): Promise<OutputFile>;
  /** Opens a file that is there. */
  openFile(name: string): Promise<OutputFile>;
  /** Writes a whole file, durably. */
  putFile(name: string, data: Uint8Array): Promise<void>;
  /** Makes the names of files durable. */
  sync(): Promise<void>;
  /** Gives the folder its final name. All files are closed, and so is the journal. */
  publish(): Promise<void>;
  /** Removes what only the unfinished folder needed. */
  tidy(): Promise<void>;
  /** Removes the unfinished folder. */
  drop(): Promise<void>;
  /** Gives the lock back. */
  release(): Promise<void>;
}
