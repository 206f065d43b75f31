// The parts of browsers' interfaces that are used here, by shape: TypeScript's own library of the DOM is neither needed nor asked of users, and what
// browsers hand out fits.

/** A Blob or a File. */
export interface BlobLike {
  readonly size: number;
  slice(from: number, to: number): BlobLike;
  arrayBuffer(): Promise<ArrayBuffer>;
}

export interface FileLike extends BlobLike {
  readonly name: string;
  readonly lastModified: number;
  /** `folder/name` where a folder was chosen. */
  readonly webkitRelativePath?: string;
}

export interface WritableFileLike {
  write(chunk: { readonly type: 'write'; readonly position: number; readonly data: Uint8Array }): Promise<void>;
  truncate(size: number): Promise<void>;
  close(): Promise<void>;
}

export interface SyncAccessHandleLike {
  read(into: Uint8Array, options: { readonly at: number }): number;
  write(data: Uint8Array, options: { readonly at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** A FileSystemDirectoryHandle, to be read. */
export interface DirectoryHandleLike {
  readonly name: string;
  getFileHandle(name: string): Promise<{ getFile(): Promise<FileLike> }>;
  getDirectoryHandle(name: string): Promise<DirectoryHandleLike>;
  values(): AsyncIterable<{ readonly kind: 'file' | 'directory'; readonly name: string }>;
}

/** A file of the private file system. */
export interface PrivateFileLike {
  getFile(): Promise<FileLike>;
  createWritable?(options?: { readonly keepExistingData?: boolean }): Promise<WritableFileLike>;
  /** In workers only. */
  createSyncAccessHandle?(): Promise<SyncAccessHandleLike>;
}

export interface PrivateDirectoryLike extends DirectoryHandleLike {
  getFileHandle(name: string, options?: { readonly create?: boolean }): Promise<PrivateFileLike>;
  getDirectoryHandle(name: string, options?: { readonly create?: boolean }): Promise<PrivateDirectoryLike>;
  removeEntry(name: string, options?: { readonly recursive?: boolean }): Promise<void>;
}

export interface CacheLike {
  match(url: string): Promise<{ blob(): Promise<BlobLike> } | undefined>;
  put(url: string, response: unknown): Promise<void>;
  delete(url: string): Promise<boolean>;
  keys(): Promise<readonly { readonly url: string }[]>;
}

interface LockOptions {
  readonly mode: 'exclusive' | 'shared';
  readonly ifAvailable: true;
}

interface Browser {
  readonly navigator?: {
    readonly storage?: {
      getDirectory?(): Promise<PrivateDirectoryLike>;
      estimate?(): Promise<{ readonly usage?: number; readonly quota?: number }>;
      persist?(): Promise<boolean>;
    };
    readonly locks?: { request(name: string, options: LockOptions, held: (lock: object | null) => Promise<void> | void): Promise<void> };
  };
  readonly caches?: { open(name: string): Promise<CacheLike> };
  readonly location?: { readonly href: string };
}

export const browser: Browser = globalThis as unknown as Browser;
