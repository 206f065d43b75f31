// Weights that are kept on the host, or parts of them, come to the device while the launches before those that need them run. Two slots take turns: into one
// the next comes while the other is read. Kernels find them by headers of their own, which lie on the device.

import type { Argument, BufferHandle, Launch, PrefetchSpec } from './binding.ts';

/** What a weight has on the host. */
export interface HostPart {
  readonly buffer: BufferHandle;
  readonly bytes: number;
  /** The weight's header for those bytes at another address. */
  header(at: bigint): Uint8Array;
}

export interface PrefetchedLinear {
  readonly buffer: BufferHandle;
  readonly hostPart?: HostPart | undefined;
}

interface Room {
  /** Memory of the device. */
  slot(bytes: number): BufferHandle;
  header(bytes: Uint8Array): BufferHandle;
  addressOf(buffer: BufferHandle): bigint;
}

/** Weights that are needed together. */
interface Turn {
  readonly linears: PrefetchedLinear[];
  first: number;
  last: number;
  bytes: number;
}

/** Every slot begins at a multiple. */
const ALIGNED = 256;
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNED) * ALIGNED;

/** Launches from the first to the last that need a weight: more, and it is one that several layers share, which is read over the bus. */
const MOST_LAUNCHES = 64;
/** Reads single rows: tables of embeddings are read over the bus, also where they are the last layer, too. */
const ROW_READER = 'look_up';

/** Launches that read what is brought from slots, and what is to be brought when. Weights that it cannot bring are read over the bus, as before. */
export function prefetched(
  launches: readonly Launch[],
  buffers: readonly BufferHandle[],
  linears: readonly PrefetchedLinear[],
  room: Room,
): { readonly launches: readonly Launch[]; readonly buffers: readonly BufferHandle[]; readonly prefetch: readonly PrefetchSpec[] } {
  const turns = turnsOf(launches, buffers, linears);
  if (turns.length === 0) return { launches, buffers, prefetch: [] };
  const all = [...buffers];
  const add = (buffer: BufferHandle): number => all.push(buffer) - 1;
  const bytes = turnBytes(turns);
  const slots = turns.length === 1 ? [room.slot(bytes)] : [room.slot(bytes), room.slot(bytes)];
  const places = slots.map(add);
  const headers = new Map<number, number>();
  const prefetch: PrefetchSpec[] = [];
  for (const [i, { linears: members, first, last }] of turns.entries()) {
    let at = 0;
    for (const { buffer, hostPart } of members) {
      const header = room.header(hostPart!.header(room.addressOf(slots[i % 2]!) + BigInt(at)));
      headers.set(buffers.indexOf(buffer), add(header));
      prefetch.push({
        ...{ from: add(hostPart!.buffer), to: places[i % 2]!, fromOffset: 0, toOffset: at, bytes: hostPart!.bytes },
        ...{ ready: first, last, after: i < 2 ? -1 : turns[i - 2]!.last },
      });
      at += aligned(hostPart!.bytes);
    }
  }
  const moved = (argument: Argument): Argument => {
    const header = argument !== null && 'buffer' in argument ? headers.get(argument.buffer) : undefined;
    return header === undefined ? argument : { buffer: header };
  };
  return { launches: launches.map((launch) => ({ ...launch, arguments: launch.arguments.map(moved) })), buffers: all, prefetch };
}

function turnBytes(turns: readonly Turn[]): number {
  return turns.reduce((most, { bytes }) => Math.max(most, bytes), 0);
}

/** In the order in which they are needed, none before the one ahead of it is done with. */
function turnsOf(launches: readonly Launch[], buffers: readonly BufferHandle[], linears: readonly PrefetchedLinear[]): Turn[] {
  const byBuffer = new Map(linears.filter(({ hostPart }) => hostPart).map((linear) => [buffers.indexOf(linear.buffer), linear]));
  byBuffer.delete(-1); // none of the launches names it: experts, by their addresses
  const uses = new Map<number, { first: number; last: number }>();
  for (const [i, { kernel, arguments: list }] of launches.entries()) {
    for (const argument of list) {
      if (argument === null || !('buffer' in argument) || !byBuffer.has(argument.buffer)) continue;
      if (kernel === ROW_READER || argument.offset)
        byBuffer.delete(argument.buffer); // not by its header
      else uses.set(argument.buffer, { first: uses.get(argument.buffer)?.first ?? i, last: i });
    }
  }
  const turns: Turn[] = [];
  for (const [index, { first, last }] of [...uses].sort(([, a], [, b]) => a.first - b.first)) {
    const linear = byBuffer.get(index);
    if (!linear || last - first > MOST_LAUNCHES) continue;
    const bytes = aligned(linear.hostPart!.bytes);
    const before = turns.at(-1);
    if (before && first <= before.last) {
      before.linears.push(linear);
      before.last = Math.max(before.last, last);
      before.bytes += bytes;
    } else turns.push({ linears: [linear], first, last, bytes });
  }
  return turns;
}
