// The safetensors files of an output while they are being filled: where each tensor lies, and which bytes are written and made durable.

import { LowbitError, quote } from '@lowbit/core';
import { addRange, firstGap, type Ranges, writtenBytes } from '../plan/ranges.ts';
import type { FilePlan } from './build.ts';
import type { TensorPlace } from './header.ts';
import type { Output, OutputFile } from './output.ts';
import { INDEX_FILE, type PlannedFile, type SafetensorsPlan } from './shards.ts';

interface OpenFile {
  readonly name: string;
  readonly layout: FilePlan;
  readonly file: OutputFile;
  /** Bytes written, and those of them that no commit has claimed yet. */
  readonly written: Ranges;
  fresh: Ranges;
}

/** A tensor's file, and its bytes there. */
export interface Placed {
  readonly name: string;
  readonly file: OpenFile;
  readonly place: TensorPlace;
}

export interface OutputFiles {
  /** Files and index with the sizes that are known now; grows and changes in place. */
  readonly planned: readonly PlannedFile[];
  /** In the order of the plan, with which they were opened. */
  handles(): readonly OutputFile[];
  /** Creates or takes over all files of the plan, and writes its index. */
  open(plan: SafetensorsPlan): Promise<void>;
  /** Throws ERR_TENSOR_MISMATCH for a name that the plan does not have. */
  find(name: string): Placed;
  /** Throws ERR_BAD_ARGUMENT for data that do not fit. */
  write(placed: Placed, at: number, data: Uint8Array): Promise<void>;
  /** Makes durable what was written since the last call; resolves to its ranges by file. */
  flushFresh(): Promise<Readonly<Record<string, Ranges>>>;
  /** Throws ERR_BAD_ARGUMENT, naming a tensor, if bytes are missing. Late tensors are not looked at. */
  checkComplete(): void;
  /** Writes the index of the final plan, if it has one, and takes over its sizes. */
  settle(final: SafetensorsPlan): Promise<void>;
  flush(): Promise<void>;
  /** Never rejects. */
  close(): Promise<void>;
}

export function createOutputFiles(output: Output): OutputFiles {
  const files: OpenFile[] = [];
  const places = new Map<string, Placed>();
  const planned: PlannedFile[] = [];

  async function open(plan: SafetensorsPlan): Promise<void> {
    const run = { resumed: output.records.length > 0 };
    await output.checkSpace(plan.files);
    await output.dropStrangers(new Set(plan.files.map(({ name }) => name)), run);
    for (const { name, layout } of plan.files) {
      const file: OpenFile = { name, layout, file: await output.prepareFile(name, layout, run), written: [], fresh: [] };
      files.push(file);
      planned.push({ name, bytes: layout.size });
      for (const [tensor, place] of layout.tensors) places.set(tensor, { name: tensor, file, place });
    }
    for (const { wrote } of output.records) {
      for (const file of files) for (const [from, to] of wrote[file.name] ?? []) addRange(file.written, from, to);
    }
    await putIndex(plan);
    await output.sync();
  }

  /** The index comes after all files in the list. */
  async function putIndex({ index, files: { length } }: SafetensorsPlan): Promise<void> {
    if (index === undefined) return;
    await output.putFile(INDEX_FILE, index);
    planned[length] = { name: INDEX_FILE, bytes: index.byteLength };
  }

  return {
    planned,
    handles: () => files.map(({ file }) => file),
    open,
    find(name) {
      const found = places.get(name);
      if (found !== undefined) return found;
      throw new LowbitError('ERR_TENSOR_MISMATCH', `no tensor ${quote(name)} was reserved`, { details: { tensor: name } });
    },
    async write({ name, file, place }, at, data) {
      const [from, to] = writtenBytes(name, place, at, data.byteLength).map((byte) => place.start + byte) as [number, number];
      await file.file.write(data, from);
      // Marked after the write: a sync that starts earlier must not claim it.
      addRange(file.written, from, to);
      addRange(file.fresh, from, to);
    },
    async flushFresh() {
      const wrote: Record<string, Ranges> = {};
      const dirty = files.filter((file) => file.fresh.length > 0);
      for (const file of dirty) {
        wrote[file.name] = file.fresh;
        file.fresh = [];
      }
      await Promise.all(dirty.map((file) => file.file.flush()));
      return wrote;
    },
    checkComplete() {
      for (const file of files) checkFile(file);
    },
    async settle(final) {
      for (const [i, { name, layout }] of final.files.entries()) planned[i] = { name, bytes: layout.size };
      await putIndex(final);
    },
    async flush() {
      await Promise.all(files.map(({ file }) => file.flush()));
    },
    async close() {
      await Promise.allSettled(files.map(({ file }) => file.close()));
    },
  };
}

function checkFile(file: OpenFile): void {
  const gap = firstGap(file.written, file.layout.header.byteLength, file.layout.lateStart);
  if (gap === undefined) return;
  for (const [name, { start, end }] of file.layout.tensors) {
    if (gap < start || gap >= end) continue;
    throw new LowbitError(
      'ERR_BAD_ARGUMENT',
      `${quote(name)} was not written completely: byte ${gap - start} of ${end - start} is missing`,
      {
        hint: 'Every reserved tensor must be written before close.',
        details: { tensor: name, file: file.name },
      },
    );
  }
}
