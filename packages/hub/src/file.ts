// A file that is read in pieces, wherever it is: on a disk, among what was dropped on a page, in a browser's store, or on a server.

/** A file that is read in ranges. */
export interface RandomFile {
  /** For messages: a path or an address. */
  readonly path: string;
  /** Name without folders, for messages. */
  readonly name: string;
  /** Bytes when it was opened. */
  readonly size: number;
  /** See `FileSource`. */
  readonly state: string | undefined;
  /** Bytes take time to come, so none are read that nobody asked for. Default false. */
  readonly far?: boolean;
  /**
   * Fills `into` from byte `at` of the file; resolves to the number of bytes read, which is less only at the end of the file. All bytes up to `until` are
   * about to be asked for: a file that is far away may fetch them along. Throws ERR_IO.
   */
  read(into: Uint8Array, at: number, signal?: AbortSignal, until?: number): Promise<number>;
  close(): Promise<void>;
}

/** Opens one file of a source. */
export type OpenFile = (signal: AbortSignal | undefined) => Promise<RandomFile>;
