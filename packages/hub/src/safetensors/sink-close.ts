// How an output ends: closed, with its final name, or disposed, with what can be resumed left behind.

import type { Json } from '@lowbit/core';
import type { Commits } from './commits.ts';
import { type LateWork, settleLate } from './late.ts';
import type { Output } from './output.ts';
import type { OutputFiles } from './output-files.ts';
import type { ShardOptions } from './shards.ts';
import type { SinkState } from './sink-state.ts';

/** What a sink is made of. */
export interface SinkParts {
  readonly output: Output;
  readonly files: OutputFiles;
  readonly state: SinkState;
  readonly commits: Commits;
  /** Notes of durable units. */
  readonly done: ReadonlyMap<string, Json>;
  /** Undefined until `reserve`, and if no tensor is late. */
  late: LateWork | undefined;
}

export async function closeSink(parts: SinkParts, options: ShardOptions): Promise<void> {
  const { output, state, commits } = parts;
  state.check('reserved');
  state.now = 'closing';
  try {
    await commits.idle();
    await makeDurable(parts, options);
  } catch (error) {
    state.now = 'reserved'; // what was missing can still be written
    throw error;
  }
  await closeHandles(parts);
  // Everything is on the disk. Whatever happens now, this work is not thrown away: the journal goes last, so it can be resumed.
  state.now = 'finished';
  await output.publish();
  state.now = 'closed';
  try {
    await output.tidy();
  } finally {
    await output.release();
  }
}

/** Checks that every tensor is there, and brings files into their final state and onto the disk. */
async function makeDurable({ output, files, state, late }: SinkParts, options: ShardOptions): Promise<void> {
  state.checkWhole();
  files.checkComplete();
  late?.tensors.lengths();
  await output.check();
  if (late !== undefined) {
    // Files between two states, which only a resume mends.
    await state.breaking(async () => files.settle(await settleLate(late, files.handles(), output.journal, options)));
  }
  await files.flush();
  await output.sync();
}

/** Keeps the unfinished folder if it has its name or had it already, or if `keepPartial` and there is a commit to go on from. */
export async function disposeSink(parts: SinkParts, { keepPartial }: { readonly keepPartial: boolean }): Promise<void> {
  const { output, state, commits, done } = parts;
  if (state.now === 'closed' || state.now === 'disposed') return;
  const finished = state.now === 'finished'; // only its name is missing: kept for a resume
  state.now = 'disposed';
  try {
    await commits.idle();
    await closeHandles(parts);
    // Without a commit there is nothing to go on with.
    if (finished || output.reopened || (keepPartial && done.size > 0)) return;
    await output.check();
    await output.drop();
  } finally {
    await output.release();
  }
}

async function closeHandles({ output, files }: SinkParts): Promise<void> {
  await Promise.allSettled([output.journal.close(), files.close()]);
}
