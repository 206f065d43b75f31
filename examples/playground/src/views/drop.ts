// What was dropped on the page, as a source.

import type { Source } from '../protocol.ts';

type WithHandle = DataTransferItem & { getAsFileSystemHandle?(): Promise<FileSystemHandle | null> };

/** A dropped folder is read through its handle where there are such, else file by file. Items must be asked before the event ends. */
export async function droppedSource(data: DataTransfer): Promise<Source> {
  const items = [...data.items].filter(({ kind }) => kind === 'file') as WithHandle[];
  const handle = items.length === 1 ? items[0]!.getAsFileSystemHandle?.() : undefined;
  const entries = items.map((item) => item.webkitGetAsEntry());
  const plain = [...data.files];
  const opened = await handle;
  if (opened?.kind === 'directory') return { kind: 'directory', handle: opened as FileSystemDirectoryHandle };
  if (entries.every((entry) => entry === null)) return { kind: 'files', files: plain.map((file) => ({ path: file.name, file })) };
  const files: { path: string; file: File }[] = [];
  for (const entry of entries) if (entry) await collect(entry, files);
  return { kind: 'files', files };
}

/** A model has few files; a dropped home folder must not be walked for minutes. */
const MAX_FILES = 2000;

async function collect(entry: FileSystemEntry, into: { path: string; file: File }[]): Promise<void> {
  if (into.length >= MAX_FILES) return;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    into.push({ path: entry.fullPath.replace(/^\//, ''), file });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const child of some) await collect(child, into);
  }
}
